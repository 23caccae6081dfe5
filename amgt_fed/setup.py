"""From a configuration to the objects a run is made of, the same on server and clients."""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from amgt_fed.codec import Codec, CodecError, codec_names, get_codec
from amgt_fed.codec.subspace import SubspaceCodec
from amgt_fed.config import RunConfig, check_together, from_flat, merge
from amgt_fed.config.schema import Scalar
from amgt_fed.errors import ConfigError, TaskError
from amgt_fed.federated.aggregate import Accumulator
from amgt_fed.federated.budgets import BudgetRule
from amgt_fed.federated.client import Compression
from amgt_fed.federated.gather import MAX_EXAMPLES, Gathering
from amgt_fed.federated.robust import RULES, Rule
from amgt_fed.federated.robust_gather import RobustGathering
from amgt_fed.federated.server import Downlink
from amgt_fed.federated.server_optimizer import OptimizerSettings
from amgt_fed.flower.generators import seeded_generators
from amgt_fed.layout import Layout
from amgt_fed.schedules import InverseTime
from amgt_fed.subspace import Subspace
from amgt_fed.tasks import FlatModel, LocalSettings, Task, TaskSettings, find_task, load_task

DATA_VARIABLE = "AMGT_DATA"
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Setup:
    """A run's task and settings, built from its configuration."""

    config: RunConfig
    task: Task
    device: torch.device

    def fresh_model(self) -> FlatModel:
        """The seeded initial model x_1, the same bits in every process on machines that compute alike."""
        with seeded_generators(self.config.seed):
            module = self.task.model()
        if not isinstance(module, nn.Module):
            raise TaskError(f"task {self.config.task!r}: model() gave {module!r}; it must return a torch.nn.Module")
        return FlatModel(module, self.device)

    def local_settings(self, round: int) -> LocalSettings:
        """How clients train in `round`, the schedule (10) applied."""
        client = self.config.client
        return LocalSettings(
            optimizer=client.optimizer,
            lr=InverseTime(client.lr, client.lr_decay)(round),
            epochs=client.epochs,
            steps=client.steps,
            batch_size=client.batch_size,
            momentum=client.momentum,
            beta2=client.beta2,
            gamma=client.gamma,
            threshold=client.threshold,
            weight_decay=client.weight_decay,
            prox_mu=client.prox_mu,
            subspace=self.subspace(round),
        )

    def subspace(self, round: int) -> Subspace | None:
        """The directions in which matrices move in `round`, where updates travel in a subspace.

        Raises:
            ConfigError: keys that do not go with it.
        """
        config = self.config
        uplink, downlink = self.compression().codec, self.downlink().codec
        if not isinstance(uplink, SubspaceCodec):
            if isinstance(downlink, SubspaceCodec):
                raise ConfigError(
                    f"codec.downlink is {config.codec.downlink!r} and codec.uplink {config.codec.uplink!r}: the "
                    "step lies in the round's subspace only if the updates do; set both"
                )
            return None
        rank = uplink.subspace.rank
        if isinstance(downlink, SubspaceCodec) and downlink.subspace.rank != rank:
            raise ConfigError(
                f"codec.uplink has rank {rank}, codec.downlink {downlink.subspace.rank}; give both the same"
            )
        for key, value, needed in (
            ("client.optimizer", config.client.optimizer, "amgt"),
            ("server.optimizer", config.server.optimizer, "average"),
        ):
            if value != needed:
                raise ConfigError(f"{key} is {value!r}, and codec.uplink = subspace needs {needed!r}")
        return Subspace(rank, round)

    def compression(self) -> Compression:
        """How clients encode their updates."""
        codec = self.config.codec
        uplink = _codec("codec.uplink", codec.uplink)
        return Compression(
            uplink,
            BudgetRule.parse(codec.uplink_budget, auto=True),
            # The control variate takes the residual's place: see federated/scaffold.py.
            # A subspace's residual would lie outside the next round's.
            codec.error_feedback and not self.config.client.scaffold and not isinstance(uplink, SubspaceCodec),
        )

    def downlink(self) -> Downlink:
        """How the server encodes its steps."""
        codec = self.config.codec
        chosen = None if codec.downlink == "model" else _codec("codec.downlink", codec.downlink)
        keeps = codec.error_feedback and not isinstance(chosen, SubspaceCodec)
        return Downlink(chosen, BudgetRule.parse(codec.downlink_budget, auto=True), keeps)

    @property
    def max_examples(self) -> int:
        """What one client may claim to have trained on."""
        return self.config.server.max_examples or MAX_EXAMPLES

    def aggregation_rule(self) -> Rule | None:
        """How updates are aggregated; None for the mean by examples.

        Raises:
            ConfigError: no such rule, or a parameter that it does not have.
        """
        text = self.config.server.aggregator
        if text == "mean":
            return None
        return _named("server.aggregator", text, RULES, "trimmed_mean:fraction=0.2")

    def gathering(
        self, layout: Layout, expected: Iterable[int], *, control: NDArray[np.float64] | None = None
    ) -> Gathering:
        """What takes the updates of one round; see `Accumulator` for the arguments."""
        clip_norm, rule = self.config.server.clip_norm, self.aggregation_rule()
        if rule is not None:
            return RobustGathering(layout, expected, rule, clip_norm=clip_norm, max_examples=self.max_examples)
        return Accumulator(layout, expected, clip_norm=clip_norm, control=control, max_examples=self.max_examples)

    def server_optimizer(self) -> OptimizerSettings:
        """What the server does with the aggregate."""
        server = self.config.server
        return OptimizerSettings(server.optimizer, server.lr, server.lr_decay, server.momentum, server.beta2)


