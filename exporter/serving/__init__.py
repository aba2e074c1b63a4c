"""How the exporter is reached: addresses, TLS, passwords, and what a client may cost.

`--web.config.file` has the format of Prometheus's exporter-toolkit, so that a file written for another exporter works.
"""
