"""What stages call: ports, the registry that holds their providers, and deterministic fakes."""
