"""What the optimizer refuses, and why."""

from __future__ import annotations

from amgt_fed.errors import AMGTFedError, ConfigError


class InvalidHyperparameter(ConfigError):
    """A setting of `AMGT` outside its range; the text names the setting, the value and the range."""

    def __init__(self, name: str, value: object, allowed: str) -> None:
        super().__init__(name, value, allowed)  # args stay plain, so the error survives pickling
        self.name, self.value, self.allowed = name, value, allowed

    def __str__(self) -> str:
        return f"{self.name} is {self.value!r}; allowed: {self.allowed}"


class InvalidBudget(AMGTFedError, ValueError):
    """A threshold budget that no update can meet."""

    def __init__(self, budget: float) -> None:
        super().__init__(budget)
        self.budget = budget

    def __str__(self) -> str:
        return f"budget is {self.budget!r}; give a number >= 0 (0 keeps every entry)"


class UnsupportedTensor(AMGTFedError, TypeError, RuntimeError):
    """A parameter or gradient of a kind AMGT does not step: complex, integer or sparse.

    A TypeError because the kind is wrong, a RuntimeError because that is what torch's own optimizers raise here.
    """


class NonFiniteGradient(AMGTFedError, RuntimeError):
    """A gradient holds NaN or an infinity, or its square overflows; no parameter and no state was changed."""


class FusedStepUnavailable(AMGTFedError, RuntimeError):
    """fused=True was asked for where the kernel cannot be compiled."""
