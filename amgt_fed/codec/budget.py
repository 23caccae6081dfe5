"""What an encoded update may cost: an error or a size. Either is a promise; the codec does its best on the other."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeAlias

from amgt_fed.codec.errors import InvalidBudget

# A reader who sums the squares in another order gets another last digit; the promise must hold for them too.
ROUNDING_MARGIN = 1e-12


@dataclass(frozen=True, slots=True)
class MaxError:
    """At most this l2 distance between the update and what the receiver decodes; 0 is lossless.

    Raises:
        InvalidBudget: `l2` is negative or NaN.
    """

    l2: float

    def __post_init__(self) -> None:
        if not self.l2 >= 0:  # NaN fails every comparison, so it is refused too
            raise InvalidBudget(f"MaxError l2 is {self.l2!r}; give a number >= 0 (0 is lossless)")


@dataclass(frozen=True, slots=True)
class RelativeError:
    """At most this normalised squared error, ||decoded - update||^2 / ||update||^2; 0 is lossless, 1 allows silence.

    Raises:
        InvalidBudget: `nmse` is negative or NaN.
    """

    nmse: float

    def __post_init__(self) -> None:
        if not self.nmse >= 0:
            raise InvalidBudget(f"RelativeError nmse is {self.nmse!r}; give a number >= 0 (0 is lossless)")


@dataclass(frozen=True, slots=True)
class MaxBytes:
    """At most this many bytes, framing included.

    Raises:
        InvalidBudget: `count` is not a positive whole number.
    """

    count: int

    def __post_init__(self) -> None:
        if not self.count >= 1 or self.count != int(self.count):
            raise InvalidBudget(f"MaxBytes count is {self.count!r}; give a whole number of bytes >= 1")


@dataclass(frozen=True, slots=True)
class BitsPerParameter:
    """At most this many bits for each parameter of the layout, framing included.

    Raises:
        InvalidBudget: `bits` is not a positive finite number.
    """

    bits: float

    def __post_init__(self) -> None:
        if not 0 < self.bits < math.inf:
            raise InvalidBudget(f"BitsPerParameter bits is {self.bits!r}; give a finite number > 0")


Budget: TypeAlias = MaxError | RelativeError | MaxBytes | BitsPerParameter


def error_limit(budget: Budget, update_l2: float) -> float:
    """The largest l2 error the budget allows; infinite for a budget of bytes."""
    if isinstance(budget, MaxError):
        return float(budget.l2) * (1 - ROUNDING_MARGIN)
    if isinstance(budget, RelativeError):
        return math.sqrt(budget.nmse) * update_l2 * (1 - ROUNDING_MARGIN)
    return math.inf


def byte_limit(budget: Budget, num_parameters: int) -> int | None:
    """The largest payload the budget allows, in bytes; None for a budget of error."""
    if isinstance(budget, MaxBytes):
        return int(budget.count)
    if isinstance(budget, BitsPerParameter):
        return int(budget.bits * num_parameters / 8)
    return None
