"""Providers fail, turns survive."""
