"""The sources: each yields the model of `exporter.model`, by its own way into the kernel."""
