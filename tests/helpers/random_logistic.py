"""An l2-regularised logistic regression on data drawn from the task's own seed."""

from __future__ import annotations

import torch

from amgt_fed import Examples
from amgt_fed.tasks.logistic import RegularisedLogistic


class RandomLogistic(RegularisedLogistic):
    """Three classes, 8 features of very different sizes, 240 examples."""

    default_mu = 0.003
    classes = 3

    def train_data(self) -> Examples:
        generator = torch.Generator().manual_seed(self.settings.seed)
        inputs = torch.randn(240, 8, generator=generator) * torch.logspace(-1.5, 0.5, 8)
        scores = inputs @ torch.randn(8, 3, generator=generator) + torch.randn(240, 3, generator=generator)
        return Examples(inputs, scores.argmax(1))

    def test_data(self) -> Examples:
        return self.train_data()
