"""What holds the dashboards to their word: Grafana's expansions, a stack under load, every query run, pictures, times.

`python -m grafana.checks.draw` makes the pictures; the tests beside use the same parts.
"""
