"""`python -m server` is `amgt-server`."""

from .cli import main

main()
