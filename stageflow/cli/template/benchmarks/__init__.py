"""The benchmarks of newproject."""
