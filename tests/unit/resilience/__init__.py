"""Circuit breakers and the classification of errors."""
