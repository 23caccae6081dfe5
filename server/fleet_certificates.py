"""Making a fleet's certificates: one authority, elliptic-curve keys (P-256), X.509 version 3 as in RFC 5280."""

from __future__ import annotations

import datetime
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from .fleet_files import FleetError

CA_DAYS, DAYS = 3650, 365
BACKDATED = datetime.timedelta(hours=1)  # a device's clock may be a little behind when its certificate is new


@dataclass(frozen=True, slots=True)
class Made:
    """A new certificate and its key, PEM."""

    certificate: x509.Certificate
    key: bytes

    @property
    def pem(self) -> bytes:
        """The certificate."""
        return self.certificate.public_bytes(serialization.Encoding.PEM)


def make_authority(days: int) -> Made:
    """A certificate authority that can sign devices and servers, and no further authority."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = _name("AMGT-Fed fleet")
    builder = _builder(name, name, key.public_key(), days).add_extension(
        x509.BasicConstraints(ca=True, path_length=0), critical=True
    )
    builder = builder.add_extension(_usage(signs_certificates=True), critical=True)
    return Made(builder.sign(key, hashes.SHA256()), _key_pem(key))


class Authority:
    """A fleet's authority, from its certificate and key.

    Raises:
        FleetError: they are no certificate and key in PEM form, do not belong together, or the certificate has ended.
    """

    def __init__(self, certificate_pem: bytes, key_pem: bytes) -> None:
        try:
            self._certificate = x509.load_pem_x509_certificate(certificate_pem)
            key = serialization.load_pem_private_key(key_pem, password=None)
        except (ValueError, TypeError) as error:
            raise FleetError(f"the fleet's CA certificate or key cannot be read: {error}") from error
        if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != self._certificate.public_key():
            raise FleetError("the CA key is not that of this fleet's ca.crt; give the right one with --ca-key")
        if self._certificate.not_valid_after_utc < datetime.datetime.now(datetime.UTC):
            raise FleetError("the fleet's CA has expired; make a new fleet and enroll its devices again")
        self._key = key

    def issue_server(self, hosts: Sequence[str], days: int) -> Made:
        """A certificate for a server that devices reach under any of these host names or IP addresses."""
        names = x509.SubjectAlternativeName([_general_name(host) for host in hosts])
        return self._issue("server", days, ExtendedKeyUsageOID.SERVER_AUTH, names)

    def issue_device(self, name: str, days: int) -> Made:
        """A certificate for a device: its common name is the device's, and it is of no use for a server."""
        return self._issue(name, days, ExtendedKeyUsageOID.CLIENT_AUTH, None)

    def _issue(
        self, name: str, days: int, purpose: x509.ObjectIdentifier, names: x509.SubjectAlternativeName | None
    ) -> Made:
        key = ec.generate_private_key(ec.SECP256R1())
        builder = _builder(_name(name), self._certificate.subject, key.public_key(), days)
        builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        builder = builder.add_extension(_usage(signs_certificates=False), critical=True)
        # Without it a device's certificate would serve to pose as the server before other devices.
        builder = builder.add_extension(x509.ExtendedKeyUsage([purpose]), critical=True)
        builder = builder.add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False
        )
        if names is not None:
            builder = builder.add_extension(names, critical=False)
        return Made(builder.sign(self._key, hashes.SHA256()), _key_pem(key))


def fingerprint(certificate: x509.Certificate) -> str:
    """SHA-256 of the certificate's DER form, hexadecimal."""
    return certificate.fingerprint(hashes.SHA256()).hex()


def _builder(
    subject: x509.Name, issuer: x509.Name, public_key: ec.EllipticCurvePublicKey, days: int
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(public_key)
    builder = builder.serial_number(x509.random_serial_number())
    builder = builder.not_valid_before(now - BACKDATED).not_valid_after(now + datetime.timedelta(days=days))
    return builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        pass
    try:
        return x509.DNSName(host)
    except ValueError as error:
        raise FleetError(f"host {host!r} cannot stand in a certificate: {error}") from error


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
