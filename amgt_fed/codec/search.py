"""The lambda that meets a budget: one number prices error against bits in every tensor alike (equal slope)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

from amgt_fed.codec.body import Levels, TensorLevels, coarse_step
from amgt_fed.codec.predict import Model
from amgt_fed.codec.quantize import Shifts, best_shifts
from amgt_fed.codec.survivors import Candidate
from amgt_fed.codec.tensor import ALONE_PRICE, SPARSE_PRICE, TensorSource

_SLOPE = 0.6  # of log error, and of minus log bytes, by log lambda, where low-rank terms carry most
_FARTHEST = 2.5  # in log lambda at once
_CLOSE, _CLOSE_FEW = 0.003, 0.02  # in log lambda; few survivors: a jump in rank lies between, which swaps look into
_NEAR = 0.003  # in log error or log bytes
_TRIMMED = 0.02  # the same, where single survivors can be dropped to spend the budget exactly
AIM = 0.006  # how far into that span to aim: more than what the histogram's model gets wrong
MANY_SURVIVORS = 300
_MAX_EVALUATIONS = 40
_MAX_NARROWING = 6
_SWAPS = 200


@dataclass(frozen=True)
class Point:
    """All tensors at one lambda."""

    log_lambda: float
    step: float
    candidates: tuple[Candidate, ...]

    @cached_property
    def shifts(self) -> Shifts:
        """The survivors' centroids, over all tensors."""
        return best_shifts(c.quantized for c in self.candidates)

    @cached_property
    def distortion(self) -> float:
        """Squared error, before float32 rounding."""
        return math.fsum(candidate.distortion_with(self.shifts) for candidate in self.candidates)

    @cached_property
    def bits(self) -> float:
        """Bits, before the choice of common tables."""
        return math.fsum(candidate.bits for candidate in self.candidates)

    @property
    def survivors(self) -> int:
        """Sparse values in all."""
        return sum(candidate.indices.size for candidate in self.candidates)

    def levels(self) -> Levels:
        """What to write."""
        tensors = tuple(TensorLevels(c.factors, c.indices, c.quantized.levels) for c in self.candidates)
        return Levels(tensors, self.step, self.shifts)


def price_for(sources: list[TensorSource]) -> float:
    """lambda / step^2 of the survivors."""
    return ALONE_PRICE if all(source.matrix is None for source in sources) else SPARSE_PRICE


def evaluate(sources: list[TensorSource], log_lambda: float) -> Point:
    """The best candidate of every tensor at one lambda."""
    lam = math.exp(log_lambda)
    step = coarse_step(math.sqrt(lam / price_for(sources)))
    return Point(log_lambda, step, tuple(source.best(lam, step) for source in sources))


def look_around(point: Point, sources: list[TensorSource]) -> None:
    """Have every tensor see its candidates of nearly the same rank at the point's lambda and step."""
    for candidate, source in zip(point.candidates, sources, strict=True):
        source.look_around(candidate, math.exp(point.log_lambda), point.step)


def boundary(
    excess: Callable[[Point], float],
    at: Callable[[float], Point],
    start: float,
    *,
    rising: bool,
    span: tuple[float, float],
) -> list[Point]:
    """Points that fit a budget, up to where it is spent, or so little beyond that dropping survivors brings them back.

    Args:
        excess: logarithm of what a point takes over what the budget allows; it fits at 0 or below.
        at: evaluates log lambda.
        start: first log lambda to try.
        rising: True when larger lambdas fit (a budget of bytes), False when smaller do (a budget of error).
        span: log lambdas to stay within.

    Returns:
        The last two such points; empty if none was found.
    """
    low, high = span
    position = min(max(start, low), high)
    inside: tuple[float, float] | None = None
    outside: tuple[float, float] | None = None
    fitting: list[Point] = []
    narrowing, stretch = 0, 1.05
    for _ in range(_MAX_EVALUATIONS):
        point = at(position)
        over = excess(point)
        many = point.survivors >= MANY_SURVIVORS
        # Dropping survivors spends what is left of an error, and saves what is too much of bytes.
        if many and (-_NEAR < over < _TRIMMED if rising else -_TRIMMED < over <= 0):
            return [point]
        if over <= 0:
            fitting = [*fitting[-1:], point]
            inside = (position, over)
        else:
            outside = (position, over)
        aim = over - (AIM if rising else -AIM) if many else over
        if inside is not None and outside is not None:
            gap = outside[0] - inside[0]
            narrowing += 1
            if abs(gap) < (_CLOSE if many else _CLOSE_FEW) or -2 * _NEAR < inside[1] <= 0 or narrowing > _MAX_NARROWING:
                break
            # The excess is nearly linear in log lambda, but for jumps in rank: interpolate, yet always cut off some.
            share = -inside[1] / max(outside[1] - inside[1], 1e-300) if math.isfinite(inside[1]) else 0.5
            share = share + 0.01 if many and rising else share - 0.02
            position = inside[0] + gap * min(max(share, 0.1), 0.9)
            if many and narrowing <= 3:
                guess = Model.of(point.candidates, point.log_lambda).shifted(aim, rising=rising)
                if guess is not None and min(inside[0], outside[0]) < guess < max(inside[0], outside[0]):
                    position = guess
        else:
            upwards = rising if inside is None else not rising
            if position == (high if upwards else low):
                break
            guess = Model.of(point.candidates, point.log_lambda).shifted(aim, rising=rising) if many else None
            if guess is not None and (guess > position) == upwards:
                position = min(max(guess, low), high)
            else:
                # From inside a little too far, so as to come out on the other side, which is then known.
                stride = min(max(abs(over) / _SLOPE * stretch, 0.01), _FARTHEST)
                position = min(position + stride, high) if upwards else max(position - stride, low)
                stretch *= 1.5
    return fitting


