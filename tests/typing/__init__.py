"""What the types of the public API promise."""
