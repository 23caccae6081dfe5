"""Tasks whose examples belong to someone: people, roles, stations, hospitals."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
from torch.utils.data import Dataset

from amgt_fed.errors import TaskError
from amgt_fed.tasks.base import Examples, IndexArray, Task, TaskSettings

Value = TypeVar("Value", int, float, str)


def option(settings: TaskSettings, name: str, default: Value, allowed: Sequence[Value] = ()) -> Value:
    """The task's option `name`, of the type of `default`.

    Raises:
        TaskError: another type, or none of `allowed`.
    """
    value = settings.options.get(name, default)
    if isinstance(default, float) and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if type(value) is not type(default) or (allowed and value not in allowed):
        words = ", ".join(map(str, allowed)) if allowed else f"a value like {default!r}"
        raise TaskError(f"options.{name} = {value!r} is not allowed; give {words}")
    return value


def refuse_unknown(settings: TaskSettings, *known: str) -> None:
    """Refuse an option the task does not have: it would be ignored in silence.

    Raises:
        TaskError: there is one.
    """
    for name in settings.options:
        if name not in known:
            raise TaskError(f"options.{name} is unknown to this task; it has {', '.join(known) or 'none'}")


class NaturalTask(Task):
    """A task with `partition.scheme = natural`: each owner of examples is a client."""

    @abstractmethod
    def owners(self) -> IndexArray:
        """For each training example the client it belongs to, 0, 1, ... without gaps."""

    def partitions(self) -> Sequence[IndexArray]:
        """The owners' examples, or what another scheme draws."""
        if self.settings.scheme != "natural":
            return super().partitions()
        owners = self.owners()
        return [np.flatnonzero(owners == client) for client in range(int(owners.max()) + 1)]

    def test_owners(self) -> IndexArray | None:
        """For each test example the client it belongs to; None where the test data are nobody's."""
        return None

    def client_test_data(self, client: int) -> Dataset[Any] | None:
        """The client's own held-out examples; its training data where the test data are nobody's."""
        owners = self.test_owners() if self.settings.scheme == "natural" else None
        if owners is None:
            return super().client_test_data(client)
        data = self._test_set
        assert isinstance(data, Examples)
        return data.subset(np.flatnonzero(owners == client))

    @cached_property
    def _test_set(self) -> Dataset[Any] | None:
        return self.test_data()
