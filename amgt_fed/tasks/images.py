"""MNIST and Fashion-MNIST: ten classes of grey images, 28 x 28; a CNN."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from amgt_fed.tasks.base import Examples, Task, TaskSettings
from amgt_fed.tasks.datasets import read_idx
from amgt_fed.tasks.facts import Reference
from amgt_fed.tasks.natural import refuse_unknown

_DEFAULTS: dict[str, bool | int | float | str] = {
    "rounds": 50,
    "partition.num_clients": 100,
    "federation.clients_per_round": 10,
    "client.epochs": 1,
    "client.batch_size": 32,
    "client.lr": 0.002,
    "client.lr_decay": 0.02,
    "codec.uplink_budget": "nmse=0.3",
    "codec.downlink_budget": "nmse=0.3",
    "baseline.lr": 0.1,
}


class ImageCNN(nn.Module):
    """Two 5 x 5 convolutions and two dense layers: 114,314 parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 16, 5, padding=2)
        self.conv2 = nn.Conv2d(16, 32, 5, padding=2)
        self.fc1 = nn.Linear(32 * 7 * 7, 64)
        self.fc2 = nn.Linear(64, 10)

    def forward(self, images: Tensor) -> Tensor:
        """Scores (batch, 10) of grey levels 0..255, (batch, 28, 28), of any number type."""
        # The parameters' own type: a certificate runs the model in float64.
        hidden = images.to(self.conv1.weight.dtype).unsqueeze(1) / 255.0 - 0.5
        hidden = nn.functional.max_pool2d(torch.relu(self.conv1(hidden)), 2)
        hidden = nn.functional.max_pool2d(torch.relu(self.conv2(hidden)), 2)
        return self.fc2(torch.relu(self.fc1(hidden.flatten(1))))  # type: ignore[no-any-return]


class _Images(Task):
    folder: ClassVar[str]

    def __init__(self, settings: TaskSettings) -> None:
        super().__init__(settings)
        refuse_unknown(settings)

    def model(self) -> nn.Module:
        """An `ImageCNN`."""
        return ImageCNN()

    def train_data(self) -> Examples:
        """60,000 images (28, 28), bytes, with their labels."""
        return self._read("train")

    def test_data(self) -> Examples:
        """10,000 images."""
        return self._read("t10k")

    def _read(self, part: str) -> Examples:
        # Bytes, a quarter of the floats: each process of a run holds all of them.
        images = read_idx(self.settings.data_dir, f"{self.folder}/{part}-images-idx3-ubyte.gz")
        labels = read_idx(self.settings.data_dir, f"{self.folder}/{part}-labels-idx1-ubyte.gz")
        return Examples(torch.from_numpy(images), torch.from_numpy(labels).long())


class MNIST(_Images):
    """Handwritten digits, 28 x 28; label-skewed clients."""

    name: ClassVar[str] = "mnist"
    folder: ClassVar[str] = "mnist"
    defaults: ClassVar[Mapping[str, bool | int | float | str]] = _DEFAULTS
    reference: ClassVar[Reference | None] = Reference(
        "accuracy", 0.9888, "python benchmarks/centralised.py --task mnist"
    )


class FashionMNIST(_Images):
    """Pieces of clothing, 28 x 28; label-skewed clients."""

    name: ClassVar[str] = "fashion-mnist"
    folder: ClassVar[str] = "fashion_mnist"
    defaults: ClassVar[Mapping[str, bool | int | float | str]] = _DEFAULTS
    reference: ClassVar[Reference | None] = Reference(
        "accuracy", 0.9043, "python benchmarks/centralised.py --task fashion-mnist"
    )
