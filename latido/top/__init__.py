"""`latido top`: the bridge's live feed in a terminal, for people over ssh.

`frames` reads the wire, `fleet` keeps the newest of every host, `view` says what keys do, `paint` makes lines of it:
all pure. `client` is the WebSocket, `screen` the terminal, `program` wires them.
"""
