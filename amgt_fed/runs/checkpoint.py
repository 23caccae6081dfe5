"""The server's state between two rounds: one safetensors file, and the small JSON file that says it counts.

The JSON file is replaced last, in one rename, and names the tensor file with its hash; whatever instant the process
dies at, it names a complete one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load, save

from amgt_fed.convergence import MeasuredPoint
from amgt_fed.errors import StateError
from amgt_fed.federated.messages import StepRecord
from amgt_fed.federated.state import ClientRecord, Control, ServerState
from amgt_fed.runs.files import write_atomically

FORMAT = "amgt-checkpoint-1"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The state before `state.round`, and what a resumed run must also know.

    Attributes:
        tracker: `ConvergenceTracker.state()`.
        uplink_bytes, downlink_bytes, failures, elapsed_s: of the rounds done.
        layout_digest: of the model; a checkpoint of another model is refused.
        stopped: why the run is over; empty while it goes on.
        certificate: of the final model, once the run is over and was asked for one.
        ledger: `ClientLedger.rows()`.
        nearest: the measured point nearest to the minimum, which bounds the gap in later certificates.
    """

    state: ServerState
    layout_digest: bytes
    tracker: Mapping[str, Any] = field(default_factory=dict)
    uplink_bytes: int = 0
    downlink_bytes: int = 0
    failures: int = 0
    elapsed_s: float = 0.0
    stopped: str = ""
    certificate: Mapping[str, Any] | None = None
    nearest: MeasuredPoint | None = None
    ledger: Sequence[Sequence[Any]] = ()


def save_checkpoint(folder: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint in place of the one before.

    Raises:
        OSError: a full disk, say; the checkpoint before stays in force.
    """
    folder.mkdir(parents=True, exist_ok=True)
    state = checkpoint.state
    tensors: dict[str, NDArray[Any]] = {"model": state.model}
    if state.residual is not None:
        tensors["residual"] = state.residual
    tensors.update({f"optimizer.{name}": np.asarray(value) for name, value in state.optimizer.items()})
    if state.control is not None:
        tensors["control.total"], tensors["control.common"] = state.control.total, state.control.common
    nearest = checkpoint.nearest
    if nearest is not None:
        tensors["nearest.at"], tensors["nearest.gradient"] = nearest.at, nearest.gradient
    if state.steps:
        tensors["steps"] = np.frombuffer(b"".join(step.payload for step in state.steps), np.uint8)
    data = save(tensors)
    digest = hashlib.sha256(data).hexdigest()
    # The hash in the name: a round that is written twice cannot overwrite what `state.json` still names.
    name = f"round-{state.round:08d}-{digest[:12]}.safetensors"
    facts = {
        "format": FORMAT,
        "tensors": name,
        "sha256": digest,
        "run": state.run,
        "round": state.round,
        "layout_digest": checkpoint.layout_digest.hex(),
        "steps": [[step.round, len(step.payload), step.keep, step.gain] for step in state.steps],
        "clients": {str(client): list(astuple(record)) for client, record in state.clients.items()},
        "control_epoch": 0 if state.control is None else state.control.epoch,
        "first_errors": list(state.first_errors),
        "nearest": None if nearest is None else [nearest.value, nearest.error],
        "tracker": dict(checkpoint.tracker),
        "ledger": list(checkpoint.ledger),
        "uplink_bytes": checkpoint.uplink_bytes,
        "downlink_bytes": checkpoint.downlink_bytes,
        "failures": checkpoint.failures,
        "elapsed_s": checkpoint.elapsed_s,
        "stopped": checkpoint.stopped,
        "certificate": None if checkpoint.certificate is None else dict(checkpoint.certificate),
    }
    write_atomically(folder / name, data)
    write_atomically(folder / "state.json", json.dumps(facts, indent=1).encode())
    for old in folder.glob("round-*"):  # what a process that was killed left half-written as well
        if old.name != name:
            old.unlink(missing_ok=True)


def load_checkpoint(folder: Path) -> Checkpoint | None:
    """The checkpoint in `folder`, or None where none was ever finished.

    Raises:
        StateError: the files are damaged, or of another version.
    """
    path = folder / "state.json"
    if not path.exists():
        return None
    try:
        facts = json.loads(path.read_bytes())
        if facts.get("format") != FORMAT:
            raise StateError(f"checkpoint {path} is of format {facts.get('format')!r}; this version reads {FORMAT!r}")
        data = (folder / Path(facts["tensors"]).name).read_bytes()
        if hashlib.sha256(data).hexdigest() != facts["sha256"]:
            raise StateError(f"checkpoint {folder / facts['tensors']} is damaged: its hash does not match {path.name}")
        return _from_parts(facts, load(data))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
        if isinstance(error, StateError):
            raise
        raise StateError(f"checkpoint in {folder} cannot be read: {error}") from error


def parameters_of(folder: Path) -> int:
    """How many parameters the checkpoint's model has, from the file's header alone; 0 where there is none yet."""
    path = folder / "state.json"
    if not path.exists():
        return 0
    try:
        tensors = folder / Path(json.loads(path.read_bytes())["tensors"]).name
        with safe_open(tensors, framework="numpy") as file:
            return int(file.get_slice("model").get_shape()[0])
    except FileNotFoundError:
        return 0  # replaced by the next round's between the two lines
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise StateError(f"checkpoint in {folder} cannot be read: {error}") from error


def _from_parts(facts: dict[str, Any], tensors: dict[str, NDArray[Any]]) -> Checkpoint:
    steps, offset = [], 0
    packed = tensors["steps"].tobytes() if "steps" in tensors else b""
    for round, length, *coefficients in facts["steps"]:
        steps.append(StepRecord(round, packed[offset : offset + length], *coefficients))
        offset += length
    prefix = "optimizer."
    state = ServerState(
        run=facts["run"],
        round=facts["round"],
        model=tensors["model"],
        residual=tensors.get("residual"),
        optimizer={name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)},
        steps=tuple(steps),
        clients={int(client): ClientRecord(*record) for client, record in facts["clients"].items()},
        control=_control(facts, tensors),
        first_errors=tuple(facts.get("first_errors", (0.0, 0.0))),
    )
    return Checkpoint(
        state=state,
        layout_digest=bytes.fromhex(facts["layout_digest"]),
        tracker=facts["tracker"],
        uplink_bytes=facts["uplink_bytes"],
        downlink_bytes=facts["downlink_bytes"],
        failures=facts["failures"],
        elapsed_s=facts["elapsed_s"],
        stopped=facts["stopped"],
        certificate=facts.get("certificate"),
        ledger=facts.get("ledger", ()),
        nearest=_nearest(facts.get("nearest"), tensors),
    )


def _control(facts: dict[str, Any], tensors: dict[str, NDArray[Any]]) -> Control | None:
    if "control.total" not in tensors:
        return None
    return Control(tensors["control.total"], tensors["control.common"], facts["control_epoch"])


def _nearest(numbers: list[float] | None, tensors: dict[str, NDArray[Any]]) -> MeasuredPoint | None:
    if numbers is None:
        return None
    value, error = numbers
    return MeasuredPoint(tensors["nearest.at"], value, tensors["nearest.gradient"], error)
