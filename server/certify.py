"""Certified rounds: the gradient of every client's full objective at x_k, and at points nearer to the minimum."""

from __future__ import annotations

import logging
import math
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from amgt_fed.codec import RelativeError, decode, get_codec
from amgt_fed.convergence import Assumptions, CertifiedGradient, MeasuredPoint, MinimumSearch, gap_bounds
from amgt_fed.federated.aggregate import Accumulator
from amgt_fed.federated.messages import Aggregate
from amgt_fed.federated.state import ServerState, with_synced
from amgt_fed.layout import Float32Vector, Layout
from amgt_fed.setup import Setup

from .roster import Roster
from .rounds import RoundRunner
from .traffic import Traffic

log = logging.getLogger("amgt_fed.server")

_OFFSET_NMSE = 1e-8  # how exactly a proposal is met; what was met is known exactly on both sides
_NOISE = 0.01  # error asked for, as a share of the last gradient's norm
_TOO_NOISY = 0.1  # a mean gradient with a larger share of error is measured again
_REPEATS = 3
_FLOAT32_ROUNDING = 2.0**-24


class Certifier:
    """Measures gradients over all connected clients; keeps the point nearest to the minimum from round to round.

    Args:
        runner: asks the clients.
        setup: of the run.
        layout: of the model.
        roster: who is connected.
        assumptions: the tracker's; without mu there is no gap to bound.
        nearest: the point a run that is resumed had found.
    """

    def __init__(
        self,
        runner: RoundRunner,
        setup: Setup,
        layout: Layout,
        roster: Roster,
        assumptions: Assumptions,
        nearest: MeasuredPoint | None = None,
    ) -> None:
        self._runner = runner
        self._setup = setup
        self._layout = layout
        self._roster = roster
        self._assumptions = assumptions
        self._norm = 0.0  # of the last gradient measured: what the next one's error is held against
        self._search: MinimumSearch | None = None
        if nearest is not None:
            self._search = MinimumSearch(nearest, smoothness=assumptions.smoothness)

    @property
    def nearest(self) -> MeasuredPoint | None:
        """The measured point nearest to the minimum, for the checkpoint; None before there is one."""
        return None if self._search is None else self._search.best

    def certify(self, state: ServerState, traffic: Traffic) -> tuple[ServerState, CertifiedGradient | None]:
        """Measure the gradient at x_k, and the gap where mu is known and every client answered.

        Returns:
            The state, for clients that were behind have caught up, and what was measured; None where nobody answered.

        Source: ALGORITHM section 4, certified rounds; amgt_fed/convergence/gap.py.
        """
        state, found = self._measure(state, traffic, _NOISE * self._norm)
        for _ in range(_REPEATS):
            if found is None or found.delta <= _TOO_NOISY * found.update_norm or found.update_norm == 0:
                break
            # The clients' gradients are far larger than their mean: what was exact enough for them is not for it.
            state, found = self._measure(state, traffic, _NOISE * found.update_norm)
        if found is None:
            return state, None
        self._norm = found.update_norm
        if self._setup.downlink().codec is not None:
            for client in found.participants:
                state = with_synced(state, client, state.round)
        taken, everyone = len(found.participants), self._setup.config.partition.num_clients
        # Sampling without replacement: the variance of a mean of m of N carries the factor (N - m) / (N - 1).
        spread = found.drift * found.update_norm
        sampling = None if taken == everyone else spread * math.sqrt((everyone - taken) / max(everyone - 1, 1) / taken)
        measured = CertifiedGradient(
            norm=found.update_norm,
            error=found.delta,
            full_participation=taken == everyone,
            sampling_error=sampling,
            loss=found.loss,
        )
        if taken < everyone or self._assumptions.mu is None or not self._setup.config.convergence.certify_probes:
            return state, measured
        return self._bound_gap(state, traffic, measured, _point(state.model, found), self._assumptions.mu)

    def _bound_gap(
        self, state: ServerState, traffic: Traffic, measured: CertifiedGradient, here: MeasuredPoint, mu: float
    ) -> tuple[ServerState, CertifiedGradient]:
        search = self._search
        if search is None or here.gradient_upper < search.best.gradient_upper:
            search = self._search = MinimumSearch(here, smoothness=self._assumptions.smoothness)
        found = gap_bounds(here, search.best, mu)
        for _ in range(self._setup.config.convergence.certify_probes):
            proposal = None if found.is_tight else search.proposal()
            if proposal is None:
                break
            offset = np.subtract(state.model, proposal, dtype=np.float64).astype(np.float32)
            payload = get_codec("amgt").encode(offset, self._layout, RelativeError(_OFFSET_NMSE)).payload
            allowed = _NOISE * float(np.linalg.norm(search.best.gradient))
            state, answer = self._measure(state, traffic, allowed, payload)
            if answer is None or len(answer.participants) < self._setup.config.partition.num_clients:
                log.warning("a client is missing at a probe; the certificate stands on those before")
                break
            search.add(_point(state.model - decode(payload, self._layout), answer))
            found = gap_bounds(here, search.best, mu)
        return state, replace(measured, gap_lower=found.lower, gap_upper=found.upper, distance_upper=found.distance)

    def _measure(
        self, state: ServerState, traffic: Traffic, allowed: float, probe: bytes = b""
    ) -> tuple[ServerState, Aggregate | None]:
        clients = sorted(self._roster.nodes)
        accumulator = Accumulator(self._layout, clients)
        state = self._runner.collect(
            "train.gradient", state, accumulator, clients, traffic, probe=probe, error_budget=allowed
        )
        return state, accumulator.aggregate() if accumulator.added else None


def _point(at: Float32Vector, found: Aggregate) -> MeasuredPoint:
    gradient: NDArray[np.float64] = found.mean.astype(np.float64)
    # The mean was rounded to float32 once, each entry by half a unit in its last place at most.
    return MeasuredPoint(
        at=at.astype(np.float64),
        value=found.loss,
        gradient=gradient,
        error=found.delta + _FLOAT32_ROUNDING * found.update_norm,
    )
