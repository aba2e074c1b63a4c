"""Benchmarks: each measures ours and the real alternative in the same interleaved run, and prints their ratio."""
