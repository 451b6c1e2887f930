"""Properties of every input, tried with generated ones."""
