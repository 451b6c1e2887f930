"""Helpers of the benchmarks; asv finds no benchmark here."""
