"""One trial in one process, or in one for each of its ranks."""
