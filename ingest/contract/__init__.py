"""The ingest contract: wire types, limits, problem types and tokens, which both APIs and every client share.

It imports nothing else of Latido, no web framework and no database library: an exporter that imports it stays small.
"""
