"""Dead letters: codec, stores, capture and replay."""
