"""The AMGT optimizer, a torch.optim drop-in (docs/optimizer.md)."""

from amgt_fed.optimizer.amgt import AMGT
from amgt_fed.optimizer.errors import InvalidBudget, InvalidHyperparameter, NonFiniteGradient, UnsupportedTensor
from amgt_fed.optimizer.threshold import hard_threshold

__all__ = [
    "AMGT",
    "InvalidBudget",
    "InvalidHyperparameter",
    "NonFiniteGradient",
    "UnsupportedTensor",
    "hard_threshold",
]
