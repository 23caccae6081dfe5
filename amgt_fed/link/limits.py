"""What a link takes from its peers, and how long it waits for them."""

from __future__ import annotations

from dataclasses import dataclass

from amgt_fed.errors import ConfigError

PROTOCOL = 1
"""Version of the rules in link.proto. A server takes exactly this one."""

MAX_CHUNK_BYTES = 4 * 1024 * 1024
"""The most data in one chunk. Part of the protocol: gRPC refuses larger messages before it takes memory for them."""

FRAME_BYTES = MAX_CHUNK_BYTES + 64 * 1024
"""The largest serialized Up or Down: a chunk with its ids, or a Welcome with its run configuration."""

MAX_NAME_CHARACTERS = 128

WINDOW = 4
"""Messages a node may have received and not answered; more wait on the server."""

MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class LinkLimits:
    """Sizes in bytes and times in seconds.

    Raises:
        ConfigError: a value is not positive, `chunk_bytes` is above `MAX_CHUNK_BYTES`, or `receive_budget_bytes` is
            below `max_message_bytes`.
    """

    chunk_bytes: int = 256 * 1024  # data in one chunk, both ways: the server's wish counts
    max_message_bytes: int = 1024 * MIB  # one message or reply; announced to the peer, checked at its first chunk
    receive_budget_bytes: int = 1024 * MIB  # server: replies in transit or not yet pulled; further ones wait
    send_budget_bytes: int = 2048 * MIB  # server: messages not yet answered; pushing more waits for answers
    send_wait_s: float = 600.0  # for that long, then it is an error
    max_nodes: int = 20_000
    grace_s: float = 30.0  # how long a node may be gone before it leaves the federation
    hello_s: float = 10.0  # to a Hello after connecting, and to a Welcome after that
    stall_s: float = 120.0  # between two chunks of one message
    unpulled_s: float = 30.0  # after which a reply nobody pulls no longer counts against the receive budget
    keepalive_s: float = 30.0  # idle time before a ping; the answer may take as long again
    backoff_s: float = 0.2  # before the second try; doubles with each
    max_backoff_s: float = 30.0

    def __post_init__(self) -> None:
        for name in self.__slots__:
            if not getattr(self, name) > 0:
                raise ConfigError(f"link limit {name} is {getattr(self, name)}; give a number above 0")
        if self.chunk_bytes > MAX_CHUNK_BYTES:
            raise ConfigError(f"link limit chunk_bytes is {self.chunk_bytes}; the protocol's most is {MAX_CHUNK_BYTES}")
        if self.receive_budget_bytes < self.max_message_bytes:
            raise ConfigError(
                f"receive_budget_bytes is {self.receive_budget_bytes}; it must hold at least one message of "
                f"max_message_bytes ({self.max_message_bytes})"
            )


def channel_options(limits: LinkLimits) -> list[tuple[str, int]]:
    """gRPC's own settings, the same on both sides: frame size and keepalive."""
    milliseconds = int(limits.keepalive_s * 1000)
    return [
        ("grpc.max_receive_message_length", FRAME_BYTES),
        ("grpc.max_send_message_length", FRAME_BYTES),
        ("grpc.keepalive_time_ms", milliseconds),
        ("grpc.keepalive_timeout_ms", milliseconds),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
        # A server that listens must be the only one: with SO_REUSEPORT a second would silently share the port.
        ("grpc.so_reuseport", 0),
        # Each side pings as often as its own settings say; the other must not take that for an attack.
        ("grpc.http2.max_ping_strikes", 0),
        # One connection per node, also of several in one process: a node's fate and its bytes are its own.
        ("grpc.use_local_subchannel_pool", 1),
        # A machine-wide proxy setting is for the web, not for a fleet's server.
        ("grpc.enable_http_proxy", 0),
    ]
