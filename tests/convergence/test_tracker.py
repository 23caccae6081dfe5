import json
import math
import time
from dataclasses import replace

import numpy as np
import pytest

from amgt_fed.convergence import (
    Assumptions,
    CertifiedGradient,
    ConvergenceTracker,
    InvalidAssumption,
    InvalidMeasurement,
    Measurement,
    Status,
    StatusRules,
    StopReason,
    StopRules,
    theory,
)
from amgt_fed.errors import StateError
from amgt_fed.schedules import StronglyConvex


def measure(round: int, **changes) -> Measurement:
    return replace(
        Measurement(round, update_norm=1.0 / round, delta=0.1 / round, step_size=0.1, loss=1 / round), **changes
    )


class NoisyQuadratic:
    """f(x) = x'Hx/2 + 2 trained with a random error of norm c/k: everything the tracker bounds is known here."""

    def __init__(self, seed: int, c: float = 0.5) -> None:
        self.generator = np.random.default_rng(seed)
        self.spectrum = np.array([0.5, 1.0, 4.0])
        self.mu, self.smoothness, self.c = 0.5, 4.0, c
        self.x = self.generator.normal(size=3) * 3
        self.schedule = StronglyConvex.for_smoothness(self.mu, self.smoothness)

    def assumptions(self) -> Assumptions:
        return Assumptions(mu=self.mu, smoothness=self.smoothness, f_low=2.0, c=self.c)

    def loss(self) -> float:
        return float(self.spectrum @ self.x**2 / 2) + 2

    def round(self, k: int, certify_every: int = 5) -> Measurement:
        gradient = self.spectrum * self.x
        error = self.generator.normal(size=3)
        error *= self.c / k / np.linalg.norm(error)
        measured = gradient + 0.01 * np.linalg.norm(gradient) * np.array([1.0, 0, 0])
        measurement = Measurement(
            round=k,
            update_norm=float(np.linalg.norm(gradient + error)),
            delta=float(np.linalg.norm(error)),
            gradient_error=float(np.linalg.norm(error)),
            step_size=self.schedule(k),
            loss=self.loss(),
            uplink_bytes=100,
            downlink_bytes=50,
            certificate=CertifiedGradient(float(np.linalg.norm(measured)), float(np.linalg.norm(gradient)) * 0.01)
            if (k - 1) % certify_every == 0
            else None,
        )
        self.x = self.x - self.schedule(k) * (gradient + error)
        return measurement


@pytest.mark.parametrize("seed", range(20))
def test_every_bound_holds_the_truth_in_every_round(seed: int) -> None:
    problem = NoisyQuadratic(seed, c=[0.0, 0.1, 2.0][seed % 3])
    tracker = ConvergenceTracker(problem.assumptions())
    smallest = math.inf
    for k in range(1, 200):
        distance, gap = float(np.linalg.norm(problem.x)), problem.loss() - 2
        gradient = float(np.linalg.norm(problem.spectrum * problem.x))
        smallest = min(smallest, gradient)
        report = tracker.observe(problem.round(k))
        bounds = report.bounds
        assert bounds.distance is not None
        assert bounds.gap is not None
        assert bounds.distance_after is not None
        assert bounds.gap_after is not None
        assert bounds.gradient_min is not None
        assert bounds.gradient_min_certified is not None
        assert distance <= bounds.distance.value
        assert gap <= bounds.gap.value
        assert np.linalg.norm(problem.x) <= bounds.distance_after.value
        assert problem.loss() - 2 <= bounds.gap_after.value
        assert smallest <= bounds.gradient_min.value
        assert smallest <= bounds.gradient_min_certified
        assert not bounds.distance_after.conditional
        assert not bounds.gradient_min.conditional
        assert bounds.constants == replace(problem.assumptions(), f_first=bounds.constants.f_first)
        if report.certificate is not None:
            assert report.certificate.gradient_lower <= gradient <= report.certificate.gradient_upper
            assert distance <= report.certificate.distance
            assert gap <= report.certificate.gap
    assert report.total_bytes == 199 * 150
    # The last certificate is not only true but useful: the slowest direction remains, where (B) is sharp.
    assert report.bounds.distance.value <= 3 * distance + problem.c


