"""Events and their dispatcher."""
