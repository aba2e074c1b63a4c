"""Group rules of the user's: a YAML file becomes a function from a process table to groups."""
