"""The gate: measures two commits, judges the difference and the budgets, and says which failed.

`judge` is pure; what it reads is measured by `measure` (asv) and `pairs` (interleaved timings).
"""
