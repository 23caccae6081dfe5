"""One line of `rounds.jsonl`, and what `summary.json` says."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from amgt_fed.errors import StateError


@dataclass(frozen=True, slots=True)
class RoundRecord:
    """What is known at the end of a round; bytes are payload bytes of all messages of this round.

    Attributes:
        loss, metrics: of x_{round + 1}, where it was evaluated; empty metrics and None otherwise.
        train_loss: the participants' mean local training loss.
        update_norm: ||m_k||.
        step_norm: norm of the step taken.
        delta: delta_k, the round's measured error (27).
        delta_budget: what `convergence.delta_c` allowed; None without one.
        certificate: of x_round, before the step, in certified rounds: `convergence.Certificate` as plain values.
        late: updates among them that were made from an earlier model, and counted less.
        outliers: clients whose update stood apart from the others, where `server.aggregator` is a robust rule.
        link: bytes on the TCP connections in this round, HTTP/2 and TLS included, where the engine has its own (grpc).
        surplus: clients that were asked and not waited for, because enough others had answered.
        residual_norm: the server's residual after the step.
        seconds: of this round; `elapsed_s`: of the run so far, the time before a resume included.
    """

    round: int
    loss: float | None
    metrics: Mapping[str, float]
    train_loss: float
    uplink_bytes: int
    downlink_bytes: int
    update_norm: float
    step_norm: float
    delta: float
    delta_budget: float | None
    drift: float
    residual_norm: float
    num_clients: int
    failures: int
    num_examples: int
    status: str
    seconds: float
    elapsed_s: float
    certificate: Mapping[str, Any] | None = None
    late: int = 0
    surplus: int = 0
    outliers: list[int] = field(default_factory=list)
    link: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> RoundRecord:
        """Read a line of `rounds.jsonl`; keys of a later version are passed over."""
        return cls(**_known(cls, data, "a line of rounds.jsonl"))


@dataclass(frozen=True, slots=True)
class RunSummary:
    """How a run ended.

    Attributes:
        status: the tracker's last status.
        stopped: why the run ended before its last round; empty where it did not.
        metrics: of the last evaluated round, with `loss`.
        model_sha256: over the parameters' float32 bytes, little-endian, in the layout's order.
        parameters: how many there are.
        certificate: of the final model, where `convergence.certify_every` asked for one.
        baseline: the same for dense FedAvg where it ran.
        reference: the task's score without a federation, where it was measured: its metric and its value.
    """

    task: str
    engine: str
    seed: int
    rounds: int
    seconds: float
    status: str
    stopped: str
    metrics: Mapping[str, float]
    uplink_bytes: int
    downlink_bytes: int
    failures: int
    model_sha256: str
    parameters: int
    num_clients: int
    versions: Mapping[str, str]
    certificate: Mapping[str, Any] | None = None
    baseline: Mapping[str, Any] | None = None
    reference: Mapping[str, Any] | None = None

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> RunSummary:
        """Read `summary.json`; keys of a later version are passed over."""
        return cls(**_known(cls, data, "summary.json"))


def bytes_to_reach(rounds: Iterable[RoundRecord], metric: str, value: float) -> tuple[int, int] | None:
    """(round, bytes up and down so far) when `metric` first was at least `value`; None if it never was."""
    total = 0
    for record in rounds:
        total += record.uplink_bytes + record.downlink_bytes
        if record.metrics.get(metric, float("-inf")) >= value:
            return record.round, total
    return None


def _known(cls: type, data: Mapping[str, Any], what: str) -> dict[str, Any]:
    names = {field.name for field in fields(cls)}
    if not isinstance(data, Mapping):  # JSON, but no object
        raise StateError(f"{what} is damaged: it holds {data!r}")
    return {name: data[name] for name in names & data.keys()}
