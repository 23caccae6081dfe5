"""The run directory: configuration, rounds, summary, checkpoint, report."""
