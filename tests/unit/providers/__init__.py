"""Providers, fakes, and providers around providers."""
