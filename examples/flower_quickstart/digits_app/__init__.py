"""Digits on Flower, in the shape of its quickstart."""
