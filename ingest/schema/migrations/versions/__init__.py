"""The revisions, one a file, each forward and back."""
