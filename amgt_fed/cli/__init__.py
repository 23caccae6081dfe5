"""The command `amgt-fed`."""
