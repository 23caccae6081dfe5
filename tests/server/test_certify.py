"""Certified rounds hold the truth, computed centrally and in another way."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from amgt_fed import run
from amgt_fed.config import from_toml
from amgt_fed.errors import ConfigError
from amgt_fed.setup import build

SMALL = {
    "rounds": 4,
    "partition.num_clients": 4,
    "federation.clients_per_round": 2,
    "client.steps": 3,
    "baseline.run": False,
    "convergence.certify_every": 2,
}


def true_gradient_norm(directory: Path, model: torch.nn.Module) -> float:
    """The gradient of the mean loss over all training data: one batch, float64, no client in sight."""
    task = build(from_toml(directory / "config.toml")).task
    inputs, labels = task.train_set.tensors
    wide = model.double().eval()
    wide.zero_grad()
    torch.nn.functional.cross_entropy(wide(inputs.double()), labels).backward()
    return float(torch.sqrt(sum((parameter.grad**2).sum() for parameter in wide.parameters())))


def test_the_final_interval_holds_the_true_gradient_norm(tmp_path: Path) -> None:
    result = run(SMALL, out=tmp_path / "run")
    found = result.summary.certificate
    assert found is not None
    assert found["rigorous"]
    assert found["round"] == 5
    truth = true_gradient_norm(result.directory, result.model())
    assert found["gradient_lower"] <= truth <= found["gradient_upper"]
    # An interval that holds everything would be no certificate: each client's own gradient comes within 1 %.
    assert found["gradient_upper"] - found["gradient_lower"] <= 0.1 * truth
    certified = [record.round for record in result.rounds if record.certificate is not None]
    assert certified == [1, 2, 4]


def test_certifying_changes_no_bit_of_the_model(tmp_path: Path) -> None:
    with_certificates = run(SMALL, out=tmp_path / "with")
    without = run({**SMALL, "convergence.certify_every": 0}, out=tmp_path / "without")
    assert with_certificates.summary.model_sha256 == without.summary.model_sha256
    assert without.summary.certificate is None
    assert with_certificates.summary.uplink_bytes > without.summary.uplink_bytes


def test_a_finished_run_resumed_keeps_its_certificate(tmp_path: Path) -> None:
    first = run(SMALL, out=tmp_path / "run")
    again = run(resume=tmp_path / "run")
    assert again.summary.certificate == first.summary.certificate
    longer = run(resume=tmp_path / "run", rounds=5)
    assert longer.summary.certificate is not None
    assert longer.summary.certificate["round"] == 6


def test_a_tolerance_ends_the_run_once_it_is_certified(tmp_path: Path) -> None:
    result = run({**SMALL, "convergence.gradient_tolerance": 100.0}, out=tmp_path / "run")
    assert result.summary.status == "converged"
    assert result.summary.rounds == 1
    assert "certificate" in result.summary.stopped


def test_a_tolerance_without_certificates_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="certify_every"):
        run({**SMALL, "convergence.certify_every": 0, "convergence.gap_tolerance": 0.1}, out=tmp_path / "run")


def test_missing_clients_leave_an_estimate_and_no_proof(tmp_path: Path) -> None:
    from amgt_fed.convergence import CertifiedGradient
    from amgt_fed.convergence.ledger import certify

    found = certify(3, CertifiedGradient(1.0, 0.1, full_participation=False, sampling_error=0.5), mu=None)
    assert not found.rigorous
    assert found.estimated_gradient_upper == pytest.approx(1.6)
    assert np.isclose(found.gradient_upper, 1.1)
