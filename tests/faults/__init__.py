"""The fault campaign: the real programs under a drawn schedule of faults, and a count of every sample at the end.

`python -m tests.faults --help` runs it. `schedule` draws the faults from a seed, `stack` holds the programs and does
to them what the schedule says, `hosts` makes the /proc that the exporters read, `links` are the TCP proxies between
the parts, `ledger` keeps what the wire carried, `checks` holds ledger, database and spools together.
"""
