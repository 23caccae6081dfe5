from __future__ import annotations

import socket

import pytest

from amgt_fed.link import Address, AddressError
from amgt_fed.link.address import explain_bind_failure


@pytest.mark.parametrize(
    ("text", "host", "port", "printed"),
    [
        ("127.0.0.1:7070", "127.0.0.1", 7070, "127.0.0.1:7070"),
        (" fleet.example.org:0 ", "fleet.example.org", 0, "fleet.example.org:0"),
        ("[::1]:65535", "::1", 65535, "[::1]:65535"),
    ],
)
def test_an_address_is_read_and_printed(text: str, host: str, port: int, printed: str) -> None:
    address = Address.parse(text)
    assert (address.host, address.port) == (host, port)
    assert str(address) == printed


@pytest.mark.parametrize("text", ["", "host", ":1", "host:", "host:65536", "host:-1", "host:x", "host:1²", "::1:70"])
def test_other_forms_are_refused_with_the_value(text: str) -> None:
    with pytest.raises(AddressError) as caught:
        Address.parse(text)
    assert repr(text) in str(caught.value)


@pytest.mark.parametrize(
    ("host", "loopback"),
    [("127.0.0.1", True), ("127.9.9.9", True), ("::1", True), ("localhost", True)]
    + [(host, False) for host in ("0.0.0.0", "10.0.0.1", "::", "example.org", "localhost.example.org")],
)
def test_only_loopback_is_loopback(host: str, loopback: bool) -> None:
    assert Address(host, 1).is_loopback() is loopback


def test_an_unknown_host_is_named() -> None:
    with pytest.raises(AddressError, match=r"'no-such-host\.invalid' is unknown"):
        Address("no-such-host.invalid", 1).resolve()
    Address("127.0.0.1", 1).resolve()


def test_why_a_port_cannot_be_bound_is_told() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert f"port {port} is in use" in explain_bind_failure(Address("127.0.0.1", port))
    assert "not an address of this machine" in explain_bind_failure(Address("203.0.113.7", 7070))
    assert "is unknown" in explain_bind_failure(Address("no-such-host.invalid", 7070))
