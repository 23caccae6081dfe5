"""`clients.json`: what a run has seen of each of its clients."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from amgt_fed.errors import StateError
from amgt_fed.runs.files import write_atomically

FORMAT = "amgt-clients-1"


@dataclass(frozen=True, slots=True)
class ClientEntry:
    """One client, over the whole run so far.

    Attributes:
        client: its number.
        rounds: rounds its update was used in.
        last_round: the last of them; 0 for none.
        last_seen: when its last message came, in seconds since 1970; 0 for never.
        uplink_bytes, downlink_bytes: payload bytes from and to it.
        drift: ||q_i - m_k|| / ||m_k|| in its last round; -1 where it was not measured.
        failures: calls it failed.
        last_failure: why, the last time; empty for never.
    """

    client: int
    rounds: int = 0
    last_round: int = 0
    last_seen: float = 0.0
    uplink_bytes: int = 0
    downlink_bytes: int = 0
    drift: float = -1.0
    failures: int = 0
    last_failure: str = ""


class ClientLedger:
    """Adds up what happens to each client; in memory, written when asked."""

    def __init__(self, entries: list[ClientEntry] | None = None) -> None:
        self._entries = {entry.client: entry for entry in entries or []}

    def sent(self, client: int, count: int) -> None:
        """Note `count` payload bytes to the client."""
        entry = self._entry(client)
        self._entries[client] = replace(entry, downlink_bytes=entry.downlink_bytes + count)

    def received(self, client: int, count: int, at: float) -> None:
        """Note a message of `count` payload bytes from the client at `at`, seconds since 1970."""
        entry = self._entry(client)
        self._entries[client] = replace(entry, uplink_bytes=entry.uplink_bytes + count, last_seen=at)

    def took_part(self, client: int, round: int, drift: float) -> None:
        """Note that the client's update was used."""
        entry = self._entry(client)
        self._entries[client] = replace(entry, rounds=entry.rounds + 1, last_round=round, drift=drift)

    def failed(self, client: int, reason: str) -> None:
        """Note a failed call."""
        entry = self._entry(client)
        self._entries[client] = replace(entry, failures=entry.failures + 1, last_failure=reason[:300])

    def write(self, folder: Path) -> None:
        """Replace `clients.json` in the run directory."""
        entries = [asdict(self._entries[client]) for client in sorted(self._entries)]
        text = json.dumps({"format": FORMAT, "clients": entries}, allow_nan=False)
        write_atomically(folder / "clients.json", text.encode())

    def _entry(self, client: int) -> ClientEntry:
        return self._entries.get(client) or ClientEntry(client)


def read_clients(folder: Path) -> list[ClientEntry]:
    """The entries of `clients.json` in the run directory, by number; none where there is no such file yet.

    Raises:
        StateError: it is damaged, or of another version.
    """
    path = folder / "clients.json"
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return []
    try:
        content = json.loads(data)
        if content["format"] != FORMAT:
            raise StateError(f"{path} is of format {content['format']!r}; this version reads {FORMAT!r}")
        return [_entry(item) for item in content["clients"]]
    except (ValueError, KeyError, TypeError) as error:
        raise StateError(f"{path} is damaged: {error}") from error


def _entry(item: dict[str, Any]) -> ClientEntry:
    known = {field.name for field in fields(ClientEntry)}
    return ClientEntry(**{name: value for name, value in item.items() if name in known})
