"""Everything that touches Flower's types; its private modules only in compat.py."""
