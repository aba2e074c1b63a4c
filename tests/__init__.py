"""Tests of what crosses programs."""
