"""Certificates from files, and who may speak in plaintext."""

from __future__ import annotations

import datetime
import re
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
from cryptography import x509

from amgt_fed.link.address import Address
from amgt_fed.link.errors import CredentialsError, PlaintextRefused


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """PEM files: the fleet's certificate authority, our own certificate (with any intermediates) and its key."""

    ca: Path
    certificate: Path
    key: Path


@dataclass(frozen=True, slots=True)
class Tls:
    """What the files held, checked to belong together and to be valid today."""

    files: TlsFiles
    ca: bytes
    certificate: bytes
    key: bytes
    common_name: str
    expires: datetime.datetime  # of our own certificate

    @classmethod
    def load(cls, files: TlsFiles) -> Tls:
        """Read and check the files; one may hold both the certificate and its key.

        Raises:
            CredentialsError: a file is missing or no PEM, the key is not the certificate's, the certificate has no
                common name, or today is outside its validity.
        """
        ca, certificate, key = (
            _read(path, what)
            for path, what in (
                (files.ca, "CA certificate"),
                (files.certificate, "certificate"),
                (files.key, "private key"),
            )
        )
        return cls.check(files, ca, certificate, key)

    @classmethod
    def check(cls, files: TlsFiles, ca: bytes, certificate: bytes, key: bytes) -> Tls:
        """Check what was read; `files` say where it came from. Raises as `load` does."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        try:
            context.load_verify_locations(cadata=ca.decode("ascii", "replace"))
        except ssl.SSLError as error:
            raise CredentialsError(f"{files.ca} holds no CA certificate in PEM form ({error.reason})") from error
        try:
            context.load_cert_chain(files.certificate, files.key, password=_no_password)
        except ssl.SSLError as error:
            raise CredentialsError(
                f"{files.certificate} and {files.key} are not a certificate and its key in PEM form ({error.reason})"
            ) from error
        common_name, expires = _check(files.certificate, certificate)
        return cls(files, ca, pem_blocks(certificate, "CERTIFICATE"), pem_blocks(key, ".*KEY"), common_name, expires)

    def server_credentials(self, current: Callable[[], Tls]) -> Any:
        """Make gRPC credentials that demand a certificate of our CA from every client.

        Args:
            current: asked at the beginning of every handshake, in a thread of gRPC's: the certificates to use from now
                on, so that the server's own can be renewed while it runs.
        """
        shown = self

        def fetch() -> Any:
            nonlocal shown
            latest = current()
            if latest is shown:
                return None  # nothing new, says gRPC's interface
            shown = latest
            return latest._server_configuration()

        return grpc.dynamic_ssl_server_credentials(
            self._server_configuration(), fetch, require_client_authentication=True
        )

    def _server_configuration(self) -> Any:
        return grpc.ssl_server_certificate_configuration([(self.key, self.certificate)], root_certificates=self.ca)

    def channel_credentials(self) -> Any:
        """Make gRPC credentials that demand a certificate of our CA from the server, and show ours."""
        return grpc.ssl_channel_credentials(self.ca, self.key, self.certificate)


def choose_security(
    address: Address, *, insecure: bool, files: TlsFiles | None, instead: str = "--bundle or --fleet"
) -> Tls | None:
    """Decide between mutual TLS and, on loopback and only when asked for, plaintext.

    Returns:
        The loaded certificates; None for plaintext.

    Raises:
        PlaintextRefused: no certificates were given and `insecure` is not set, or `address` is not loopback.
        CredentialsError: certificates and `insecure` were both given, or the certificates are not usable.
    """
    if files is not None:
        if insecure:
            raise CredentialsError("both --insecure and certificates were given; leave one of them out")
        return Tls.load(files)
    if not insecure:
        raise PlaintextRefused(
            f"no certificates were given; pass {instead} (or --ca, --cert and --key) for mutual TLS, or --insecure on "
            "loopback"
        )
    if not address.is_loopback():
        raise PlaintextRefused(
            f"--insecure is for loopback only, and {address} is not: updates would cross the network in the clear; "
            f"pass {instead}"
        )
    return None


def pem_blocks(pem: bytes, label: str) -> bytes:
    """The blocks of a PEM file whose label matches a regular expression, in order, without any text around them."""
    pattern = rb"-----BEGIN (%s)-----\r?\n.*?-----END \1-----\r?\n?" % label.encode()
    return b"\n".join(match[0].strip() for match in re.finditer(pattern, pem, re.DOTALL)) + b"\n"


def _read(path: Path, what: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise CredentialsError(f"cannot read the {what} {path}: {error.strerror}") from error


def _no_password() -> bytes:
    return b""  # or OpenSSL would ask at the terminal for an encrypted key's


def _check(path: Path, pem: bytes) -> tuple[str, datetime.datetime]:
    try:
        certificate = x509.load_pem_x509_certificate(pem)
    except ValueError as error:
        raise CredentialsError(f"{path} holds no certificate in PEM form") from error
    now = datetime.datetime.now(datetime.UTC)
    if now > certificate.not_valid_after_utc:
        raise CredentialsError(
            f"{path} expired on {certificate.not_valid_after_utc:%Y-%m-%d %H:%M} UTC and this "
            f"machine's clock says {now:%Y-%m-%d %H:%M}; renew it with `amgt-server fleet renew`, or set the clock"
        )
    if now < certificate.not_valid_before_utc:
        raise CredentialsError(
            f"{path} is valid only from {certificate.not_valid_before_utc:%Y-%m-%d %H:%M} UTC and this machine's clock "
            f"says {now:%Y-%m-%d %H:%M}; set the clock"
        )
    names = certificate.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
    if not names:
        raise CredentialsError(f"{path} has no common name, which would be the node's name; issue one that has")
    return str(names[0].value), certificate.not_valid_after_utc
