"""The minimum of a convex torch loss over all data in one place, float64, by scipy."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize

Value = Callable[[NDArray[np.floating]], float]


def central(module: torch.nn.Module, loss: Callable[[torch.nn.Module], torch.Tensor]) -> tuple[Value, float]:
    """(f of a flat vector in the order of the parameters, min f); `module` is overwritten and made float64."""
    parameters = list(module.double().parameters())

    def both(vector: NDArray[np.floating]) -> tuple[float, NDArray[np.float64]]:
        torch.nn.utils.vector_to_parameters(torch.tensor(np.asarray(vector, np.float64)), parameters)
        module.zero_grad()
        found = loss(module)
        found.backward()  # type: ignore[no-untyped-call]
        gradient = np.concatenate([p.grad.numpy().ravel() for p in parameters if p.grad is not None])
        return float(found.detach()), gradient

    start = np.concatenate([p.detach().numpy().ravel() for p in parameters])
    options = {"maxiter": 20_000, "maxfun": 40_000, "ftol": 1e-16, "gtol": 1e-11}
    found = minimize(both, start, jac=True, method="L-BFGS-B", options=options)
    assert np.linalg.norm(both(found.x)[1]) < 1e-6
    return lambda vector: both(vector)[0], float(found.fun)
