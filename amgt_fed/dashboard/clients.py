"""The table of one run's clients, a page at a time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from amgt_fed.errors import ConfigError
from amgt_fed.runs import RunDirectory
from amgt_fed.runs.clients import ClientEntry, read_clients

PAGE_SIZE = 50
COLUMNS = (
    *("client", "rounds", "last_round", "last_seen", "uplink_bytes", "downlink_bytes"),
    *("relative_norm", "outliers", "failures"),
)


def clients_page(directory: RunDirectory, query: Mapping[str, str]) -> dict[str, Any]:
    """One page of the clients, sorted.

    Args:
        query: `page` from 0, `sort` one of COLUMNS, `order` asc or desc, `find` part of a client's number or of its
            last failure.

    Raises:
        ConfigError: a value that is none of these.
        StateError: the run's checkpoint is damaged.
    """
    sort, order = query.get("sort", "client"), query.get("order", "asc")
    if sort not in COLUMNS or order not in ("asc", "desc"):
        raise ConfigError(f"cannot sort by {sort!r} {order!r}; columns are {', '.join(COLUMNS)}, orders asc and desc")
    page = query.get("page", "0")
    if not page.isascii() or not page.isdigit():
        raise ConfigError(f"page {page!r} is no number from 0")
    wanted = query.get("find", "").strip().lower()
    entries = [entry for entry in read_clients(directory.checkpoint_path) if _matches(entry, wanted)]
    entries.sort(key=lambda entry: (getattr(entry, sort), entry.client), reverse=order == "desc")
    start = int(page) * PAGE_SIZE
    return {
        "total": len(entries),
        "page": int(page),
        "page_size": PAGE_SIZE,
        "clients": [
            {**{name: getattr(entry, name) for name in COLUMNS}, "last_failure": entry.last_failure}
            for entry in entries[start : start + PAGE_SIZE]
        ],
    }


def _matches(entry: ClientEntry, wanted: str) -> bool:
    return not wanted or wanted in str(entry.client) or wanted in entry.last_failure.lower()
