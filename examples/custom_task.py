"""Your own model and data: amgt-fed run --task custom_task:Wine --clients 6 --per-round 6 --set client.lr=0.01

Run it from this folder, or put the folder on PYTHONPATH.
"""

import torch
from sklearn.datasets import load_wine
from torch import nn

from amgt_fed import Examples, Task


class Wine(Task):
    """178 wines, 13 measurements, 3 growers: a small dense net."""

    name = "wine"

    def model(self) -> nn.Module:
        return nn.Sequential(nn.Linear(13, 32), nn.ReLU(), nn.Linear(32, 3))

    def train_data(self) -> Examples:
        return self._wines(lambda row: row % 4 != 0)

    def test_data(self) -> Examples:
        return self._wines(lambda row: row % 4 == 0)

    def _wines(self, wanted) -> Examples:
        measured, grower = load_wine(return_X_y=True)
        scaled = (measured - measured.mean(0)) / measured.std(0)
        rows = [row for row in range(len(grower)) if wanted(row)]
        return Examples(torch.tensor(scaled[rows], dtype=torch.float32), torch.tensor(grower[rows]))
