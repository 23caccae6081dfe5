"""The error or byte budget of a round, as a rule that names the codec's budget for round k."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, TypeAlias

from amgt_fed.codec import BitsPerParameter, MaxBytes, MaxError, RelativeError
from amgt_fed.errors import ConfigError

Budget: TypeAlias = MaxError | RelativeError | MaxBytes | BitsPerParameter
BudgetKind: TypeAlias = Literal["bytes", "bits", "nmse", "error", "none"]

_FORMS = "bytes=N, bits=B, nmse=R, error=E, error=C/k or none"


@dataclass(frozen=True, slots=True)
class BudgetRule:
    """A budget that may shrink with the round: `error=C/k` is the O(1/k) schedule of eq. (27).

    Attributes:
        kind: bytes (the whole payload), bits (per parameter), nmse (||x - q||^2 / ||x||^2), error (l2), or none (the
            codec's own parameters decide).
        amount: N, B, R, E or C; 0 for none.
        per_round: whether `amount` is divided by the round.
    """

    kind: BudgetKind
    amount: float
    per_round: bool = False

    @classmethod
    def parse(cls, text: str) -> BudgetRule:
        """Read `kind=amount`, e.g. "nmse=0.7", "bytes=600", "error=0.5/k".

        Raises:
            ConfigError: another form, or an amount outside its range.
        """
        if text.strip() == "none":
            return cls("none", 0.0)
        kind, separator, rest = text.replace(" ", "").partition("=")
        per_round = rest.endswith("/k")
        number = rest.removesuffix("/k")
        if not separator or kind not in ("bytes", "bits", "nmse", "error") or (per_round and kind != "error"):
            raise ConfigError(f"budget {text!r} is not understood; write one of {_FORMS}")
        try:
            amount = float(number)
        except ValueError:
            raise ConfigError(f"budget {text!r} has no number after '='; write one of {_FORMS}") from None
        if not (math.isfinite(amount) and amount > 0):
            raise ConfigError(f"budget {text!r} must be a finite number above 0")
        if kind == "nmse" and amount >= 1:
            raise ConfigError(f"budget {text!r}: an nmse of 1 or more would send nothing; give a number below 1")
        if kind == "bytes" and amount != int(amount):
            raise ConfigError(f"budget {text!r}: bytes must be a whole number")
        return cls(kind, amount, per_round)  # type: ignore[arg-type]  # narrowed by the membership test above

    def at(self, round: int) -> Budget | None:
        """The codec's budget for `round` >= 1; None for kind `none`."""
        if self.kind == "none":
            return None
        amount = self.amount / round if self.per_round else self.amount
        if self.kind == "bytes":
            return MaxBytes(int(amount))
        if self.kind == "bits":
            return BitsPerParameter(amount)
        if self.kind == "nmse":
            return RelativeError(amount)
        return MaxError(amount)