def test_the_running_bounds_are_the_theorys() -> None:
    tracker = ConvergenceTracker(Assumptions(mu=1.0, smoothness=3.0, f_low=0.5))
    steps, deltas, norms = [], [], []
    start = CertifiedGradient(2.0, 0.5)
    for k in range(1, 30):
        steps.append(0.4 / k), deltas.append(0.7 / k), norms.append(1.1 / k)
        report = tracker.observe(
            measure(
                k, step_size=steps[-1], delta=deltas[-1], update_norm=norms[-1], certificate=start if k == 1 else None
            )
        )
        square = theory.stationarity_bound(steps, deltas, norms, f_first=1.0, f_low=0.5, smoothness=3.0)[-1]
        assert report.bounds.gradient_min.value == pytest.approx(math.sqrt(square), rel=1e-12)
        distance = theory.distance_bounds(2.5, steps, deltas, 1.0, 3.0)[-1]
        assert report.bounds.distance_after.value == pytest.approx(distance, rel=1e-12)


def test_a_run_stalls_exactly_so_many_rounds_after_its_last_progress() -> None:
    tracker = ConvergenceTracker(rules=StatusRules(stall_rounds=7, smoothing=1))
    statuses = {k: tracker.observe(measure(k, loss=max(10 - k, 4))).status for k in range(1, 20)}
    # The loss last falls in round 6.
    assert [k for k, status in statuses.items() if status is Status.STALLED] == list(range(13, 20))


def test_the_claimed_slopes_are_found() -> None:
    tracker = ConvergenceTracker(Assumptions(c=0.2))
    for k in range(1, 301):
        report = tracker.observe(measure(k, update_norm=3 / k**0.7))
    assert report.update_slope is not None
    assert report.delta_slope is not None
    assert report.update_slope.value == pytest.approx(-0.7)
    assert report.delta_slope.value == pytest.approx(-1)
    assert report.delta_slope.points >= 140


@pytest.mark.parametrize(
    ("assumptions", "explicit", "expected"),
    [
        (Assumptions(c=0.4), None, 0.1),
        (Assumptions(theta=0.5), None, 0.125),
        (Assumptions(c=0.4), 0.3, 0.3),
        (Assumptions(), 0.3, 0.3),
        (Assumptions(), None, None),
    ],
)
def test_the_error_is_held_against_its_budget(assumptions, explicit, expected) -> None:
    tracker = ConvergenceTracker(assumptions)
    report = tracker.observe(measure(4, update_norm=1.0, delta=0.2, budget=explicit))
    assert report.error.budget == expected
    assert report.error.observed_c == pytest.approx(0.8)
    if expected is None:
        assert report.error.ratio is None
        assert report.status is Status.IMPROVING
    else:
        assert report.error.ratio == pytest.approx(0.2 / expected)
        assert report.status is (Status.BUDGET_VIOLATED if expected < 0.2 else Status.IMPROVING)
        assert report.error.violations == (expected < 0.2)


def test_a_budget_of_zero_forbids_any_loss_but_not_a_lossless_round() -> None:
    tracker = ConvergenceTracker(Assumptions(c=0.0))
    assert tracker.observe(measure(1, delta=0.0)).error.ratio == 0
    report = tracker.observe(measure(2, delta=1e-9))
    assert report.error.ratio == math.inf
    assert report.status is Status.BUDGET_VIOLATED
    assert json.loads(json.dumps(report.to_dict(), allow_nan=False))["error"]["ratio"] == "inf"
    assert ConvergenceTracker.from_state(tracker.state()).observe(measure(3, delta=0.0)).error.worst_ratio == math.inf


def test_local_steps_make_the_recursive_bounds_conditional_until_certified() -> None:
    tracker = ConvergenceTracker(Assumptions(mu=1.0, smoothness=2.0, f_low=0.0))
    first = tracker.observe(measure(1, certificate=CertifiedGradient(1.0, 0.1)))
    assert not first.bounds.distance.conditional
    assert first.bounds.distance_after.conditional
    assert first.bounds.gradient_min.conditional
    second = tracker.observe(measure(2, certificate=CertifiedGradient(50.0, 0.1)))
    assert second.bounds.distance.value == pytest.approx(50.1)  # proved, though larger than the conditional one
    assert not second.bounds.distance.conditional


def test_a_difference_of_models_is_read_in_gradient_units() -> None:
    # Ten local steps of .02 along a constant gradient: m = .2 g. The bounds must be those of the gradient itself.
    as_gradient = ConvergenceTracker(Assumptions(mu=1.0, smoothness=2.0, f_low=0.0))
    as_difference = ConvergenceTracker(Assumptions(mu=1.0, smoothness=2.0, f_low=0.0))
    for k in range(1, 20):
        certificate = CertifiedGradient(1.0, 0.1) if k == 1 else None
        plain = as_gradient.observe(measure(k, step_size=0.2, certificate=certificate))
        scaled = as_difference.observe(
            measure(
                k,
                step_size=1.0,
                update_norm=0.2 / k,
                delta=0.02 / k,
                gradient_scale=0.2,
                certificate=certificate,
            )
        )
        assert scaled.bounds.distance_after.value == pytest.approx(plain.bounds.distance_after.value)
        assert scaled.bounds.gradient_min.value == pytest.approx(plain.bounds.gradient_min.value)


