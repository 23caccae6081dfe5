"""Experiments: what is claimed, computed again, with tables, figures and a page."""
