"""The source that reads the kernel by a BPF program: every process in one read, and every one that ended."""
