"""The promises of the public API's types."""
