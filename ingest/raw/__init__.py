"""The ingest API built for speed: aiohttp, typed msgspec decode, hand-built multi-row statements, group commit."""
