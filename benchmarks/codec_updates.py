"""Real updates for the codec's benchmark: nets trained here and now, x_before - x_after of one client's local training.

Four nets (a CNN with a large dense layer, an MLP, an LSTM and a small transformer on text), two optimizers, and an
early, a middle and a late round. Nothing is downloaded: digits come with scikit-learn, the text is Python's own source.
"""

from __future__ import annotations

import argparse
import inspect
import string
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

from amgt_fed.layout import Float32Vector, Layout


@dataclass(frozen=True, slots=True)
class Update:
    """One client's update and where it came from."""

    net: str
    optimizer: str
    stage: str
    layout: Layout
    vector: Float32Vector

    @property
    def name(self) -> str:
        return f"{self.net}/{self.optimizer}/{self.stage}"


class Cnn(nn.Module):
    """Two convolutions and a large dense layer; 151 k parameters, or 545 k without pooling."""

    def __init__(self, pool: int) -> None:
        super().__init__()
        self.c1, self.c2 = nn.Conv2d(1, 32, 3, padding=1), nn.Conv2d(32, 64, 3, padding=1)
        self.f1, self.f2 = nn.Linear(64 * (8 // pool) ** 2, 128), nn.Linear(128, 10)
        self.pool = pool

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(self.c2(self.c1(x).relu()).relu(), self.pool)
        return self.f2(self.f1(x.flatten(1)).relu())


class Lstm(nn.Module):
    """Next character from the last 32, 140 k parameters."""

    def __init__(self, characters: int) -> None:
        super().__init__()
        self.embed, self.lstm = nn.Embedding(characters, 32), nn.LSTM(32, 160, batch_first=True)
        self.out = nn.Linear(160, characters)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.lstm(self.embed(x))[0][:, -1])


class Transformer(nn.Module):
    """Next character from the last 32, two layers, 210 k parameters."""

    def __init__(self, characters: int) -> None:
        super().__init__()
        self.embed, self.place = nn.Embedding(characters, 96), nn.Parameter(torch.randn(32, 96) * 0.1)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(96, 4, 256, dropout=0.0, batch_first=True) for _ in range(2)
        )
        self.out = nn.Linear(96, characters)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x) + self.place
        for layer in self.layers:
            x = layer(x)
        return self.out(x[:, -1])


def digits() -> tuple[Tensor, Tensor]:
    data = load_digits()
    return torch.tensor(data.images / 16, dtype=torch.float32)[:, None], torch.tensor(data.target)


def text() -> tuple[Tensor, Tensor]:
    source = inspect.getsource(argparse)[:60_000]
    index = {c: i for i, c in enumerate(string.printable)}
    codes = torch.tensor([index[c] for c in source if c in index])
    windows = codes.unfold(0, 33, 7)
    return windows[:, :32].contiguous(), windows[:, 32].contiguous()


def flatten(module: nn.Module) -> Float32Vector:
    return torch.cat([p.detach().flatten() for p in module.parameters()]).numpy().copy()


def layout_of(module: nn.Module) -> Layout:
    return Layout.from_shapes({n: tuple(p.shape) for n, p in module.named_parameters()})


def _sgd(module: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(module.parameters(), lr=0.05, momentum=0.5)


def _amgt(module: nn.Module) -> torch.optim.Optimizer:
    from amgt_fed import AMGT

    return AMGT(module.parameters(), lr=1e-3)


def _adam(module: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.Adam(module.parameters(), lr=1e-3)


OPTIMIZERS = {"sgd": _sgd, "amgt": _amgt, "adam": _adam}
NETS: dict[str, tuple[Callable[[], nn.Module], Callable[[], tuple[Tensor, Tensor]]]] = {
    "cnn-151k": (lambda: Cnn(2), digits),
    "cnn-545k": (lambda: Cnn(1), digits),
    "mlp": (lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 512), nn.ReLU(), nn.Linear(512, 256), nn.ReLU(),
                                  nn.Linear(256, 10)), digits),
    "lstm": (lambda: Lstm(len(string.printable)), text),
    "transformer": (lambda: Transformer(len(string.printable)), text),
}  # fmt: skip


def train(module: nn.Module, optimizer: torch.optim.Optimizer, data: tuple[Tensor, Tensor], epochs: int) -> None:
    inputs, targets = data
    for _ in range(epochs):
        for batch in torch.randperm(len(inputs)).split(32):
            optimizer.zero_grad()
            F.cross_entropy(module(inputs[batch]), targets[batch]).backward()
            optimizer.step()


def client(data: tuple[Tensor, Tensor], index: int, non_iid: bool) -> tuple[Tensor, Tensor]:
    """About 180 examples; for digits mostly of three classes, as a Dirichlet split gives."""
    inputs, targets = data
    generator = np.random.default_rng(index)
    weight = np.ones(len(targets))
    if non_iid:
        weight = np.isin(targets.numpy(), generator.choice(10, 3, replace=False)) + 0.02
    chosen = generator.choice(len(targets), min(180, len(targets)), replace=False, p=weight / weight.sum())
    return inputs[chosen], targets[chosen]


def make_updates(
    nets: tuple[str, ...] = tuple(NETS), optimizers: tuple[str, ...] = ("sgd", "amgt"), local_epochs: int = 2
) -> Iterator[Update]:
    """Train each net by each optimizer; yield a client's update early, midway and late."""
    for net in nets:
        build, load = NETS[net]
        data = load()
        for optimizer in optimizers:
            torch.manual_seed(1)
            module = build()
            for stage, epochs in (("early", 0), ("middle", 2), ("late", 6)):
                train(module, OPTIMIZERS[optimizer](module), data, epochs)
                start = flatten(module)
                kept = {k: v.clone() for k, v in module.state_dict().items()}
                local = client(data, epochs, non_iid=load is digits)
                train(module, OPTIMIZERS[optimizer](module), local, local_epochs)
                yield Update(net, optimizer, stage, layout_of(module), start - flatten(module))
                module.load_state_dict(kept)
