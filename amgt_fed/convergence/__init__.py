"""What the proofs give, as pure functions, and the tracker that applies them to a run."""
