"""The model to metric families: one module a feed, and a driver that isolates them."""
