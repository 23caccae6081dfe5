"""A client's state on disk: one file, replaced atomically, so that a cut at any instant leaves the old or the new."""

from __future__ import annotations

import json
import logging
import os
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from amgt_fed.federated.client import ClientState
from amgt_fed.federated.control import ClientControl
from amgt_fed.federated.messages import ClientUpdate

log = logging.getLogger("amgt_fed.client")

FORMAT = "amgt-client-state-1"


class ClientStore:
    """Loads and saves the state of one client.

    Args:
        folder: the client's own directory; created when first saved to.
        durable: whether a save also waits for the disk, so that it survives a power cut and not only a crash.
    """

    def __init__(self, folder: Path, *, durable: bool) -> None:
        self._path = folder / "state.safetensors"
        self._durable = durable

    def load(self, run: int) -> ClientState | None:
        """The state of `run`, or None where there is none.

        A damaged file counts as none, with a warning: the server then sends the model.
        """
        if not self._path.exists():
            return None
        try:
            with safe_open(self._path, framework="numpy") as file:
                facts = json.loads((file.metadata() or {}).get("state", "{}"))
                if facts.get("format") != FORMAT or facts.get("run") != run:
                    return None
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # not a mapping
            if facts.pop("checksum", None) != _checksum(tensors, facts):
                raise ValueError("its checksum does not match its content")
            return _from_parts(facts, tensors)
        except (SafetensorError, OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            log.warning("client state %s cannot be read (%s); starting without it", self._path, error)
            return None

    def save(self, state: ClientState) -> None:
        """Replace what is stored. Raises OSError (a full disk, say) and then leaves the old state in place."""
        facts, tensors = _to_parts(state)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        facts["checksum"] = _checksum(tensors, facts)
        data = save(tensors, metadata={"state": json.dumps(facts)})
        temporary = self._path.with_suffix(".tmp")
        try:
            with temporary.open("wb") as file:
                file.write(data)
                if self._durable:
                    file.flush()
                    os.fsync(file.fileno())
            temporary.replace(self._path)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise
        if self._durable:  # the rename itself must reach the disk too
            folder = os.open(self._path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)


def _checksum(tensors: Mapping[str, np.ndarray], facts: Mapping[str, object]) -> int:
    """CRC-32 of everything stored: safetensors has none, and one flipped bit would train on unnoticed."""
    total = zlib.crc32(json.dumps(facts, sort_keys=True).encode())
    for name in sorted(tensors):
        total = zlib.crc32(np.ascontiguousarray(tensors[name]).view(np.uint8).data, zlib.crc32(name.encode(), total))
    return total


def _to_parts(state: ClientState) -> tuple[dict[str, object], dict[str, np.ndarray]]:
    tensors = {"model": state.model}
    if state.residual is not None:
        tensors["residual"] = state.residual
    if state.control is not None:
        tensors["control.own"], tensors["control.common"] = state.control.own, state.control.common
    facts: dict[str, object] = {"format": FORMAT, "run": state.run, "round": state.round}
    if state.control is not None:
        facts["control"] = [state.control.epoch, state.control.round]
    if state.sent is not None:
        tensors["payload"] = np.frombuffer(state.sent.payload, np.uint8)
        facts["sent"] = {
            "round": state.sent.round,
            "num_examples": state.sent.num_examples,
            "error_l2": state.sent.error_l2,
            "update_l2": state.sent.update_l2,
            "deviation_l2": state.sent.deviation_l2,
            "loss": state.sent.loss,
            "metrics": dict(state.sent.metrics),
            "gradient_scale": state.sent.gradient_scale,
            "control_round": state.sent.control_round,
        }
        facts["sent_base"] = state.sent_base.hex()
    return facts, tensors


def _from_parts(facts: dict[str, object], tensors: dict[str, np.ndarray]) -> ClientState:
    sent, control = facts.get("sent"), facts.get("control")
    return ClientState(
        run=int(facts["run"]),  # type: ignore[call-overload]  # any failure here is a damaged file to the caller
        round=int(facts["round"]),  # type: ignore[call-overload]
        model=tensors["model"],
        residual=tensors.get("residual"),
        sent=ClientUpdate(payload=tensors["payload"].tobytes(), **sent) if isinstance(sent, dict) else None,
        sent_base=bytes.fromhex(str(facts.get("sent_base", ""))),
        control=(
            ClientControl(tensors["control.own"], tensors["control.common"], *map(int, control))
            if isinstance(control, list)
            else None
        ),
    )
