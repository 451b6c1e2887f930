"""The gate compared with itself: how often it is wrong about code of which the truth is known."""
