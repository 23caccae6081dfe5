"""A task that trains in a millisecond, for tests that run whole federations, in this process or in others."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from amgt_fed import Examples, Task


class Tiny(Task):
    """Three classes of points; 1,027 parameters, enough for encoded steps to be smaller than the model."""

    def model(self) -> nn.Module:
        return nn.Sequential(nn.Linear(4, 128), nn.ReLU(), nn.Linear(128, 3))

    def train_data(self) -> Examples:
        return self._points(120, seed=0)

    def test_data(self) -> Examples | None:
        return self._points(60, seed=1)

    def _points(self, count: int, seed: int) -> Examples:
        generator = torch.Generator().manual_seed(seed)
        labels = torch.arange(count) % 3
        centers = 3 * torch.eye(3, 4)
        return Examples(centers[labels] + torch.randn(count, 4, generator=generator), labels)


class Slow(Tiny):
    """Takes options.seconds for each local loss, so that a kill falls into a round."""

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        if model.training:
            time.sleep(float(self.settings.options.get("seconds", 0.02)))
        return super().loss(model, batch)


class Dropping(Tiny):
    """A model that draws from torch's global generator while it trains."""

    def model(self) -> nn.Module:
        return nn.Sequential(nn.Linear(4, 64), nn.ReLU(), nn.Dropout(0.5), nn.Linear(64, 3))


class Untested(Tiny):
    """No test data on the server."""

    def test_data(self) -> None:
        return None


class Failing(Tiny):
    """Fails where options.where says."""

    def model(self) -> nn.Module:
        if self.settings.options.get("where") == "model":
            raise ValueError("no such layer: [conv9]")
        return super().model()

    def metrics(self, model: nn.Module, batch: Any) -> Mapping[str, Tensor | float]:
        if self.settings.options.get("where") == "metrics":
            raise KeyError("f1")
        return super().metrics(model, batch)
