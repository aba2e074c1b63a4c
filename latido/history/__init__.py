"""`latido history`: the process table of a host as it was at a moment, and one process through time.

`reader` holds the SQL, `rebuild` and `follow` what the rows mean, `groups` and `owner` how they are summed and
whose they are, `text` and `export` how they are written, `moments` what `--at` may say. `program` is the command.
"""
