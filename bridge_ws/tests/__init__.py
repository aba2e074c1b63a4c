"""Tests of the bridge: the real program, a real MariaDB, real WebSocket clients."""
