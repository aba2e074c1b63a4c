"""Latido: what every process on every Linux host is doing now, and what it did at 03:12."""

__version__ = "0.1.0"
