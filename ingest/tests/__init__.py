"""Tests of the contract, the schema and the two APIs, which run as real programs over a real database."""