def resolve(keys: Mapping[str, Scalar]) -> RunConfig:
    """The complete configuration: `keys` over the task's own defaults over the schema's.

    Args:
        keys: dotted keys, as the user gave them.

    Raises:
        ConfigError: an unknown key or a bad value.
        TaskError: there is no such task.
    """
    name = keys.get("task", RunConfig().task)
    if not isinstance(name, str) or not name:
        return from_flat(keys)  # refused there, with what is allowed
    return merge(from_flat(find_task(name).defaults_beside(keys)), keys)


def build(config: RunConfig, *, data_dir: str = "", device: str = "") -> Setup:
    """Load the task and check what only the task or the machine can tell.

    Args:
        config: of the run.
        data_dir: this machine's data directory, before the configuration's and the AMGT_DATA variable.
        device: this machine's device, before the configuration's.

    Raises:
        ConfigError: an unknown codec or device, or a data directory that is not there.
        TaskError: an unknown task.
    """
    check_together(config)
    partition = config.partition
    chosen = data_dir or config.data_dir or os.environ.get(DATA_VARIABLE, "")
    folder = Path(chosen).expanduser() if chosen else None
    if folder is not None and not folder.is_dir():
        raise ConfigError(f"data directory {str(folder)!r} does not exist; name one with --data-dir or {DATA_VARIABLE}")
    settings = TaskSettings(
        seed=config.seed,
        num_clients=partition.num_clients,
        scheme=partition.scheme,
        alpha=partition.alpha,
        shards_per_client=partition.shards_per_client,
        min_examples=partition.min_examples,
        data_dir=folder,
        options=config.options,
    )
    setup = Setup(config, load_task(config.task, settings), pick_device(device or config.device))
    setup.subspace(1)  # builds both codecs: an unknown codec is refused here rather than in round 1
    rule = setup.aggregation_rule()
    federation = config.federation
    at_once = federation.clients_per_round
    if federation.mode == "async":
        at_once = federation.buffer_size or at_once
    if rule is not None and rule.fewest > at_once:
        raise ConfigError(
            f"server.aggregator = {config.server.aggregator!r} needs {rule.fewest} updates at once, and there are "
            f"{at_once}; raise federation.clients_per_round (in mode async: buffer_size)"
        )
    return setup


def _codec(key: str, text: str) -> Codec:
    return _named(key, text, {name: partial(get_codec, name) for name in codec_names()}, "stc:fraction=0.0025")


def _named(key: str, text: str, known: Mapping[str, Callable[..., T]], example: str) -> T:
    """Build what `NAME` or `NAME:PARAMETER=VALUE,...` asks for, e.g. "stc:fraction=0.0025"."""
    name, _, listed = text.partition(":")
    try:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ConfigError(f"there is no {name!r}; there are: {', '.join(known)}{hint}")
        return known[name](**dict(_parameter(part) for part in listed.split(",") if listed))
    except (CodecError, ConfigError) as error:
        raise ConfigError(f"{key} = {text!r} is not allowed: {error}") from error
    except (TypeError, ValueError) as error:  # a parameter it does not have, or no number
        raise ConfigError(f"{key} = {text!r} is not allowed: {error}; write e.g. {example}") from error


def _parameter(part: str) -> tuple[str, int | float]:
    name, _, value = (piece.strip() for piece in part.partition("="))
    try:
        return name, int(value)
    except ValueError:
        return name, float(value)


def pick_device(name: str) -> torch.device:
    """The torch device `name` asks for; "auto" is the accelerator where there is one.

    Raises:
        ConfigError: this machine or this torch build has no such device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigError(f"device {name!r}: this machine, or this torch build, has no CUDA; use device = auto or cpu")
    if name.startswith("cuda:") and int(name[5:]) >= torch.cuda.device_count():
        raise ConfigError(f"device {name!r}: this machine has {torch.cuda.device_count()} CUDA devices, from cuda:0")
    if name == "mps" and not torch.backends.mps.is_available():
        raise ConfigError("device 'mps': this machine, or this torch build, has no Metal; use device = auto or cpu")
    return torch.device(name)
