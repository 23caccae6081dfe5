"""The federated round as pure functions and frozen messages; no network, no files."""
