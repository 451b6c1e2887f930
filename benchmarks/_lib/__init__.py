"""Helpers of the benchmarks. asv imports them too, so nothing here looks like a benchmark."""
