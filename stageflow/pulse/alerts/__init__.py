"""Alerts: rules as data, files for Prometheus made of them, and an evaluator that needs none."""
