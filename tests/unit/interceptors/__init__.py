"""Each interceptor by itself."""
