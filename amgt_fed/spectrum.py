"""The Hessian's ends, and the step sizes they allow: stable below 2/lambda_max, fastest at 2/(lambda_max + lambda_min).

Lanczos (ARPACK, through scipy) needs nothing but products of the Hessian with a vector, which torch.func gives for any
twice differentiable loss. The Hessian itself is formed only where it is no larger than a few dozen rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, cast

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse.linalg import ArpackError, LinearOperator, eigsh
from torch import Tensor, nn

from amgt_fed.errors import AMGTFedError

Parameters: TypeAlias = Mapping[str, Tensor]
Product: TypeAlias = Callable[[NDArray[np.float64]], NDArray[np.float64]]
"""Vector, float64 of shape (n,) -> Hessian times vector, the same."""

_DENSE_BELOW = 33  # rows: up to here n products cost less than a Lanczos run, and are exact


class SpectrumError(AMGTFedError, ArithmeticError):
    """The Hessian's ends cannot be computed: the loss is not smooth, not finite, random, or Lanczos ran out."""


@dataclass(frozen=True, slots=True)
class Spectrum:
    """Both ends of a Hessian's spectrum.

    Attributes:
        lambda_max: largest eigenvalue.
        lambda_min: smallest eigenvalue, negative where the loss is not convex.
        residual_max: ||H v - lambda_max v|| of the unit vector found: an eigenvalue lies within this of lambda_max.
        residual_min: the same for lambda_min.
        products: Hessian-vector products spent.
    """

    lambda_max: float
    lambda_min: float
    residual_max: float
    residual_min: float
    products: int

    @property
    def stability_limit(self) -> float:
        """Gradient descent is stable for step sizes below 2/lambda_max; infinite where nothing curves upwards."""
        return 2 / self.lambda_max if self.lambda_max > 0 else float("inf")

    @property
    def alpha_opt(self) -> float:
        """The step size with the best worst-case rate, 2/(lambda_max + lambda_min).

        Raises:
            SpectrumError: the Hessian is not positive definite, so that no step size contracts every direction.
        """
        if not self.lambda_min > 0:
            raise SpectrumError(f"lambda_min is {self.lambda_min!r}; alpha_opt needs a positive definite Hessian")
        return 2 / (self.lambda_max + self.lambda_min)

    @property
    def condition(self) -> float:
        """lambda_max / lambda_min; infinite unless the Hessian is positive definite."""
        return self.lambda_max / self.lambda_min if self.lambda_min > 0 else float("inf")

    def rate(self, step_size: float) -> float:
        """Factor by which one gradient step of this size multiplies the worst direction; below 1 is stable."""
        return max(abs(1 - step_size * self.lambda_max), abs(1 - step_size * self.lambda_min))


def hessian_spectrum(
    function: Callable[[Tensor], Tensor], point: Tensor, *, tolerance: float | None = None, seed: int = 0
) -> Spectrum:
    """Ends of the Hessian of `function` at `point`.

    Args:
        function: tensor of the point's shape -> scalar tensor; twice differentiable by torch.
        point: any shape, floating point; not modified.
        tolerance: residual at which Lanczos stops, relative to the eigenvalue largest in magnitude; 1e-10 in float64,
            1e-5 in float32 unless given. An eigenvalue's own error is far smaller than its residual.
        seed: of Lanczos's starting vector.

    Raises:
        SpectrumError: see the class.
    """
    total, products = _as_products(lambda parameters: function(parameters["point"]), {"point": point})
    return _ends(products, total, _tolerance(tolerance, point.dtype), seed)


def model_spectrum(
    model: nn.Module,
    loss: Callable[[Tensor, Tensor], Tensor],
    batches: Sequence[tuple[Tensor, Tensor]],
    *,
    l2: float = 0.0,
    tolerance: float | None = None,
    seed: int = 0,
) -> Spectrum:
    """Ends of the Hessian of a model's mean loss, over its trainable parameters.

    Args:
        model: in the mode it is to be judged in; `eval()` where it has dropout. Not modified, buffers included.
        loss: (model output, targets) -> the batch's mean loss, a scalar.
        batches: (inputs, targets), on the model's device. Batches count by their number of examples.
        l2: adds l2/2 ||parameters||^2 to the loss, as in l2-regularised regression.
        tolerance: as in `hessian_spectrum`.
        seed: of Lanczos's starting vector.

    Raises:
        SpectrumError: see the class; or there is no batch, or nothing to train.
    """
    parameters = {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}
    if not parameters or not batches:
        missing = "trainable parameters" if not parameters else "batches"
        raise SpectrumError(f"there are no {missing}; the Hessian needs a model to train and data to train it on")

    def batch_loss(inputs: Tensor, targets: Tensor) -> Callable[[Parameters], Tensor]:
        def evaluate(values: Parameters) -> Tensor:
            # Batch norm writes its running means; it may have a copy.
            buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
            return loss(torch.func.functional_call(model, {**buffers, **values}, (inputs,)), targets)

        return evaluate

    examples = [len(inputs) for inputs, _ in batches]
    losses = [batch_loss(inputs, targets) for inputs, targets in batches]
    size, first = _as_products(losses[0], parameters)
    if len(losses) == 1:
        product = first
    else:
        weights = np.array(examples, np.float64) / sum(examples)

        def product(vector: NDArray[np.float64]) -> NDArray[np.float64]:
            # One graph at a time: all of them at once would hold every batch's activations.
            result = np.zeros(size)
            for weight, one in zip(weights, losses, strict=True):
                result += weight * _as_products(one, parameters)[1](vector)
            return result

    dtype = next(iter(parameters.values())).dtype
    ends = _ends(product, size, _tolerance(tolerance, dtype), seed)
    return Spectrum(ends.lambda_max + l2, ends.lambda_min + l2, ends.residual_max, ends.residual_min, ends.products)


