"""One short file a circuit."""
