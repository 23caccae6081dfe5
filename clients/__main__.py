"""`python -m clients` is `amgt-client`."""

from .cli import main

main()
