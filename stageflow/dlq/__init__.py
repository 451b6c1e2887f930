"""Dead letters: what is kept of runs that failed for good, and how they are taken up again."""
