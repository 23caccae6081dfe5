"""The same seed gives the same model, bit for bit, and the same record of every round, on every engine."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from amgt_fed.api import RunResult, run
from amgt_fed.runs import RoundRecord

# Three replies a round, for the sum of two does not depend on their order; four clients, so that some miss a round and
# catch up; the codec and its error feedback both ways, as they are by default.
SETTINGS: dict[str, Any] = {
    "rounds": 2,
    "seed": 7,
    "workers": 2,
    "partition": {"num_clients": 4},
    "federation": {"clients_per_round": 3},
    "client": {"steps": 3},
    "baseline": {"run": False},
}
ENGINES = ["grpc", "ray", "flower"]
NORMS = ("update_norm", "step_norm", "delta", "drift", "residual_norm")


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> RunResult:
    return run(SETTINGS, engine="local", out=str(tmp_path_factory.mktemp("local") / "run"))


def facts(record: RoundRecord) -> dict[str, Any]:
    """What must be the same to the last digit: losses, metrics, bytes, counts, status."""
    return {key: value for key, value in asdict(record).items() if key not in {*NORMS, "seconds", "elapsed_s", "link"}}


def norms(record: RoundRecord) -> dict[str, float]:
    """What agrees up to rounding: BLAS adds in an order that threads and alignment decide."""
    return {key: value for key, value in asdict(record).items() if key in NORMS}


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("engine", ENGINES)
def test_every_engine_gives_the_bits_of_the_local_one(engine: str, reference: RunResult, tmp_path: Path) -> None:
    result = run(SETTINGS, engine=engine, out=str(tmp_path / "run"))
    assert result.summary.engine == engine
    assert result.summary.failures == 0
    assert result.summary.model_sha256 == reference.summary.model_sha256
    for ours, theirs in zip(result.rounds, reference.rounds, strict=True):
        assert facts(ours) == facts(theirs)
        assert norms(ours) == pytest.approx(norms(theirs), rel=1e-6)
        if engine == "grpc" and sys.platform == "linux":
            assert ours.link["socket_uplink_bytes"] > ours.uplink_bytes > 0
            assert ours.link["socket_downlink_bytes"] > ours.downlink_bytes > 0
        else:
            assert ours.link == {}


def test_another_seed_gives_other_bits(reference: RunResult, tmp_path: Path) -> None:
    other = run({**SETTINGS, "seed": 8}, engine="local", out=str(tmp_path / "run"))
    assert other.summary.model_sha256 != reference.summary.model_sha256
