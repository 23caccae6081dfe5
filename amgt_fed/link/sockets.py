"""Bytes on the server's TCP connections, as the system counts them: HTTP/2 and TLS included, TCP/IP headers not."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from pathlib import Path
from typing import TypeAlias

Peer: TypeAlias = tuple[str, int]
Counts: TypeAlias = tuple[int, int]

_DESCRIPTORS = Path("/proc/self/fd")
_LONG_ENOUGH = 192
_COUNTS_AT = 120
"""Of tcpi_bytes_acked and tcpi_bytes_received, two unsigned 64-bit numbers, in struct tcp_info of linux/tcp.h."""


class SocketCounter:
    """Adds up what this process's connections to one of its ports carry.

    gRPC keeps its sockets to itself, so they are found among this process's descriptors. A connection that ends between
    two looks keeps the count of the last one; look at least once a round.

    Args:
        port: the port that listens.
    """

    def __init__(self, port: int) -> None:
        self._port = port
        self._open: dict[Peer, Counts] = {}
        self._ended: Counts = (0, 0)

    def totals(self) -> Counts | None:
        """Bytes sent and acknowledged, and bytes received, since the port was opened; None where nobody can tell."""
        if not hasattr(socket, "TCP_INFO") or not _DESCRIPTORS.is_dir():
            return None
        now = self._look()
        for peer, counts in self._open.items():
            again = now.get(peer)
            if again is None or again[0] < counts[0] or again[1] < counts[1]:  # ended, or another with its port
                self._ended = _sum(self._ended, counts)
        self._open = now
        total = self._ended
        for counts in now.values():
            total = _sum(total, counts)
        return total

    def _look(self) -> dict[Peer, Counts]:
        found: dict[Peer, Counts] = {}
        for entry in os.listdir(_DESCRIPTORS):
            # Any of them may be closed by its owner meanwhile, and most are no connections.
            with contextlib.suppress(OSError):
                if not os.readlink(_DESCRIPTORS / entry).startswith("socket:"):
                    continue
                with socket.socket(fileno=os.dup(int(entry))) as twin:
                    if twin.family not in (socket.AF_INET, socket.AF_INET6) or twin.type != socket.SOCK_STREAM:
                        continue
                    if twin.getsockname()[1] != self._port:
                        continue
                    host, port = twin.getpeername()[:2]  # the listening one has none
                    info = twin.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _LONG_ENOUGH)
                    if len(info) >= _COUNTS_AT + 16:
                        found[host, port] = struct.unpack_from("=QQ", info, _COUNTS_AT)
        return found


def _sum(one: Counts, other: Counts) -> Counts:
    return one[0] + other[0], one[1] + other[1]