def _as_products(function: Callable[[Parameters], Tensor], point: Parameters) -> tuple[int, Product]:
    """Number of parameters, and the function's Hessian at `point` as products with flat vectors."""
    with_value = torch.func.grad_and_value(function)
    # The stubs know vjp without its third result, the auxiliary value.
    gradient, pull_back, value = cast(Any, torch.func.vjp(with_value, dict(point), has_aux=True))
    if not (torch.isfinite(value) and all(bool(torch.isfinite(part).all()) for part in gradient.values())):
        raise SpectrumError(
            f"the loss is {float(value)!r} here, or its gradient not finite; check the inputs and the loss"
        )

    def product(vector: NDArray[np.float64]) -> NDArray[np.float64]:
        pieces, offset = {}, 0
        for name, part in point.items():
            piece = torch.from_numpy(vector[offset : offset + part.numel()].copy())
            pieces[name] = piece.to(part).view(part.shape)
            offset += part.numel()
        # Reverse over reverse: a Hessian is symmetric, and more operators have a second derivative than a forward one.
        (result,) = pull_back(pieces)
        flat: NDArray[np.float64] = torch.cat(
            [result[name].detach().reshape(-1).double().cpu() for name in point]
        ).numpy()
        return flat

    return sum(part.numel() for part in point.values()), product


def _tolerance(given: float | None, dtype: torch.dtype) -> float:
    return given if given is not None else 1e-10 if dtype == torch.float64 else 1e-5


def _ends(product: Product, size: int, tolerance: float, seed: int) -> Spectrum:
    spent = 0

    def counted(vector: NDArray[np.float64]) -> NDArray[np.float64]:
        nonlocal spent
        spent += 1
        result = product(np.asarray(vector, np.float64).reshape(-1))
        if not np.isfinite(result).all():
            raise SpectrumError("a Hessian-vector product is not finite; the loss has no second derivative here")
        return result

    if size < _DENSE_BELOW:
        hessian = np.stack([counted(row) for row in np.eye(size)])
        _require_symmetric(hessian, hessian.T, max(tolerance, 1e-6))
        values = np.linalg.eigvalsh((hessian + hessian.T) / 2)
        rounding = float(np.abs(hessian - hessian.T).max() + np.finfo(np.float64).eps * np.abs(values).max() * size)
        return Spectrum(float(values[-1]), float(values[0]), rounding, rounding, spent)

    generator = np.random.default_rng(seed)
    start, other = generator.normal(size=(2, size))
    image = counted(start)
    norm = float(np.linalg.norm(image))
    _require_symmetric(np.dot(other, image), np.dot(start, counted(other)), max(tolerance, 1e-3), norm)
    if norm == 0:  # a random vector lies in the kernel of a matrix other than zero with probability zero
        return Spectrum(0.0, 0.0, 0.0, 0.0, spent)
    # First the end that is larger in magnitude. Seen from there the other end is as large as the spectrum is wide, and
    # so within reach of ARPACK's relative tolerance even where it is zero.
    near, near_residual = _largest(counted, size, start, tolerance)

    def from_the_near_end(vector: NDArray[np.float64]) -> NDArray[np.float64]:
        return near * vector - counted(vector)

    away = np.linalg.norm(from_the_near_end(start)) / np.linalg.norm(start)
    if away <= max(tolerance, 1e-12) * abs(near):  # a multiple of the identity
        width, far_residual = 0.0, near_residual
    else:
        width, far_residual = _largest(from_the_near_end, size, start, tolerance)
    far = near - width
    if near > 0:
        return Spectrum(near, far, near_residual, far_residual, spent)
    return Spectrum(far, near, far_residual, near_residual, spent)


def _largest(product: Product, size: int, start: NDArray[np.float64], tolerance: float) -> tuple[float, float]:
    """The eigenvalue largest in magnitude, and its residual."""
    operator = LinearOperator((size, size), matvec=product, dtype=np.float64)
    try:
        values, vectors = eigsh(operator, k=1, which="LM", v0=start, tol=tolerance, ncv=min(size, 40), maxiter=400)
    except ArpackError as error:
        raise SpectrumError(f"Lanczos did not settle ({error}); loosen `tolerance` or compute in float64") from error
    value, vector = float(values[0]), vectors[:, 0]
    return value, float(np.linalg.norm(product(vector) - value * vector))


def _require_symmetric(
    one: NDArray[np.float64] | float, other: NDArray[np.float64] | float, tolerance: float, scale: float | None = None
) -> None:
    size = scale if scale is not None else float(np.abs(one).max(initial=0))
    worst = float(np.abs(np.subtract(one, other)).max(initial=0))
    if worst > tolerance * size:
        raise SpectrumError(
            f"Hessian products are not symmetric (off by {worst:.3g} of {size:.3g}); a random loss does that: "
            "call model.eval() to switch dropout off"
        )