def spend(point: Point, sources: list[TensorSource], max_bits: float) -> Point:
    """Use what is left of a budget of bits: swap in, tensor by tensor, what saves most error per bit and still fits.

    Only candidates already looked at are used, and of those with survivors only such as share the point's step.
    """

    def gain(now: Candidate, other: Candidate, room: float) -> float:
        extra, saved = other.bits - now.bits, now.distortion - other.distortion
        return saved / max(extra, 1e-3) if saved > 1e-9 * now.distortion and extra <= room else 0.0

    return _swap(point, sources, lambda p: max_bits - p.bits, gain)


def relax(point: Point, sources: list[TensorSource], max_distortion: float) -> Point:
    """Use what is left of a budget of error: swap in what saves most bits per error and still fits."""

    def gain(now: Candidate, other: Candidate, room: float) -> float:
        extra, saved = other.distortion - now.distortion, now.bits - other.bits
        return saved / max(extra, 1e-6 * max_distortion) if saved > 0.5 and extra <= room else 0.0

    return _swap(point, sources, lambda p: max_distortion - p.distortion, gain)


def rebuild(point: Point, sources: list[TensorSource], max_distortion: float) -> Point | None:
    """From the fewest bits of every tensor up: swap in what saves most error per bit until a budget of error is met.

    Where a single term of one tensor is a large part of the payload, this finds mixtures that no lambda gives.
    """
    usable = [[c for c in source.seen if c.step == point.step or not c.indices.size] for source in sources]
    least = [min([now, *seen], key=lambda c: c.bits) for now, seen in zip(point.candidates, usable, strict=True)]
    built = Point(point.log_lambda, point.step, tuple(least))

    def gain(now: Candidate, other: Candidate, room: float) -> float:
        saved, extra = now.distortion - other.distortion, other.bits - now.bits
        # Never more than is needed: what goes beyond the budget is not worth its bits.
        return min(saved, -room) / max(extra, 1e-3) if saved > 0 else 0.0

    for _ in range(_SWAPS):
        if built.distortion <= max_distortion:
            return relax(built, sources, max_distortion)
        after = _swap(built, sources, lambda p: max_distortion - p.distortion, gain, swaps=1)
        if after is built:
            return None
        built = after
    return None


def _swap(
    point: Point,
    sources: list[TensorSource],
    room_of: Callable[[Point], float],
    gain: Callable[[Candidate, Candidate, float], float],
    swaps: int = _SWAPS,
) -> Point:
    for _ in range(swaps):
        room = room_of(point)
        best, place, swapped = 0.0, -1, None
        for index, (now, source) in enumerate(zip(point.candidates, sources, strict=True)):
            for other in source.seen:
                if other.indices.size and other.step != point.step:
                    continue
                if (value := gain(now, other, room)) > best:
                    best, place, swapped = value, index, other
        if swapped is None:
            break
        chosen = (*point.candidates[:place], swapped, *point.candidates[place + 1 :])
        point = Point(point.log_lambda, point.step, chosen)
    return point
