"""Local training and evaluation of a task's model on one device."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, default_collate

from amgt_fed.errors import RoundError, TaskError
from amgt_fed.federated.client import LocalResult
from amgt_fed.layout import Float32Vector
from amgt_fed.optimizer import AMGT
from amgt_fed.optimizer.subspace import SubspaceAMGT
from amgt_fed.subspace import Subspace
from amgt_fed.tasks.base import Batch, Examples, Task
from amgt_fed.tasks.flat import FlatModel

EVALUATION_BATCH = 256


@dataclass(frozen=True, slots=True)
class LocalSettings:
    """How a client trains; the meaning of each field stands in the `client` section of the configuration.

    `lr` is the round's own step size, the schedule across rounds already applied. With a `subspace` the matrices
    move in its directions only; that takes optimizer amgt.
    """

    optimizer: Literal["amgt", "sgd", "adam", "adamw"]
    lr: float
    epochs: int
    steps: int
    batch_size: int
    momentum: float
    beta2: float
    gamma: float
    threshold: float
    weight_decay: float
    prox_mu: float
    subspace: Subspace | None = None


def train_locally(
    task: Task,
    flat: FlatModel,
    data: Dataset[Any],
    start: Float32Vector,
    settings: LocalSettings,
    seed: int,
    *,
    correction: Float32Vector | None = None,
) -> LocalResult:
    """Train from `start` on one client's data.

    Args:
        flat: overwritten; its state afterwards is the result's vector.
        start: x_k, not modified.
        seed: of the batch order; torch's global generator (dropout) is the caller's to seed.
        correction: added to every gradient (a control variate), in the layout's order; not modified.

    Raises:
        RoundError: the loss is not finite.
        TaskError: the client has no data.
    """
    size = len(data)  # type: ignore[arg-type]  # map-style datasets have a length; torch's base leaves it undeclared
    if size == 0:
        raise TaskError("this client has no training examples")
    flat.load_(start)
    module = flat.module
    module.train()
    optimizers = make_optimizers(module, settings)
    anchors = [parameter.detach().clone() for parameter in module.parameters()] if settings.prox_mu else []
    corrections = [] if correction is None else _parameter_parts(flat, correction)
    total, count = torch.zeros((), dtype=torch.float64), 0
    for batch in _training_batches(data, size, settings, seed):
        moved = to_device(batch, flat.device)
        for optimizer in optimizers:
            optimizer.zero_grad(set_to_none=True)
        loss = task.loss(module, moved)
        loss.backward()  # type: ignore[no-untyped-call]
        if anchors:
            _pull(module, anchors, settings.prox_mu)
        for parameter, part in corrections:
            if parameter.grad is not None:
                parameter.grad.add_(part)
        for optimizer in optimizers:
            optimizer.step()
        total += loss.detach().cpu().double()
        count += 1
    mean = float(total) / count
    if not math.isfinite(mean):
        raise RoundError(f"local loss is {mean}; lower client.lr (now {settings.lr:g})")
    scale = gradient_scale(settings, count)
    return LocalResult(vector=flat.read(), num_examples=size, loss=mean, gradient_scale=scale)


def gradient_scale(settings: LocalSettings, steps: int) -> float:
    """s such that `steps` local steps move by s times their mean gradient; 0 for optimizers whose steps are none.

    Plain SGD: eta steps. With momentum b a gradient of step j is taken (1 - b^(steps - j + 1)) / (1 - b) times; the sum
    over j stands for all, exactly so where the gradients are alike.
    """
    if settings.optimizer != "sgd":
        return 0.0
    b = settings.momentum
    return settings.lr * sum((1 - b**left) / (1 - b) for left in range(1, steps + 1))


def _parameter_parts(flat: FlatModel, vector: Float32Vector) -> list[tuple[Tensor, Tensor]]:
    """Each parameter of the module beside its part of `vector`."""
    named = dict(flat.module.named_parameters())
    whole = torch.tensor(vector, device=flat.device)
    return [
        (named[segment.name], whole[segment.offset : segment.stop].view(segment.shape))
        for segment in flat.layout.segments
        if segment.name in named
    ]


@torch.no_grad()
def evaluate(task: Task, flat: FlatModel, data: Dataset[Any]) -> tuple[float, dict[str, float], int]:
    """Mean loss, mean metrics and the number of examples, over all of `data`."""
    module = flat.module
    module.eval()
    loss, size = 0.0, 0
    metrics: dict[str, float] = {}
    for count, batch in ordered_batches(data, EVALUATION_BATCH):
        moved = to_device(batch, flat.device)
        loss += float(task.loss(module, moved)) * count
        for name, value in task.metrics(module, moved).items():
            metrics[name] = metrics.get(name, 0.0) + float(value) * count
        size += count
    if size == 0:
        raise TaskError("there are no examples to evaluate on")
    return loss / size, dict(task.summarise({name: value / size for name, value in metrics.items()})), size


def make_optimizers(module: nn.Module, settings: LocalSettings) -> list[torch.optim.Optimizer]:
    """The local optimizers, fresh each round, over the parameters that want gradients."""
    named = [(name, parameter) for name, parameter in module.named_parameters() if parameter.requires_grad]
    if settings.subspace is None:
        return [_whole([parameter for _, parameter in named], settings)]
    free, matrices, signs = [], [], []
    for name, parameter in named:
        found = settings.subspace.directions(name, tuple(parameter.shape))
        if found is None:
            free.append(parameter)
        else:
            matrices.append(parameter)
            signs.append(torch.from_numpy(found.signs).to(parameter.device))
    made = [_whole(free, settings)] if free else []
    if matrices:
        made.append(
            SubspaceAMGT(
                matrices,
                signs,
                lr=settings.lr,
                betas=(settings.momentum, settings.beta2),
                gamma=settings.gamma,
                threshold=settings.threshold,
                weight_decay=settings.weight_decay,
            )
        )
    return made


def _whole(parameters: list[nn.Parameter], settings: LocalSettings) -> torch.optim.Optimizer:
    betas = (settings.momentum, settings.beta2)
    if settings.optimizer == "sgd":
        return torch.optim.SGD(
            parameters, lr=settings.lr, momentum=settings.momentum, weight_decay=settings.weight_decay
        )
    if settings.optimizer == "adam":
        return torch.optim.Adam(parameters, lr=settings.lr, betas=betas, weight_decay=settings.weight_decay)
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(parameters, lr=settings.lr, betas=betas, weight_decay=settings.weight_decay)
    return AMGT(
        parameters,
        lr=settings.lr,
        betas=betas,
        gamma=settings.gamma,
        threshold=settings.threshold,
        threshold_steps=0,
        weight_decay=settings.weight_decay,
    )


def _pull(module: nn.Module, anchors: list[Tensor], prox_mu: float) -> None:
    """Add the gradient of prox_mu / 2 ||x - x_k||^2 (FedProx, Li et al. 2020)."""
    for parameter, anchor in zip(module.parameters(), anchors, strict=True):
        if parameter.grad is not None:
            parameter.grad.add_(parameter.detach() - anchor, alpha=prox_mu)


def _training_batches(data: Dataset[Any], size: int, settings: LocalSettings, seed: int) -> Iterator[Batch]:
    rng = np.random.default_rng(seed)
    per_epoch = math.ceil(size / settings.batch_size)
    steps = settings.steps or settings.epochs * per_epoch
    while steps > 0:
        order = rng.permutation(size)
        for begin in range(0, size, settings.batch_size)[:steps]:
            yield _gather(data, order[begin : begin + settings.batch_size])
            steps -= 1


def ordered_batches(data: Dataset[Any], batch_size: int) -> Iterator[tuple[int, Batch]]:
    """All of `data` in its own order: (number of examples, batch)."""
    size = len(data)  # type: ignore[arg-type]
    for begin in range(0, size, batch_size):
        indices = np.arange(begin, min(begin + batch_size, size))
        yield len(indices), _gather(data, indices)


def _gather(data: Dataset[Any], indices: np.ndarray[Any, Any]) -> Batch:
    if isinstance(data, Examples):
        return data[torch.from_numpy(indices)]
    # Not a DataLoader: each of its iterators draws from torch's global generator, which threads share.
    return default_collate([data[index] for index in indices.tolist()])


def to_device(batch: Batch, device: torch.device) -> Batch:
    """A batch with every tensor in it on `device`; lists become tuples."""
    if isinstance(batch, Tensor):
        return batch.to(device)
    if isinstance(batch, dict):
        return {key: to_device(value, device) for key, value in batch.items()}
    if isinstance(batch, tuple | list):
        return tuple(to_device(value, device) for value in batch)
    return batch
