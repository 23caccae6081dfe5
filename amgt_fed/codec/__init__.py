"""Fewest bytes for a given, measured error: pure functions over flat float32 vectors."""
