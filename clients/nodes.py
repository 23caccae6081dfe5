"""Which nodes this process hosts: their names, their partitions, and what their ClientApp is told."""

from __future__ import annotations

import os
import re
import secrets
from pathlib import Path
from typing import TYPE_CHECKING

from amgt_fed.errors import ConfigError

if TYPE_CHECKING:
    from amgt_fed.flower.client_host import HostedNode
    from amgt_fed.link import Bundle, Tls

APPS_CHOICE = "-"
NAME_FILE = "name"


def state_root(state_dir: str | None) -> Path | None:
    """Where residuals and the node's name are kept; None leaves it to the app."""
    if state_dir == APPS_CHOICE:
        return None
    if state_dir is not None:
        return Path(state_dir).expanduser().resolve()
    home = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(home) / "amgt-fed"


def chosen_partitions(
    partition_id: int | None, num_partitions: int | None, nodes: str | None, bundle: Bundle | None
) -> list[int | None]:
    """Which clients of the federation this process hosts; [None]: one node that does not say.

    Raises:
        ConfigError: the options contradict each other, or the bundle was made for other partitions.
    """
    if nodes is None and partition_id is None and bundle is not None:
        chosen: list[int | None] = list(range(bundle.first_partition, bundle.last_partition + 1))
    elif nodes is None:
        chosen = [partition_id]
    elif partition_id is not None:
        raise ConfigError("give either --partition-id or --nodes")
    elif (match := re.fullmatch(r"(\d+)-(\d+)", nodes)) is None or int(match[1]) > int(match[2]):
        raise ConfigError(f"--nodes {nodes!r} should read A-B with A <= B, e.g. 0-9")
    else:
        chosen = list(range(int(match[1]), int(match[2]) + 1))
    last = chosen[-1]
    if last is not None and num_partitions is not None and last >= num_partitions:
        raise ConfigError(f"partition {last} is not one of {num_partitions}: they count from 0 to {num_partitions - 1}")
    if bundle is not None:
        for partition in chosen:
            if partition is not None and not bundle.first_partition <= partition <= bundle.last_partition:
                raise ConfigError(
                    f"partition {partition} is not {bundle.name}'s: its bundle is for {bundle.first_partition} to "
                    f"{bundle.last_partition}, and the server would refuse it"
                )
    return chosen


def hosted_nodes(
    partitions: list[int | None],
    num_partitions: int | None,
    name: str | None,
    tls: Tls | None,
    root_dir: Path | None,
    data_dir: Path | None,
    device: str | None,
    uplink_budget: str | None = None,
) -> list[HostedNode]:
    """The nodes of this process: each partition's name and what its ClientApp is told."""
    from amgt_fed.flower.client_host import HostedNode

    shared: dict[str, bool | int | float | str] = {}
    if num_partitions is not None:
        shared["num-partitions"] = num_partitions
    if root_dir is not None:
        shared["state-dir"] = str(root_dir)
    if data_dir is not None:
        shared["data-dir"] = str(data_dir.resolve())
    if device is not None:
        shared["device"] = device
    if uplink_budget is not None:
        from amgt_fed.federated.budgets import size_budget

        size_budget(uplink_budget)  # refused here rather than in the first round
        shared["uplink-budget"] = uplink_budget
    hosted = []
    for partition in partitions:
        own = {**shared} if partition is None else {**shared, "partition-id": partition}
        base = name or (tls.common_name if tls is not None else None)
        if base is not None and len(partitions) > 1:
            base = f"{base}/{partition}"
        hosted.append(HostedNode(base or _own_name(partition, root_dir), own))
    return hosted


def _own_name(partition: int | None, root: Path | None) -> str:
    """Told by the partition, or drawn once and kept in the state directory."""
    if partition is not None:
        return f"node-{partition}"
    drawn = f"node-{secrets.token_hex(6)}"
    if root is None:
        return drawn
    path = root / NAME_FILE
    if path.exists():
        return path.read_text(encoding="utf-8").strip()
    root.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(f".{os.getpid()}")
    temporary.write_text(drawn, encoding="utf-8")
    temporary.replace(path)
    return drawn
