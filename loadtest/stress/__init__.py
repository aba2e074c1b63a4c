"""Load on this machine, to see it arrive in the exporter's metrics: CPU, memory, a storm of forks, I/O."""
