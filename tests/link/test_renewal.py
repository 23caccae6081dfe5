"""Certificates are renewed while both sides go on; a bundle is one file with everything in it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from amgt_fed.link import Address, Bundle, CredentialsError, Peer, Renewal, Tls, TlsFiles, node_id_of
from tests.reference.certificates import Authority, Issued

Wait = Callable[..., None]
Federation = Any  # of conftest.py


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def load(authority: Authority, issued: Issued) -> Tls:
    return Tls.load(TlsFiles(authority.certificate, issued.certificate, issued.key))


def put(issued: Issued, folder: Path, name: str) -> Path:
    """Certificate and key in one file, as a server keeps them."""
    path = folder / name
    temporary = path.with_suffix(".new")
    temporary.write_bytes(issued.certificate.read_bytes() + issued.key.read_bytes())
    temporary.replace(path)
    return path


def test_a_client_takes_its_new_certificate_over_and_loses_nothing(
    federation: Federation, wait: Wait, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("amgt_fed.link.client.RENEWAL_POLL_S", 0.05)
    shown: list[bytes | None] = []

    def authorize(peer: Peer) -> None:
        shown.append(peer.certificate)

    server = federation.server(tls=load(authority, authority.issue("server")), authorize=authorize)
    current = [load(authority, authority.issue("pi"))]
    client = federation.client(
        server, "pi", tls=current[0], answers=lambda request: None, certificates=lambda: current[0]
    )
    wait(server.node_ids)
    federation.send(server, 1, b"work")
    wait(lambda: client.requests)
    current[0] = load(authority, authority.issue("pi"))
    wait(lambda: len(shown) == 2)
    client.client.reply(client.requests[0], [b"done"])
    wait(lambda: federation.listener.replies)
    assert shown[0] != shown[1]
    assert shown[1] is not None
    assert shown[1].strip() == current[0].certificate.strip()
    assert federation.listener.replies == [(node_id_of("pi"), 1, b"done")]
    assert len(client.requests) == 1, "it was asked once"
    assert federation.listener.failures == {}


def test_a_running_server_shows_its_new_certificate_to_whoever_comes_next(
    federation: Federation, wait: Wait, authority: Authority, tmp_path: Path
) -> None:
    wrong = put(authority.issue("server", host="192.0.2.1"), tmp_path, "server.pem")
    # Names 192.0.2.1 and localhost, so a client that connects to 127.0.0.1 refuses it.
    server = federation.server(tls=Tls.load(TlsFiles(authority.certificate, wrong, wrong)))
    tls = load(authority, authority.issue("pi"))
    early = federation.client(server, "pi", tls=tls)
    early.join()
    assert "does it name 127.0.0.1" in str(early.error)
    put(authority.issue("server"), tmp_path, "server.pem")
    federation.client(server, "pi", tls=tls)
    wait(server.node_ids)


def test_files_that_cannot_be_used_leave_the_old_certificates_in_force(
    authority: Authority, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = put(authority.issue("server"), tmp_path, "server.pem")
    files = TlsFiles(authority.certificate, path, path)
    first = Tls.load(files)
    renewal = Renewal(first, lambda: Tls.load(files))
    assert renewal.current() is first
    path.write_text("half a file")
    assert renewal.current() is first
    assert renewal.current() is first
    assert caplog.text.count("new certificates cannot be used") == 1
    path.unlink()
    assert renewal.current() is first
    put(authority.issue("server"), tmp_path, "server.pem")
    assert renewal.current() is not first


def bundle_of(authority: Authority, issued: Issued, **changes: Any) -> Bundle:
    fields = {"name": "pi", "server": Address("::1", 7070), "first_partition": 3, "last_partition": 5, **changes}
    return Bundle(
        **fields,
        certificate=issued.certificate.read_bytes(),
        key=issued.key.read_bytes(),
        ca=authority.certificate.read_bytes(),
    )


def test_a_bundle_is_read_as_it_was_written(authority: Authority, tmp_path: Path) -> None:
    issued = authority.issue("pi")
    written = bundle_of(authority, issued)
    path = tmp_path / "pi.bundle"
    path.write_bytes(written.to_bytes())
    read, tls = Bundle.load(path)
    assert read == written
    assert tls.common_name == "pi"
    assert b"PRIVATE KEY" not in tls.certificate + tls.ca
    assert tls.certificate.count(b"BEGIN CERTIFICATE") == 1


def test_each_damage_to_a_bundle_is_named(authority: Authority, tmp_path: Path) -> None:
    issued = authority.issue("pi")
    good = bundle_of(authority, issued).to_bytes()
    expired, other = authority.issue("old", days=-1), authority.issue("other")
    path = tmp_path / "pi.bundle"
    cases = [
        (b"", "is not a device's bundle"),
        (good.replace(b"amgt-bundle-1", b"amgt-bundle-9"), "it should begin with format = 'amgt-bundle-1'"),
        (good.replace(b"last_partition = 5", b"last_partition = 2"), "partitions 3 to 2"),
        (good.replace(b"last_partition = 5", b'last_partition = "x"'), "partitions 3 to 'x'"),
        (good.replace(b"[::1]:7070", b"nowhere"), "HOST:PORT"),
        (good.partition(b"-----BEGIN PRIVATE")[0], "two certificates and a key"),
        (good.replace(b"name =", b"nome ="), "'name'"),
        (bundle_of(authority, Issued(issued.certificate, other.key)).to_bytes(), "not a certificate and its key"),
        (bundle_of(authority, expired).to_bytes(), "renew it with `amgt-server fleet renew`, or set the clock"),
    ]
    for data, says in cases:
        path.write_bytes(data)
        with pytest.raises(CredentialsError) as caught:
            Bundle.load(path)
        assert says in str(caught.value)
        assert "\n" not in str(caught.value)
    for cut in range(0, len(good) - 1, 97):  # a copy that broke off
        path.write_bytes(good[:cut])
        with pytest.raises(CredentialsError):
            Bundle.load(path)
    path.unlink()
    with pytest.raises(CredentialsError, match="No such file"):
        Bundle.load(path)


def test_a_certificate_of_the_future_tells_of_the_clock(authority: Authority, tmp_path: Path) -> None:
    issued = authority.issue("pi", starts_in_days=2, days=3)
    with pytest.raises(CredentialsError, match=r"valid only from .* and this machine's clock says .*; set the clock"):
        load(authority, issued)
