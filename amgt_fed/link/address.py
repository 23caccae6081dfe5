"""HOST:PORT, and why an address cannot be used."""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
from dataclasses import dataclass

from amgt_fed.link.errors import AddressError


@dataclass(frozen=True, slots=True)
class Address:
    """A host, IPv6 without brackets, and a TCP port."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Address:
        """Read "HOST:PORT" or "[IPV6]:PORT".

        Raises:
            AddressError: the text has another form, or the port is not within 0 to 65535.
        """
        host, colon, port = text.strip().rpartition(":")
        if host.startswith("[") and host.endswith("]"):
            host = host[1:-1]
        elif ":" in host:
            raise AddressError(f"address {text!r}: write an IPv6 address in brackets, as [::1]:7070")
        if not colon or not host or not port.isascii() or not port.isdigit() or int(port) > 65535:
            raise AddressError(
                f"address {text!r} should read HOST:PORT with a port from 0 to 65535, e.g. 127.0.0.1:7070"
            )
        return cls(host, int(port))

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def is_loopback(self) -> bool:
        """Whether packets to it never leave this machine."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    def resolve(self) -> None:
        """Look the host's name up.

        Raises:
            AddressError: nobody knows the name.
        """
        try:
            socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM)
        except (socket.gaierror, UnicodeError) as error:
            raise AddressError(f"host {self.host!r} is unknown ({error}); check its spelling") from error


def explain_bind_failure(address: Address) -> str:
    """Say in one line why a server cannot listen at `address`; gRPC does not."""
    try:
        family, kind, protocol, _, where = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)[0]
    except (socket.gaierror, UnicodeError) as error:
        return f"cannot listen at {address}: host {address.host!r} is unknown ({error})"
    with socket.socket(family, kind, protocol) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(where)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return (
                    f"cannot listen at {address}: port {address.port} is in use by another process; stop it or give "
                    "another --address (port 0 takes a free one)"
                )
            if error.errno == errno.EADDRNOTAVAIL:
                return f"cannot listen at {address}: {address.host} is not an address of this machine"
            if error.errno == errno.EACCES:
                return f"cannot listen at {address}: ports below 1024 need root; give a higher one"
            return f"cannot listen at {address}: {os.strerror(error.errno or 0)}"
    return f"cannot listen at {address}"
