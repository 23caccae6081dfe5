"""What a run has seen of each of its clients; kept in the checkpoint, so that a resumed run counts nothing twice."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass, replace
from pathlib import Path
from typing import Any

from amgt_fed.errors import StateError


@dataclass(frozen=True, slots=True)
class ClientEntry:
    """One client, over the whole run so far.

    Attributes:
        client: its number.
        rounds: rounds its update was used in.
        last_round: the last of them; 0 for none.
        last_seen: when its last message was counted, in seconds since 1970; 0 for never.
        uplink_bytes, downlink_bytes: payload bytes from and to it, introductions left out.
        relative_norm: ||q_i|| / ||m_k|| in its last round, its update beside the mean's; 0 before the first.
        failures: calls it failed.
        last_failure: why, the last time; empty for never.
        outliers: rounds in which a robust rule saw its update stand apart from the others.
    """

    client: int
    rounds: int = 0
    last_round: int = 0
    last_seen: float = 0.0
    uplink_bytes: int = 0
    downlink_bytes: int = 0
    relative_norm: float = 0.0
    failures: int = 0
    last_failure: str = ""
    outliers: int = 0


class ClientLedger:
    """Adds up, round by round, what happens to each client."""

    def __init__(self, rows: Iterable[Sequence[Any]] = ()) -> None:
        self._entries = {entry.client: entry for entry in map(_entry, rows)}

    def add(
        self,
        round: int,
        *,
        sent: Mapping[int, int],
        received: Mapping[int, int],
        relative_norms: Mapping[int, float],
        failures: Mapping[int, str],
        now: float,
        outliers: Collection[int] = (),
    ) -> None:
        """Take in one round: bytes by client, how large whose update was, who failed why, and who stood apart."""
        for client in sent.keys() | received.keys() | relative_norms.keys() | failures.keys():
            old = self._entries.get(client) or ClientEntry(client)
            took_part = client in relative_norms
            self._entries[client] = replace(
                old,
                rounds=old.rounds + took_part,
                last_round=round if took_part else old.last_round,
                last_seen=now if client in received else old.last_seen,
                uplink_bytes=old.uplink_bytes + received.get(client, 0),
                downlink_bytes=old.downlink_bytes + sent.get(client, 0),
                relative_norm=relative_norms.get(client, old.relative_norm),
                failures=old.failures + (client in failures),
                last_failure=failures.get(client, old.last_failure)[:300],
                outliers=old.outliers + (client in outliers),
            )

    def rows(self) -> list[tuple[Any, ...]]:
        """Plain values for the checkpoint, by client."""
        return [astuple(self._entries[client]) for client in sorted(self._entries)]


def read_clients(checkpoint: Path) -> list[ClientEntry]:
    """The clients of a run from its checkpoint's folder; none where there is no checkpoint yet.

    Raises:
        StateError: it is damaged.
    """
    path = checkpoint / "state.json"
    try:
        return [_entry(row) for row in json.loads(path.read_bytes()).get("ledger", [])]
    except FileNotFoundError:
        return []
    except (ValueError, TypeError, AttributeError) as error:
        raise StateError(f"{path} is damaged: {error}") from error


def _entry(row: Sequence[Any]) -> ClientEntry:
    return ClientEntry(*row)
