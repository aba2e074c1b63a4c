"""The exporter: one read of the kernel becomes a Prometheus scrape and a pushed history."""
