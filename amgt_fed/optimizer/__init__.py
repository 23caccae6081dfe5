"""The AMGT optimizer, a torch.optim drop-in (docs/optimizer.md)."""
