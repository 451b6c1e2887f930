"""What every stage owes to the engine and its users."""
