"""The engine, one module at a time."""
