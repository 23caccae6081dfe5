"""The tracker's constants: the configuration's before the task's."""

from __future__ import annotations

import pytest

from amgt_fed.config import from_flat
from amgt_fed.convergence import InvalidAssumption
from amgt_fed.setup import resolve
from amgt_fed.tasks import Constants
from server.bookkeeping import reference_of, tracker_for

KNOWN = Constants(mu=0.5, smoothness=6.0, f_low=2.0)


def test_what_the_configuration_leaves_open_the_task_fills() -> None:
    found = tracker_for(from_flat({}), KNOWN).assumptions
    assert (found.mu, found.smoothness, found.f_low) == (0.5, 6.0, 2.0)


def test_the_users_constants_go_before_the_tasks() -> None:
    keys = {"convergence.mu": 0.25, "convergence.smoothness": 8.0, "convergence.f_low": -1.0}
    found = tracker_for(from_flat(keys), KNOWN).assumptions
    assert (found.mu, found.smoothness, found.f_low) == (0.25, 8.0, -1.0)


def test_without_either_nothing_is_claimed_but_that_a_loss_is_not_negative() -> None:
    found = tracker_for(from_flat({})).assumptions
    assert (found.mu, found.smoothness, found.f_low) == (None, None, 0.0)


def test_a_users_mu_above_the_tasks_smoothness_is_refused() -> None:
    with pytest.raises(InvalidAssumption, match=r"smoothness.*6\.0.*mu = 7\.0"):
        tracker_for(from_flat({"convergence.mu": 7.0}), KNOWN)


def test_the_reference_is_of_the_plain_task_alone() -> None:
    assert reference_of(resolve({"task": "digits"})) == {"metric": "accuracy", "value": 0.9861}
    assert reference_of(resolve({"task": "har"})) is not None
    assert reference_of(resolve({"task": "har", "options.model": "mlp"})) is None
    assert reference_of(resolve({"task": "tests.helpers.tiny_task:Tiny"})) is None
