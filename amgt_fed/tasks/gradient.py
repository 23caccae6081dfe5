"""The gradient of a client's full objective, for certified rounds."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from amgt_fed.errors import TaskError
from amgt_fed.layout import Float32Vector
from amgt_fed.tasks.base import Batch, Task
from amgt_fed.tasks.flat import FlatModel
from amgt_fed.tasks.training import EVALUATION_BATCH, ordered_batches, to_device


@dataclass(frozen=True, slots=True)
class FullGradient:
    """A gradient over all of a client's examples.

    Attributes:
        vector: in the layout's order, 0 for buffers.
        exact: the same in float64, before rounding.
        rounding_l2: what was lost when the float64 gradient became float32.
        loss: mean loss at the same point.
    """

    vector: Float32Vector
    exact: NDArray[np.float64]
    rounding_l2: float
    loss: float
    num_examples: int


def full_gradient(task: Task, flat: FlatModel, data: Dataset[Any], at: Float32Vector) -> FullGradient:
    """The gradient of the client's mean loss at `at`, over all its examples, in float64.

    The module is in evaluation mode: the certificate is about a function of the parameters, and dropout is none.

    Args:
        flat: overwritten with `at`.

    Raises:
        TaskError: the client has no examples, or the model does not run in float64.
    """
    size = len(data)  # type: ignore[arg-type]  # as in train_locally
    if size == 0:
        raise TaskError("this client has no training examples")
    flat.load_(at)
    module = copy.deepcopy(flat.module).double().eval()
    module.zero_grad(set_to_none=True)
    loss = 0.0
    for count, batch in ordered_batches(data, EVALUATION_BATCH):
        try:
            mean = task.loss(module, _double(to_device(batch, flat.device)))
            (mean * (count / size)).backward()  # type: ignore[no-untyped-call]
        except RuntimeError as error:
            raise TaskError(
                f"the certificate needs the model in float64, and it does not run so: {error}; make it follow its "
                "input's dtype, or set convergence.certify_every = 0"
            ) from error
        loss += float(mean.detach()) * count / size
    found = dict(module.named_parameters())
    vector = np.zeros(flat.layout.size, np.float64)
    for segment in flat.layout.segments:
        gradient = found[segment.name].grad if segment.name in found else None  # a buffer has none
        if gradient is not None:
            vector[segment.offset : segment.stop] = gradient.reshape(-1).cpu().numpy()
    narrow = vector.astype(np.float32)
    return FullGradient(narrow, vector, float(np.linalg.norm(vector - narrow)), loss, size)


def _double(batch: Batch) -> Batch:
    if isinstance(batch, torch.Tensor):
        return batch.double() if batch.is_floating_point() else batch
    if isinstance(batch, dict):
        return {key: _double(value) for key, value in batch.items()}
    if isinstance(batch, tuple | list):
        return tuple(_double(value) for value in batch)
    return batch
