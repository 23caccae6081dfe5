"""The bounds a run is measured against: (A) distance, (B) certificates, (C) stationarity.

Everywhere x_{k+1} = x_k - alpha_k m_k, with m_k = grad f(x_k) + e_k and ||e_k|| <= delta_k. Norms are l2. Arguments are
numbers or arrays that broadcast; results are float64. Units: [x] for the model, [f] for the objective, so that a
gradient has [f]/[x], a step size [x]^2/[f], and mu and L have [f]/[x]^2.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .errors import InvalidAssumption

# --- (A) strongly convex: the distance to the optimum ------------------------------------------------------------


def contraction(step_size: ArrayLike, mu: ArrayLike, smoothness: ArrayLike) -> NDArray[np.float64]:
    """Factor by which an exact gradient step shrinks (or stretches) the distance to the optimum, at most.

    Args:
        step_size: alpha >= 0, any shape, in [x]^2/[f].
        mu: strong convexity, > 0, in [f]/[x]^2.
        smoothness: L >= mu, in [f]/[x]^2.

    Returns:
        max(1 - alpha mu, alpha L - 1), of the shape of `step_size`; 1 - alpha mu for alpha <= 2/(mu + L), below 1 for
        alpha < 2/L. No smaller factor holds for every such f: quadratics attain it.

    Raises:
        InvalidAssumption: a constant out of range.

    Source: ALGORITHM (A), continued beyond 2/(mu + L) so that no step size is left without a bound.
    """
    low = _checked_mu(mu)
    high = _checked_smoothness(smoothness, low)
    alpha = _at_least_zero("step_size", step_size)
    return np.maximum(1 - alpha * low, alpha * high - 1)


def distance_after_step(
    distance: ArrayLike, step_size: ArrayLike, delta: ArrayLike, mu: ArrayLike, smoothness: ArrayLike
) -> NDArray[np.float64]:
    """Bound on ||x_{k+1} - x*|| from a bound on ||x_k - x*||.

    Args:
        distance: bound before the step, >= 0, in [x].
        step_size: alpha_k >= 0, in [x]^2/[f].
        delta: bound on ||m_k - grad f(x_k)||, >= 0, in [f]/[x].
        mu: strong convexity, > 0.
        smoothness: L >= mu.

    Returns:
        contraction(alpha_k) distance + alpha_k delta_k, broadcast, in [x].

    Raises:
        InvalidAssumption: a constant out of range.

    Source: ALGORITHM (A); (30) with the linear term kept.
    """
    factor = contraction(step_size, mu, smoothness)
    error = np.asarray(step_size, np.float64) * _at_least_zero("delta", delta)
    return factor * _at_least_zero("distance", distance) + error


def distance_bounds(
    initial: ArrayLike, step_sizes: ArrayLike, deltas: ArrayLike, mu: ArrayLike, smoothness: ArrayLike
) -> NDArray[np.float64]:
    """Bounds on ||x_1 - x*||, .., ||x_{K+1} - x*|| over K rounds: the recursive certificate.

    Args:
        initial: D_1 >= ||x_1 - x*||, shape (...), in [x]; `distance_certificate` gives one.
        step_sizes: alpha_1 .. alpha_K, shape (..., K) or (K,).
        deltas: delta_1 .. delta_K, shape (..., K) or (K,).
        mu: strong convexity, > 0, shape (...) or a number.
        smoothness: L >= mu, shape (...) or a number.

    Returns:
        Shape (..., K + 1), in [x].

    Raises:
        InvalidAssumption: a constant out of range.

    Source: ALGORITHM (A).
    """
    start = _at_least_zero("initial", initial)
    factors = contraction(step_sizes, np.asarray(mu)[..., None], np.asarray(smoothness)[..., None])
    errors = np.asarray(step_sizes, np.float64) * _at_least_zero("deltas", deltas)
    factors, errors = np.broadcast_arrays(factors, errors)
    rounds = factors.shape[-1]
    bounds = np.empty((*np.broadcast_shapes(start.shape, factors.shape[:-1]), rounds + 1))
    bounds[..., 0] = start
    for k in range(rounds):
        bounds[..., k + 1] = factors[..., k] * bounds[..., k] + errors[..., k]
    return bounds


def distance_rate(rounds: ArrayLike, initial: float, mu: float, t0: float, c: float) -> NDArray[np.float64]:
    """Bound on ||x_{K+1} - x*|| in closed form, for alpha_k = 1/(mu (k + t0)) and delta_k = c/k.

    (k + t0) D_{k+1} = (k + t0 - 1) D_k + c/(mu k) telescopes to D_{K+1} = (t0 D_1 + c H_K / mu) / (K + t0): with errors
    it is O(log K / K), not O(1/K), because the harmonic number H_K grows.

    Args:
        rounds: K >= 1, whole numbers, any shape.
        initial: D_1 >= ||x_1 - x*||, in [x].
        mu: strong convexity, > 0.
        t0: >= L/mu - 1 (more exactly, alpha_1 <= 2/(mu + L)); what makes (A) hold from the first step.
        c: error constant of (27), >= 0, in [f]/[x].

    Returns:
        Shape of `rounds`, in [x].

    Raises:
        InvalidAssumption: a constant out of range.

    Source: ALGORITHM (A) with (26), (27); stands where the paper has (30).
    """
    low = _checked_mu(mu)
    k = np.asarray(rounds, np.float64)
    if not np.all(k >= 1):
        raise InvalidAssumption("rounds", rounds, "whole numbers >= 1")
    harmonic = np.cumsum(1 / np.arange(1, int(k.max(initial=1)) + 1))[k.astype(np.int64) - 1]
    start, shift, error = (_at_least_zero(n, v) for n, v in (("initial", initial), ("t0", t0), ("c", c)))
    return np.asarray((shift * start + error * harmonic / low) / (k + shift))


def gap_from_distance(distance: ArrayLike, smoothness: ArrayLike) -> NDArray[np.float64]:
    """Bound on f(x) - f* from a bound on ||x - x*||: L/2 distance^2, in [f]. Source: L-smoothness."""
    return _checked_smoothness(smoothness) / 2 * _at_least_zero("distance", distance) ** 2


# --- (B) a measured gradient -------------------------------------------------------------------------------------


def gradient_upper(gradient_norm: ArrayLike, error: ArrayLike) -> NDArray[np.float64]:
    """Largest ||grad f(x)|| a measurement allows: ||g_hat|| + error, in [f]/[x]. Source: ALGORITHM (B), (C)."""
    return _at_least_zero("gradient_norm", gradient_norm) + _at_least_zero("error", error)


def gradient_lower(gradient_norm: ArrayLike, error: ArrayLike) -> NDArray[np.float64]:
    """Smallest ||grad f(x)|| a measurement allows: max(||g_hat|| - error, 0), in [f]/[x]."""
    return np.maximum(_at_least_zero("gradient_norm", gradient_norm) - _at_least_zero("error", error), 0)


def distance_certificate(gradient_norm: ArrayLike, error: ArrayLike, mu: ArrayLike) -> NDArray[np.float64]:
    """Bound on ||x - x*|| from a measured gradient, knowing only mu.

    Args:
        gradient_norm: ||g_hat|| >= 0, in [f]/[x].
        error: bound on ||g_hat - grad f(x)||, >= 0, in [f]/[x].
        mu: strong convexity or Polyak-Lojasiewicz constant, > 0. With PL, x* is the nearest minimiser.

    Returns:
        (||g_hat|| + error) / mu, broadcast, in [x].

    Raises:
        InvalidAssumption: a constant out of range.

    Source: ALGORITHM (B).
    """
    return gradient_upper(gradient_norm, error) / _checked_mu(mu)


def gap_certificate(gradient_norm: ArrayLike, error: ArrayLike, mu: ArrayLike) -> NDArray[np.float64]:
    """Bound on f(x) - f* from a measured gradient, knowing only mu.

    Arguments as in `distance_certificate`.

    Returns:
        (||g_hat|| + error)^2 / (2 mu), broadcast, in [f].

    Raises:
        InvalidAssumption: a constant out of range.

    Source: ALGORITHM (B).
    """
    return gradient_upper(gradient_norm, error) ** 2 / (2 * _checked_mu(mu))


# --- (C) non-convex: how small the gradient must have become -----------------------------------------------------


def stationarity_bound(
    step_sizes: ArrayLike,
    deltas: ArrayLike,
    update_norms: ArrayLike,
    *,
    f_first: ArrayLike,
    f_low: ArrayLike,
    smoothness: ArrayLike,
) -> NDArray[np.float64]:
    """Bounds on min over j <= k of ||grad f(x_j)||^2, for every k up to K. No convexity, no unbiasedness.

    Args:
        step_sizes: alpha_1 .. alpha_K > 0, shape (..., K) or (K,).
        deltas: bounds on ||m_k - grad f(x_k)||, shape (..., K) or (K,).
        update_norms: ||m_k||, shape (..., K) or (K,).
        f_first: f(x_1), shape (...), in [f].
        f_low: any lower bound of f, shape (...), in [f].
        smoothness: L > 0, shape (...) or a number.

    Returns:
        Shape (..., K), in ([f]/[x])^2:
        (2 (f(x_1) - f_low) + sum alpha_j delta_j^2 + L sum alpha_j^2 ||m_j||^2) / sum alpha_j.
        It bounds the alpha-weighted mean of the squared norms as well.

    Raises:
        InvalidAssumption: a constant out of range, or f_first below f_low.

    Source: ALGORITHM (C), in place of (34), which needs an unbiased m_hat; thresholding makes it biased.
    """
    alpha = _at_least_zero("step_sizes", step_sizes)
    if not np.all(alpha > 0):
        raise InvalidAssumption("step_sizes", float(alpha.min()), "> 0")
    delta, norm = _at_least_zero("deltas", deltas), _at_least_zero("update_norms", update_norms)
    per_round = alpha * delta**2 + _checked_smoothness(smoothness)[..., None] * alpha**2 * norm**2
    return stationarity_bound_from_sums(
        np.cumsum(alpha, axis=-1),
        np.cumsum(per_round, axis=-1),
        np.asarray(f_first, np.float64)[..., None] - np.asarray(f_low, np.float64)[..., None],
    )


def stationarity_bound_from_sums(
    step_sum: ArrayLike, penalty_sum: ArrayLike, descent: ArrayLike
) -> NDArray[np.float64]:
    """`stationarity_bound` for who keeps running sums.

    Args:
        step_sum: sum of alpha_j, > 0.
        penalty_sum: sum of alpha_j delta_j^2 + L alpha_j^2 ||m_j||^2, >= 0.
        descent: f(x_1) - f_low >= 0.

    Raises:
        InvalidAssumption: a constant out of range.

    Source: ALGORITHM (C).
    """
    drop = _at_least_zero("f_first - f_low", descent)
    return (2 * drop + _at_least_zero("penalty_sum", penalty_sum)) / np.asarray(step_sum, np.float64)


def _at_least_zero(name: str, value: ArrayLike) -> NDArray[np.float64]:
    array = np.asarray(value, dtype=np.float64)
    if not np.all(array >= 0):  # written so that NaN, which fails every comparison, is refused too
        raise InvalidAssumption(name, float(array.min()), ">= 0")
    return array


def _checked_mu(mu: ArrayLike) -> NDArray[np.float64]:
    array = np.asarray(mu, np.float64)
    if not np.all((array > 0) & np.isfinite(array)):
        raise InvalidAssumption("mu", _first_bad(array, (array > 0) & np.isfinite(array)), "a finite number > 0")
    return array


def _checked_smoothness(smoothness: ArrayLike, mu: NDArray[np.float64] | None = None) -> NDArray[np.float64]:
    array = np.asarray(smoothness, np.float64)
    good = (array > 0) & np.isfinite(array)
    if not np.all(good):
        raise InvalidAssumption("smoothness", _first_bad(array, good), "a finite number > 0")
    if mu is not None and not np.all(array >= mu):
        raise InvalidAssumption(
            "smoothness", _first_bad(array, array >= mu), f">= mu = {_first_bad(mu, array >= mu)!r}"
        )
    return array


def _first_bad(values: ArrayLike, good: ArrayLike) -> float:
    values, good = np.broadcast_arrays(np.asarray(values, np.float64), np.asarray(good))
    return float(values[~good].flat[0])
