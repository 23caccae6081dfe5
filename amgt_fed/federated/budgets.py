"""The error or byte budget of a round, as a rule that names the codec's budget for round k."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, TypeAlias

from amgt_fed.codec import BitsPerParameter, MaxBytes, MaxError, RelativeError
from amgt_fed.errors import ConfigError

Budget: TypeAlias = MaxError | RelativeError | MaxBytes | BitsPerParameter
BudgetKind: TypeAlias = Literal["bytes", "bits", "nmse", "error", "auto", "none"]

_FORMS = "bytes=N, bits=B, nmse=R, error=E, error=C/k or none"
_AUTO_FORMS = "bytes=N, bits=B, nmse=R, error=E, error=C/k, auto, auto=C or none"

AUTO_START = 0.9
"""nmse of round 1 under `auto`: few bytes, and the error from which the later ones follow."""

AUTO_SHARE = 3.0
"""delta_k = ||q - D|| = ||r_j - r_k||, with r_j the residual of the client's last round j, is at most the sum of two
errors. Each within C / (3 k), it is at most C / (3 j) + C / (3 k): within C / k for who took part since k / 2."""


@dataclass(frozen=True, slots=True)
class BudgetRule:
    """A budget that may shrink with the round: `error=C/k` is the O(1/k) schedule of eq. (27).

    Attributes:
        kind: bytes (the whole payload), bits (per parameter), nmse (||x - q||^2 / ||x||^2), error (l2), auto (delta_k
            <= C / k with error feedback), or none (the codec's own parameters decide).
        amount: N, B, R, E or C; 0 for none, and for auto where C is to follow from round 1.
        per_round: whether `amount` is divided by the round.
    """

    kind: BudgetKind
    amount: float
    per_round: bool = False

    @classmethod
    def parse(cls, text: str, *, auto: bool = False) -> BudgetRule:
        """Read `kind=amount`, e.g. "nmse=0.7", "bytes=600", "error=0.5/k".

        Args:
            text: what the user wrote.
            auto: whether `auto` and `auto=C` are understood as well: where the rounds of a run carry what they need.

        Raises:
            ConfigError: another form, or an amount outside its range.
        """
        forms = _AUTO_FORMS if auto else _FORMS
        kinds = ("bytes", "bits", "nmse", "error", *(("auto",) if auto else ()))
        if text.strip() == "none":
            return cls("none", 0.0)
        if auto and text.strip() == "auto":
            return cls("auto", 0.0, per_round=True)
        kind, separator, rest = text.replace(" ", "").partition("=")
        per_round = rest.endswith("/k")
        number = rest.removesuffix("/k")
        if not separator or kind not in kinds or (per_round and kind != "error"):
            raise ConfigError(f"budget {text!r} is not understood; write one of {forms}")
        try:
            amount = float(number)
        except ValueError:
            raise ConfigError(f"budget {text!r} has no number after '='; write one of {forms}") from None
        if not (math.isfinite(amount) and amount > 0):
            raise ConfigError(f"budget {text!r} must be a finite number above 0")
        if kind == "nmse" and amount >= 1:
            raise ConfigError(f"budget {text!r}: an nmse of 1 or more would send nothing; give a number below 1")
        if kind == "bytes" and amount != int(amount):
            raise ConfigError(f"budget {text!r}: bytes must be a whole number")
        return cls(kind, amount, per_round or kind == "auto")  # type: ignore[arg-type]  # narrowed by the membership test above

    def at(self, round: int) -> Budget | None:
        """The codec's budget for `round` >= 1; None for kind `none`."""
        if self.kind == "none":
            return None
        if self.kind == "auto":
            return MaxError(self.amount / (AUTO_SHARE * round)) if self.amount else RelativeError(AUTO_START)
        amount = self.amount / round if self.per_round else self.amount
        if self.kind == "bytes":
            return MaxBytes(int(amount))
        if self.kind == "bits":
            return BitsPerParameter(amount)
        if self.kind == "nmse":
            return RelativeError(amount)
        return MaxError(amount)

    def schedule_c(self, first_error: float) -> float | None:
        """C of delta_k <= C / k where the rule promises one; None otherwise.

        Args:
            first_error: k times the error of the first round k that had one; 0: there was none yet.
        """
        if self.kind != "auto" or not (self.amount or first_error):
            return None
        return self.amount or AUTO_SHARE * first_error


@dataclass(frozen=True, slots=True)
class LinkBudgets:
    """What single clients' links allow, by client number."""

    ranges: tuple[tuple[int, int, BudgetRule], ...] = ()

    @classmethod
    def parse(cls, text: str) -> LinkBudgets:
        """Read e.g. "0-3:bytes=300, 7:bits=0.1"; of several entries for a client the last holds.

        Raises:
            ConfigError: another form, or a budget that is no size.
        """
        ranges = []
        for entry in filter(None, (part.strip() for part in text.split(","))):
            clients, separator, budget = entry.partition(":")
            first, dash, last = clients.partition("-")
            numbers = [number.strip() for number in ((first, last) if dash else (first, first))]
            if not separator or not all(number.isdecimal() for number in numbers):
                raise ConfigError(f"link budget {entry!r} is not understood; write e.g. 0-3:bytes=300, 7:bits=0.1")
            low, high = map(int, numbers)
            if low > high:
                raise ConfigError(f"link budget {entry!r}: client {low} comes after {high}; write {high}-{low}")
            ranges.append((low, high, size_budget(budget)))
        return cls(tuple(ranges))

    def of(self, client: int) -> BudgetRule | None:
        """What the table says of `client`; None where it says nothing."""
        found = [rule for low, high, rule in self.ranges if low <= client <= high]
        return found[-1] if found else None


def size_budget(text: str) -> BudgetRule:
    """A link's budget: `bytes=N` or `bits=B`.

    Raises:
        ConfigError: another form: a link bears so many bytes, whatever error that means.
    """
    rule = BudgetRule.parse(text)
    if rule.kind not in ("bytes", "bits"):
        raise ConfigError(f"a link's budget is bytes=N or bits=B (per parameter), not {text.strip()!r}")
    return rule
