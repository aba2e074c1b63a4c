"""What is deployed, as containers: `make containers` runs it, for it builds images and takes a quarter of an hour."""
