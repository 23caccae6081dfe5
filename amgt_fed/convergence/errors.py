"""What the convergence mathematics refuses, naming the value and its range."""

from __future__ import annotations

from amgt_fed.errors import ConfigError, RoundError


class InvalidAssumption(ConfigError):
    """A constant of the theory (mu, L, a step size, an error, ..) that no problem can have."""

    def __init__(self, name: str, value: object, allowed: str) -> None:
        super().__init__(name, value, allowed)  # plain args, so that the error survives pickling
        self.name = name
        self.value = value
        self.allowed = allowed

    def __str__(self) -> str:
        return f"{self.name} is {self.value!r}; it must be {self.allowed}"


class InvalidMeasurement(RoundError):
    """A round's measurement that no round can produce."""

    def __init__(self, name: str, value: object, allowed: str) -> None:
        super().__init__(name, value, allowed)
        self.name = name
        self.value = value
        self.allowed = allowed

    def __str__(self) -> str:
        return f"{self.name} is {self.value!r}; it must be {self.allowed}"
