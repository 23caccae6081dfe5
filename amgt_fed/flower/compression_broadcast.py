"""The server's model as the clients have it: versions, the steps between them, and who has which."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from flwr.app import ArrayRecord

from amgt_fed.codec import Codec, get_codec
from amgt_fed.federated.budgets import BudgetRule
from amgt_fed.flower.compression_arrays import Patch, make
from amgt_fed.flower.compression_values import digest_of, distance, specs_of


@dataclass(frozen=True, slots=True)
class Delivery:
    """What brings one client to the latest version.

    Attributes:
        first: version the first patch leads to.
        patches: the steps; None: send the model.
    """

    first: int
    patches: tuple[Patch, ...] | None


class Broadcast:
    """Follow a model whose every state is approximated by a version; all clients get the same versions.

    A version is the one before minus an encoded step towards the server's own model, so what a step leaves out is in
    the next difference by itself, and all who took the same steps hold the same bits.

    Args:
        codec, budget: of the steps.
        is_exact: whether an array of this name is sent bit for bit.
    """

    def __init__(self, codec: Codec, budget: BudgetRule, is_exact: Callable[[str], bool]) -> None:
        self._codec = codec
        self._budget = budget
        self._is_exact = is_exact
        self._model = ArrayRecord()
        self._target_digest = b""
        self._digest = b""
        self._version = 0
        self._error = 0.0
        self._steps: tuple[Patch, ...] = ()  # the latest, ending with the one to this version
        self._state: object = None

    @property
    def version(self) -> int:
        """Of the latest model; 0 before the first."""
        return self._version

    @property
    def model(self) -> ArrayRecord:
        """What the clients have once they are up to date."""
        return self._model

    @property
    def digest(self) -> bytes:
        """Of `model`."""
        return self._digest

    @property
    def error_l2(self) -> float:
        """The distance between `model` and the server's own, over all float arrays."""
        return self._error

    def begin(self, arrays: ArrayRecord, budget: BudgetRule) -> ArrayRecord:
        """Start with an encoded model.

        Args:
            arrays: the initial model.
            budget: of its matrices, each at its own scale, by the codec amgt; the first version is what that leaves.

        Returns:
            The first version.
        """
        made = make(None, arrays, get_codec("amgt"), budget.at(1), is_exact=self._is_exact)
        self._advance(made.result, made.result, (made.patch,))
        return made.result

    def follow(self, arrays: ArrayRecord, round: int) -> None:
        """Make a version that approximates `arrays`, unless the latest one does already.

        A model with other names, shapes or types than before is a version without a step: everyone is sent it.

        Raises:
            RoundError: an array is not finite.
            ImpossibleBudget: the budget is too small for a step.
        """
        digest = digest_of(arrays)
        if digest == self._target_digest:
            return
        if not self._version or specs_of(arrays) != specs_of(self._model):
            self._state = None
            self._advance(arrays, arrays, ())
            return
        made = make(
            self._model, arrays, self._codec, self._budget.at(round), is_exact=self._is_exact, state=self._state
        )
        self._state = made.state
        self._advance(arrays, made.result, (*self._steps, made.patch), digest)

    def delivery(self, held: int) -> Delivery:
        """What brings a client that has version `held` (0: nothing) up to date, in the fewest bytes."""
        oldest = self._version - len(self._steps) + 1
        if held + 1 >= oldest:
            return Delivery(held + 1, self._steps[held + 1 - oldest :])
        return Delivery(self._version, None)

    def _advance(
        self, target: ArrayRecord, model: ArrayRecord, steps: tuple[Patch, ...], digest: bytes | None = None
    ) -> None:
        self._version += 1
        self._target_digest = digest_of(target) if digest is None else digest
        self._model = model
        self._digest = digest_of(model)
        self._error = 0.0 if model is target else distance(model, target)
        room = sum(len(array.data) for array in model.values())
        total = 0
        for count, patch in enumerate(reversed(steps)):  # older ones would be more than the model itself
            total += patch.size
            if total >= room:
                steps = steps[len(steps) - count :]
                break
        self._steps = steps