def test_sampled_certificates_stay_out_of_every_rigorous_figure() -> None:
    rules = StatusRules(gradient_tolerance=1.0)
    tracker = ConvergenceTracker(Assumptions(mu=1.0, smoothness=2.0), rules=rules)
    sampled = CertifiedGradient(0.1, 0.01, full_participation=False, sampling_error=0.5)
    report = tracker.observe(measure(1, certificate=sampled))
    assert report.certificate is not None
    assert not report.certificate.rigorous
    assert report.certificate.gradient_upper == pytest.approx(0.11)
    assert report.certificate.estimated_gradient_upper == pytest.approx(0.61)
    assert report.bounds.distance is report.bounds.gap is report.bounds.gradient_min_certified is None
    assert report.status is Status.IMPROVING
    full = tracker.observe(measure(2, certificate=replace(sampled, full_participation=True)))
    assert full.status is Status.CONVERGED
    assert full.bounds.gradient_min_certified == pytest.approx(0.11)


def test_unknown_constants_yield_no_bound() -> None:
    certificate = CertifiedGradient(1.0, 0.0)
    nothing = ConvergenceTracker().observe(measure(1, certificate=certificate)).bounds
    assert nothing.distance is nothing.gap is nothing.gradient_min is None
    assert nothing.gradient_min_certified == 1.0
    only_mu = ConvergenceTracker(Assumptions(mu=2.0)).observe(measure(1, certificate=certificate)).bounds
    assert only_mu.distance.value == 0.5
    assert only_mu.gap.value == 0.25
    assert only_mu.distance_after is None
    no_mu = (
        ConvergenceTracker(Assumptions(smoothness=2.0, f_low=0.0)).observe(measure(1, certificate=certificate)).bounds
    )
    assert no_mu.distance is None
    assert no_mu.gradient_min is not None


def test_a_certificate_below_every_asked_tolerance_is_convergence() -> None:
    tracker = ConvergenceTracker(
        Assumptions(mu=2.0),
        rules=StatusRules(gap_tolerance=0.01, distance_tolerance=0.05),
        stops=StopRules(on_certificate=True),
    )
    near = tracker.observe(measure(1, certificate=CertifiedGradient(0.11, 0.0)))  # gap .003, distance .055
    assert near.status is Status.IMPROVING
    there = tracker.observe(measure(2, certificate=CertifiedGradient(0.08, 0.01)))
    assert there.status is Status.CONVERGED
    assert there.stop is StopReason.CERTIFICATE
    assert "round 2" in there.explanation
    assert tracker.observe(measure(3)).status is Status.CONVERGED  # nothing newer says otherwise
    assert tracker.observe(measure(4, certificate=CertifiedGradient(5.0, 0.0))).status is not Status.CONVERGED


def test_a_loss_that_stops_falling_stalls_and_may_stop_the_run() -> None:
    generator = np.random.default_rng(3)
    tracker = ConvergenceTracker(rules=StatusRules(stall_rounds=15), stops=StopRules(on_stall=True))
    statuses = []
    for k in range(1, 60):
        floor = max(1 / k, 1 / 20)
        report = tracker.observe(measure(k, loss=floor + abs(generator.normal(0, 1e-4))))
        statuses.append(report.status)
    assert statuses[:20] == [Status.IMPROVING] * 20
    assert statuses[-1] is Status.STALLED
    assert report.stop is StopReason.STALL


def test_a_falling_certificate_is_progress_though_the_loss_rests() -> None:
    tracker = ConvergenceTracker(rules=StatusRules(stall_rounds=10))
    for k in range(1, 60):
        certificate = CertifiedGradient(1 / k, 0.0) if k % 5 == 0 else None
        assert tracker.observe(measure(k, loss=0.5, certificate=certificate)).status is Status.IMPROVING


@pytest.mark.parametrize("growth", [1.05, 1.5, 10.0])
def test_a_loss_that_runs_away_diverges(growth: float) -> None:
    tracker = ConvergenceTracker(stops=StopRules(on_divergence=True))
    for k in range(1, 200):
        report = tracker.observe(measure(k, loss=2 + 0.01 * growth**k, update_norm=0.1 * growth**k))
        if report.status is Status.DIVERGING:
            break
    assert report.status is Status.DIVERGING
    assert report.stop is StopReason.DIVERGENCE
    assert report.loss < 20 * growth**3  # caught within a few rounds of doubling, not at infinity


