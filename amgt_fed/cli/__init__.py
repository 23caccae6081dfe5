"""The command `amgt-fed`: a thin layer over the library."""

from amgt_fed.cli.main import main

__all__ = ["main"]
