"""S in x_{k+1} = x_k - alpha_k S(m_k): plain averaging, or a torch optimizer whose gradient is the aggregate."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from amgt_fed.layout import Float32Vector
from amgt_fed.optimizer import AMGT


@dataclass(frozen=True, slots=True)
class OptimizerSettings:
    """Which filter the aggregate passes through, with alpha_k = lr / (1 + lr_decay (k - 1)) (10)."""

    name: Literal["average", "momentum", "adam", "amgt"] = "average"
    lr: float = 1.0
    lr_decay: float = 0.0
    momentum: float = 0.9
    beta2: float = 0.99

    def lr_at(self, round: int) -> float:
        """alpha_k of `round`, from 1."""
        return self.lr / (1.0 + self.lr_decay * (round - 1))


def filtered_step(
    mean: Float32Vector, round: int, state: Mapping[str, NDArray[np.float32]], settings: OptimizerSettings
) -> tuple[Float32Vector, dict[str, NDArray[np.float32]]]:
    """The step alpha_k S(m_k) and the optimizer's next state.

    The optimizer moves a parameter that stands at zero, so the step comes out without cancellation against the model.

    Args:
        mean: m_k, not modified.
        state: this function's own result of the round before; empty in round 1.
    """
    lr = settings.lr_at(round)
    if settings.name == "average":
        return np.multiply(mean, np.float32(lr)), {}
    parameter = torch.nn.Parameter(torch.zeros(mean.shape[0]))
    parameter.grad = torch.from_numpy(mean.copy())
    optimizer = _optimizer(parameter, lr, settings)
    if state:
        # as load_state_dict would, but from plain arrays, which is what a checkpoint holds
        optimizer.state[parameter] = {name: _to_torch(value) for name, value in state.items()}
    optimizer.step()
    after = {name: _to_numpy(value) for name, value in optimizer.state[parameter].items() if value is not None}
    return -parameter.detach().numpy(), after


def _optimizer(parameter: torch.nn.Parameter, lr: float, settings: OptimizerSettings) -> torch.optim.Optimizer:
    if settings.name == "momentum":
        return torch.optim.SGD([parameter], lr=lr, momentum=settings.momentum)
    # eps of FedAdam (Reddi et al. 2021, adaptivity tau = 1e-3): updates are far smaller than gradients.
    if settings.name == "adam":
        return torch.optim.Adam([parameter], lr=lr, betas=(settings.momentum, settings.beta2), eps=1e-3)
    return AMGT([parameter], lr=lr, betas=(settings.momentum, settings.beta2), eps=1e-6, threshold=0.0)


def _to_torch(value: NDArray[np.float32]) -> torch.Tensor:
    return torch.from_numpy(np.array(value, copy=True))


def _to_numpy(value: torch.Tensor | float) -> NDArray[np.float32]:
    return np.array(value.numpy() if isinstance(value, torch.Tensor) else value)
