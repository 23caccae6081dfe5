"""The next character of Shakespeare's plays: speaking roles are the clients."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from amgt_fed.errors import TaskError
from amgt_fed.tasks.base import Batch, Examples, IndexArray, TaskSettings
from amgt_fed.tasks.datasets import read_npz
from amgt_fed.tasks.facts import Reference
from amgt_fed.tasks.natural import NaturalTask, option, refuse_unknown

ALPHABET = "\n !$&',-.0123456789:;?ABCDEFGHIJKLMNOPQRSTUVWXYZ[]abcdefghijklmnopqrstuvwxyz"
LENGTH = 80  # characters in a sequence
_HELD_OUT = 0.1  # the last tenth of each role's text


class Recurrent(nn.Module):
    """Embedding, one GRU (74,444 parameters) or LSTM (95,180), and scores."""

    def __init__(self, kind: str, width: int = 128) -> None:
        super().__init__()
        self.embedding = nn.Embedding(len(ALPHABET), 32)
        self.memory = (nn.GRU if kind == "gru" else nn.LSTM)(32, width, batch_first=True)
        self.scores = nn.Linear(width, len(ALPHABET))

    def forward(self, text: Tensor) -> Tensor:
        """Scores (batch, length, 76) of each next symbol, from symbols (batch, length)."""
        return self.scores(self.memory(self.embedding(text.long()))[0])  # type: ignore[no-any-return]


class Transformer(nn.Module):
    """Two causal blocks of width 64 with four heads: 115,020 parameters."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.embedding = nn.Embedding(len(ALPHABET), width)
        self.position = nn.Parameter(torch.randn(LENGTH, width) * 0.02)
        block = nn.TransformerEncoderLayer(width, 4, 4 * width, dropout=0.0, batch_first=True, norm_first=True)
        self.blocks = nn.TransformerEncoder(block, 2, nn.LayerNorm(width), enable_nested_tensor=False)
        self.scores = nn.Linear(width, len(ALPHABET))

    def forward(self, text: Tensor) -> Tensor:
        """Scores (batch, length, 76) of each next symbol, from symbols (batch, length <= 80)."""
        length = text.shape[1]
        later = torch.ones(length, length, dtype=torch.bool, device=text.device).triu(1)
        hidden = self.embedding(text.long()) + self.position[:length]
        return self.scores(self.blocks(hidden, mask=later))  # type: ignore[no-any-return]


class Shakespeare(NaturalTask):
    """Next character, 76 symbols; each speaking role of each play is a client.

    The server tests on the last tenth of each role's text.

    Options:
        model: `gru`, `lstm` or `transformer`.
        min_characters: roles with fewer are left out: 10,000 leaves 136 of them, 5,000 leaves 267, 2,000 leaves 450.
        roles: only so many, drawn with the run's seed; 0 for all.
    """

    name: ClassVar[str] = "shakespeare"
    defaults: ClassVar[Mapping[str, bool | int | float | str]] = {
        "rounds": 60,
        "partition.scheme": "natural",
        "partition.num_clients": 136,
        "federation.clients_per_round": 10,
        "client.epochs": 1,
        "client.batch_size": 8,
        "client.lr": 0.004,
        "client.lr_decay": 0.02,
        "codec.uplink_budget": "nmse=0.3",
        "codec.downlink_budget": "nmse=0.3",
        "baseline.lr": 1.0,
    }
    reference: ClassVar[Reference | None] = Reference(
        "accuracy", 0.5029, "python benchmarks/centralised.py --task shakespeare"
    )

    def __init__(self, settings: TaskSettings) -> None:
        super().__init__(settings)
        refuse_unknown(settings, "model", "min_characters", "roles")
        self.kind = option(settings, "model", "gru", ("gru", "lstm", "transformer"))
        self.min_characters = option(settings, "min_characters", 10_000)
        self.max_roles = option(settings, "roles", 0)
        if self.min_characters < 2 * LENGTH / _HELD_OUT:
            least = int(2 * LENGTH / _HELD_OUT)
            raise TaskError(f"options.min_characters = {self.min_characters} is not allowed; give at least {least}")
        if self.max_roles < 0:
            raise TaskError(f"options.roles = {self.max_roles} is not allowed; give a number >= 0 (0: all)")

    def model(self) -> nn.Module:
        """A `Recurrent` or a `Transformer`."""
        return Transformer() if self.kind == "transformer" else Recurrent(self.kind)

    def train_data(self) -> Examples:
        """Symbols (80,) and the symbols that follow them (80,), bytes below 76."""
        return _pairs([sequences for sequences, _ in self._roles])

    def test_data(self) -> Examples:
        """The same, of the last tenth of each role."""
        return _pairs([sequences for _, sequences in self._roles])

    def owners(self) -> IndexArray:
        """The role, counted among those taken."""
        return np.repeat(np.arange(len(self._roles)), [len(sequences) for sequences, _ in self._roles])

    def test_owners(self) -> IndexArray:
        """The role."""
        return np.repeat(np.arange(len(self._roles)), [len(sequences) for _, sequences in self._roles])

    def labels(self) -> NDArray[np.int64]:
        """None: a sequence has no class.

        Raises:
            TaskError: always.
        """
        raise TaskError("task shakespeare has no labels to partition by; use partition.scheme = natural or iid")

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Mean cross-entropy of the next symbol, in nats."""
        text, following = batch
        return nn.functional.cross_entropy(model(text).flatten(0, 1), following.long().flatten())

    @cached_property
    def _roles(self) -> list[tuple[NDArray[np.uint8], NDArray[np.uint8]]]:
        """For each role its sequences (n, 81) for training and for testing; the two share no character."""
        arrays = read_npz(self.settings.data_dir, "shakespeare/shakespeare_by_role.npz")
        code = np.zeros(256, np.uint8)
        code[[ord(letter) for letter in ALPHABET]] = np.arange(len(ALPHABET), dtype=np.uint8)
        text, offset = code[arrays["text"]], arrays["offset"]
        roles = np.flatnonzero(np.diff(offset) >= self.min_characters)
        if len(roles) == 0:
            raise TaskError(f"no role has {self.min_characters} characters; lower options.min_characters")
        if self.max_roles:
            rng = np.random.default_rng(self.settings.seed)
            roles = np.sort(rng.permutation(roles)[: self.max_roles])
        return [_split(text[offset[role] : offset[role + 1]]) for role in roles]


def _split(text: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    cut = len(text) - round(_HELD_OUT * len(text))
    return _sequences(text[:cut]), _sequences(text[cut:])


def _sequences(text: NDArray[np.uint8]) -> NDArray[np.uint8]:
    # A sequence's last target is the next one's first input: each character is predicted once.
    begins = np.arange(0, len(text) - LENGTH, LENGTH)
    windows: NDArray[np.uint8] = text[begins[:, None] + np.arange(LENGTH + 1)]
    return windows


def _pairs(parts: list[NDArray[np.uint8]]) -> Examples:
    sequences = torch.from_numpy(np.concatenate(parts))
    return Examples(sequences[:, :-1].contiguous(), sequences[:, 1:].contiguous())
