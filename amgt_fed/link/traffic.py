"""How many bytes went over the link."""

from __future__ import annotations

from dataclasses import dataclass, field

GRPC_PREFIX_BYTES = 5
"""gRPC's own length prefix of every message."""


@dataclass(slots=True)
class Traffic:
    """Bytes exchanged with one node, or with all, seen from the server.

    `sent_bytes` and `received_bytes` are the serialized gRPC messages, every one (Hello, Welcome, chunks, Settled,
    Goodbye; resent and dropped ones too), each with its 5-byte prefix. Not counted are HTTP/2 (frame headers of 9
    bytes per 16 KiB, the call's headers, pings, window updates), TLS records and TCP/IP; benchmarks/link.py measures
    what they add on a real socket. `*_payload_bytes` are the messages and replies themselves, once each, without any
    framing of the link.
    """

    sent_bytes: int = 0
    received_bytes: int = 0
    sent_payload_bytes: int = 0
    received_payload_bytes: int = 0
    sent_messages: int = 0  # messages whose last chunk was handed to gRPC
    received_messages: int = 0  # replies taken
    dropped_messages: int = 0  # replies nobody waited for: duplicate, cancelled or expired

    def add(self, other: Traffic) -> None:
        """Add another's counts to this one's."""
        for name in self.__slots__:
            setattr(self, name, getattr(self, name) + getattr(other, name))

    def copy(self) -> Traffic:
        """Return the counts as they are now."""
        return Traffic(*(getattr(self, name) for name in self.__slots__))


@dataclass(frozen=True, slots=True)
class TrafficReport:
    """The counts of each node that was ever connected, by name, and their sum."""

    nodes: dict[str, Traffic] = field(default_factory=dict)
    total: Traffic = field(default_factory=Traffic)