@pytest.mark.parametrize("seed", range(10))
def test_a_noisy_run_that_learns_never_counts_as_diverging(seed: int) -> None:
    generator = np.random.default_rng(seed)
    tracker = ConvergenceTracker()
    for k in range(1, 400):
        spike = 20.0 if generator.uniform() < 0.05 else 0.0  # one client's bad shard now and then
        loss = 2.3 * k**-0.5 * generator.lognormal(0, 0.3) + spike * (k % 3 == 0)
        assert tracker.observe(measure(k, loss=loss)).status is not Status.DIVERGING


@pytest.mark.parametrize(
    "broken",
    [
        {"loss": math.nan},
        {"update_norm": math.inf},
        {"delta": math.nan},
        {"certificate": CertifiedGradient(math.nan, 0.0)},
        {"gradient_error": math.inf},
    ],
)
def test_a_nan_diverges_at_once_and_poisons_no_later_report(broken) -> None:
    tracker = ConvergenceTracker(Assumptions(mu=1.0, smoothness=2.0, f_low=0.0, c=1.0))
    tracker.observe(measure(1, gradient_error=0.0, certificate=CertifiedGradient(1.0, 0.0)))
    report = tracker.observe(measure(2, **broken))
    assert report.status is Status.DIVERGING
    assert report.bounds.distance_after is None
    json.dumps(report.to_dict(), allow_nan=False)
    json.dumps(tracker.state(), allow_nan=False)
    later = tracker.observe(measure(3, certificate=CertifiedGradient(0.5, 0.0)))
    assert later.bounds.distance.value == 0.5
    assert later.bounds.gradient_min is None  # (C) sums over every round; one of them is unknown for good


def test_a_run_beyond_the_range_of_floats_is_reported_not_raised() -> None:
    tracker = ConvergenceTracker(Assumptions(mu=1.0, smoothness=1e3, f_low=0.0, c=1.0))
    for k in range(1, 200):
        size = 10.0 ** min(2 * k, 300)
        certificate = CertifiedGradient(size, 0.0) if k % 7 == 1 else None
        report = tracker.observe(measure(k, loss=size, update_norm=size, step_size=10.0, certificate=certificate))
        json.dumps(report.to_dict(), allow_nan=False)
        json.dumps(tracker.state(), allow_nan=False)
    assert report.status is Status.DIVERGING


def test_a_round_without_participants_changes_no_bound_and_no_slope() -> None:
    def run(with_gap: bool):
        tracker = ConvergenceTracker(Assumptions(mu=1.0, smoothness=2.0, f_low=0.0))
        for k in range(1, 40):
            if k == 35:
                if with_gap:
                    tracker.observe(Measurement(k, 5.0, 1.0, 0.1, participants=0, failures=4))
                continue
            report = tracker.observe(measure(k, gradient_error=0.1 / k, certificate=CertifiedGradient(1.0, 0.0)))
        return report

    empty, absent = run(True), run(False)
    assert empty.bounds == absent.bounds
    assert empty.update_slope == absent.update_slope
    assert (empty.total_failures, absent.total_failures) == (4, 0)


def test_byte_and_time_budgets_stop_the_run_when_reached() -> None:
    tracker = ConvergenceTracker(stops=StopRules(max_bytes=1000))
    stops = [tracker.observe(measure(k, uplink_bytes=300, downlink_bytes=100)).stop for k in (1, 2, 3)]
    assert stops == [None, None, StopReason.BYTES]
    tracker = ConvergenceTracker(stops=StopRules(max_seconds=60.0))
    assert tracker.observe(measure(1, elapsed_s=59.0)).stop is None
    assert tracker.observe(measure(2, elapsed_s=60.0)).stop is StopReason.TIME
    assert ConvergenceTracker().observe(measure(1, elapsed_s=1e9, uplink_bytes=10**15)).stop is None


@pytest.mark.parametrize("seed", range(5))
def test_a_resumed_tracker_gives_the_same_reports_bit_for_bit(seed: int) -> None:
    problem = NoisyQuadratic(seed)
    rules = StatusRules(gap_tolerance=1e-3)
    whole = ConvergenceTracker(problem.assumptions(), rules=rules, stops=StopRules(on_certificate=True, max_bytes=9000))
    resumed = ConvergenceTracker.from_state(json.loads(json.dumps(whole.state(), allow_nan=False)))
    for k in range(1, 120):
        measurement = problem.round(k)
        assert resumed.observe(measurement) == whole.observe(measurement)
        resumed = ConvergenceTracker.from_state(json.loads(json.dumps(resumed.state(), allow_nan=False)))


