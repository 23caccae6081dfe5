"""Certificates from files, and who may speak in plaintext."""

from __future__ import annotations

import datetime
import ssl
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

    @classmethod
    def load(cls, files: TlsFiles) -> Tls:
        """Read and check the files.

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
        common_name = _check(files.certificate, certificate)
        return cls(files, ca, certificate, key, common_name)

    def server_credentials(self) -> Any:
        """Make gRPC credentials that demand a certificate of our CA from every client."""
        return grpc.ssl_server_credentials(
            [(self.key, self.certificate)], root_certificates=self.ca, require_client_auth=True
        )

    def channel_credentials(self) -> Any:
        """Make gRPC credentials that demand a certificate of our CA from the server, and show ours."""
        return grpc.ssl_channel_credentials(self.ca, self.key, self.certificate)


def choose_security(address: Address, *, insecure: bool, files: TlsFiles | None) -> Tls | None:
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
            "no certificates were given; pass --ca, --cert and --key for mutual TLS, or --insecure on loopback"
        )
    if not address.is_loopback():
        raise PlaintextRefused(
            f"--insecure is for loopback only, and {address} is not: updates would cross the network in the clear; "
            "pass --ca, --cert and --key"
        )
    return None


def _read(path: Path, what: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise CredentialsError(f"cannot read the {what} {path}: {error.strerror}") from error


def _no_password() -> bytes:
    return b""  # or OpenSSL would ask at the terminal for an encrypted key's


def _check(path: Path, pem: bytes) -> str:
    try:
        certificate = x509.load_pem_x509_certificate(pem)
    except ValueError as error:
        raise CredentialsError(f"{path} holds no certificate in PEM form") from error
    now = datetime.datetime.now(datetime.UTC)
    if now > certificate.not_valid_after_utc:
        raise CredentialsError(f"{path} expired on {certificate.not_valid_after_utc:%Y-%m-%d %H:%M} UTC; renew it")
    if now < certificate.not_valid_before_utc:
        raise CredentialsError(
            f"{path} is valid only from {certificate.not_valid_before_utc:%Y-%m-%d %H:%M} UTC and this machine's clock "
            f"says {now:%Y-%m-%d %H:%M}; set the clock"
        )
    names = certificate.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
    if not names:
        raise CredentialsError(f"{path} has no common name, which would be the node's name; issue one that has")
    return str(names[0].value)
