"""Jobs over a real broker, by real worker processes."""
