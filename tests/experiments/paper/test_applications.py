"""A verdict follows the computation: change the paper's statement, or the function, and it changes."""

from dataclasses import replace

import numpy as np
import pytest

from amgt_fed.experiments.paper.applications import _eigenvalue_claim, _hessian_claim
from amgt_fed.experiments.paper.claims import Verdict, judge, log_spaced
from amgt_fed.experiments.paper.quadratics import (
    APPLICATION_1,
    APPLICATION_2,
    Application,
    Outcome,
    critical_rate,
    descend,
    fastest_rate,
    plain,
)

SHIFTED = Application(
    "shifted",
    "A bowl elsewhere",
    "5 (x - 1)² + (y + 2)²",
    lambda p: 5 * (p[0] - 1) ** 2 + (p[1] + 2) ** 2,
    ((10.0, 0.0), (0.0, 2.0)),
)


@pytest.mark.parametrize(
    ("printed", "verdict"),
    [((0.76, 5.24), Verdict.HOLDS), ((1.17, 4.83), Verdict.FAILS), ((5.24, 0.76), Verdict.FAILS)],
)
def test_the_eigenvalue_verdict_depends_on_what_is_printed(printed, verdict) -> None:
    assert _eigenvalue_claim(APPLICATION_2, printed, "").verdict is verdict


@pytest.mark.parametrize(
    ("printed", "verdict"),
    [
        (((4.0, -2.0), (-2.0, 4.0)), Verdict.HOLDS),
        (((4.0, 2.0), (-2.0, 4.0)), Verdict.CORRECTED),
        (((4.0, 2.0), (2.0, 4.0)), Verdict.FAILS),
        (((4.0, 2.0), (-2.0, 5.0)), Verdict.FAILS),
    ],
)
def test_the_hessian_verdict_depends_on_what_is_printed(printed, verdict) -> None:
    assert _hessian_claim(replace(APPLICATION_1, printed_hessian=printed)).verdict is verdict


def test_nothing_is_known_beforehand_of_another_function() -> None:
    np.testing.assert_allclose(SHIFTED.optimum, [1, -2])
    assert (SHIFTED.spectrum.lambda_min, SHIFTED.spectrum.lambda_max) == pytest.approx((2, 10))
    assert critical_rate(SHIFTED, (0.0, 0.0)) == pytest.approx(0.2, abs=1e-3)
    assert fastest_rate(SHIFTED, (0.0, 0.0), np.linspace(0.1, 0.19, 91)) == pytest.approx(1 / 6, abs=0.004)
    assert SHIFTED.missing_directions((1.0, 0.0)) == pytest.approx([10.0])
    assert SHIFTED.missing_directions((0.0, 0.0)) == []
    assert _hessian_claim(SHIFTED).verdict is Verdict.HOLDS


@pytest.mark.parametrize(
    ("rate", "start", "outcome"),
    [
        (0.1, (0.0, 0.0), Outcome.CONVERGED),
        (0.2, (0.0, -2.0), Outcome.OSCILLATES),
        (0.25, (0.0, 0.0), Outcome.DIVERGED),
        (1e-5, (0.0, 0.0), Outcome.UNFINISHED),
    ],
)
def test_a_run_ends_in_one_of_four_ways(rate: float, start: tuple[float, float], outcome: Outcome) -> None:
    assert descend(SHIFTED, start, plain(rate), limit=300).outcome is outcome


def test_a_verdict_needs_a_truth_value_for_each_claim() -> None:
    assert judge(as_printed=True, corrected=False) is Verdict.HOLDS
    assert judge(as_printed=False, corrected=True) is Verdict.CORRECTED
    assert judge(as_printed=False) is Verdict.FAILS


@pytest.mark.parametrize("count", [1, 2, 3, 100, 10_000])
def test_thinning_keeps_both_ends(count: int) -> None:
    positions = log_spaced(count)
    assert positions[0] == 0
    assert positions[-1] == count - 1
    assert len(positions) <= 160
