"""What holds the dashboards to their word: Grafana's expansions, a stack under load, every query run, pictures, times.

`python -m grafana.checks draw` and `time` are for people; the tests beside use the same parts.
"""
