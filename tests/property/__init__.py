"""What holds for every input, tried with generated ones."""
