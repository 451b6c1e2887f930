"""The contract that every stage keeps towards the engine and its users."""
