"""Every parser of what others wrote, fuzzed."""
