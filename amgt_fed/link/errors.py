"""What can go wrong on the link, each with the line a user reads."""

from __future__ import annotations

from amgt_fed.errors import LinkError, WireError


class AddressError(LinkError):
    """An address that is malformed, unknown, taken or not ours to listen on."""


class PlaintextRefused(LinkError):
    """Plaintext was not asked for, or would leave this machine."""


class CredentialsError(LinkError):
    """A certificate or key that is missing, unreadable or not accepted by the other side."""


class ConnectionRefused(LinkError):
    """The server will not have this node, now or on another try."""


class ShutOut(ConnectionRefused):
    """The server's fleet does not, or does no longer, have this device; only its operator can change that.

    The commands end with `exit_code`, EX_NOPERM of sysexits.h: a unit file can tell it from what a restart mends.
    """

    exit_code = 77


class TakenOver(LinkError):
    """Another client said Hello with this node's name."""


class MessageTooLarge(LinkError):
    """A message or reply above the size its receiver takes."""

    def __init__(self, size: int, limit: int, receiver: str) -> None:
        super().__init__(size, limit, receiver)
        self.size, self.limit, self.receiver = size, limit, receiver

    def __str__(self) -> str:
        return f"message is {self.size} bytes; {self.receiver} takes at most {self.limit} (--max-message-mib raises it)"


class ProtocolViolation(WireError):
    """A peer sent something the protocol does not allow."""
