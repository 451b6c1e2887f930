"""Helpers that several packages need and no user does."""
