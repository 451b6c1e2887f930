"""Sinks and readers."""
