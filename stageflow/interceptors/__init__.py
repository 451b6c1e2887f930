"""Middleware around stages; one module an interceptor."""
