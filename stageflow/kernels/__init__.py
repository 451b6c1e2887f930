"""Ready pipelines: a turn of a voice conversation, and one of a chat."""
