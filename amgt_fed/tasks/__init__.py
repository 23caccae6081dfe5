"""Models with their data: what a federation trains."""