def test_a_hundred_thousand_rounds_cost_no_more_each_than_a_hundred() -> None:
    tracker = ConvergenceTracker(Assumptions(mu=1.0, smoothness=2.0, f_low=0.0, c=1.0))
    certificate = CertifiedGradient(1.0, 0.1)

    def seconds(first: int, count: int) -> float:
        begin = time.perf_counter()
        for k in range(first, first + count):
            tracker.observe(measure(k, certificate=certificate if k % 10 == 1 else None))
        return time.perf_counter() - begin

    early = min(seconds(1 + 500 * i, 500) for i in range(4))
    size = len(json.dumps(tracker.state()))
    late = min(seconds(100_000 + 500 * i, 500) for i in range(4))
    assert late < 5 * early
    assert len(json.dumps(tracker.state())) < 2 * size


@pytest.mark.parametrize(
    "damage",
    [
        lambda state: state.update(version=2),
        lambda state: state.pop("ledger"),
        lambda state: state["rules"].update(unknown=1),
        lambda state: state["assumptions"].update(mu=-1),
        lambda state: state.update(update_fit=[1, 2]),
        lambda state: state["ledger"].update(distance="far"),
    ],
)
def test_a_damaged_state_is_refused(damage) -> None:
    tracker = ConvergenceTracker(Assumptions(mu=1.0))
    tracker.observe(measure(1))
    state = tracker.state()
    damage(state)
    with pytest.raises(StateError, match="tracker state"):
        ConvergenceTracker.from_state(state)


def test_rounds_come_in_order() -> None:
    tracker = ConvergenceTracker()
    tracker.observe(measure(5))
    with pytest.raises(InvalidMeasurement, match="round is 5; it must be later than 5"):
        tracker.observe(measure(5))
    assert tracker.observe(measure(9)).round == 9


def test_a_loss_below_the_assumed_floor_contradicts_the_assumption() -> None:
    with pytest.raises(
        InvalidAssumption, match=r"f_low is 2\.0; it must be a lower bound, yet the loss measured is 1\.0"
    ):
        ConvergenceTracker(Assumptions(smoothness=1.0, f_low=2.0)).observe(measure(1))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Assumptions(mu=0.0), "mu is 0.0"),
        (lambda: Assumptions(mu=math.nan), "mu is nan"),
        (lambda: Assumptions(mu=2.0, smoothness=1.0), "smoothness is 1.0"),
        (lambda: Assumptions(c=-1.0), "c is -1.0"),
        (lambda: Assumptions(c=1.0, theta=0.1), "theta is 0.1"),
        (lambda: Assumptions(f_low=-math.inf), "f_low is -inf"),
        (lambda: StatusRules(stall_rounds=0), "stall_rounds is 0"),
        (lambda: StatusRules(gap_tolerance=-1e-3), "gap_tolerance is -0.001"),
        (lambda: StatusRules(divergence_factor=math.nan), "divergence_factor is nan"),
        (lambda: StopRules(max_bytes=0), "max_bytes is 0"),
        (lambda: StopRules(max_seconds=-1.0), "max_seconds is -1.0"),
    ],
)
def test_settings_out_of_range_are_named(build, message: str) -> None:
    with pytest.raises(InvalidAssumption, match=message.replace(".", r"\.")):
        build()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"round": 0}, "round is 0"),
        ({"update_norm": -1.0}, "update_norm is -1.0"),
        ({"delta": -0.5}, "delta is -0.5"),
        ({"participants": -1}, "participants is -1"),
        ({"uplink_bytes": -8}, "uplink_bytes is -8"),
        ({"step_size": math.nan}, "step_size is nan"),
        ({"gradient_scale": 0.0}, "gradient_scale is 0.0"),
        ({"budget": -0.1}, "budget is -0.1"),
    ],
)
def test_a_measurement_no_round_can_produce_is_refused(changes, message: str) -> None:
    with pytest.raises(InvalidMeasurement, match=message.replace(".", r"\.")):
        measure(1, **changes) if "round" not in changes else measure(1).__class__(0, 1.0, 1.0, 1.0)


def test_a_negative_certified_norm_is_refused() -> None:
    with pytest.raises(InvalidMeasurement, match="certified gradient: norm"):
        CertifiedGradient(-1.0, 0.0)
