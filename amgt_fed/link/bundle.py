"""The one file a device gets: who it is, where its server listens, its certificate and key, and the fleet's CA."""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from pathlib import Path

from amgt_fed.errors import LinkError
from amgt_fed.link.address import Address
from amgt_fed.link.credentials import Tls, TlsFiles, pem_blocks
from amgt_fed.link.errors import CredentialsError

FORMAT = "amgt-bundle-1"

_HEADER = """\
# A device of an AMGT-Fed fleet. The private key below is the device's identity: keep this file readable by it alone.
format = "{format}"
name = "{name}"
server = "{server}"
first_partition = {first}
last_partition = {last}
"""


@dataclass(frozen=True, slots=True)
class Bundle:
    """What a device needs to take part: TOML lines, then PEM blocks (its certificate, its key, the CA's certificate).

    Any tool that reads PEM takes the file as a certificate chain and key, for text around the blocks is ignored.
    """

    name: str
    server: Address
    first_partition: int  # the clients of the federation that this device may be, from first to last
    last_partition: int
    certificate: bytes  # PEM, all three
    key: bytes
    ca: bytes

    @classmethod
    def read(cls, path: Path) -> Bundle:
        """Read a bundle file.

        Raises:
            CredentialsError: it cannot be read, or is no bundle of a format this version knows.
        """
        try:
            data = path.read_bytes()
        except OSError as error:
            raise CredentialsError(f"cannot read the bundle {path}: {error.strerror}") from error
        try:
            header = tomllib.loads(data.partition(b"-----BEGIN")[0].decode())
            certificates = [block + b"\n" for block in _split(pem_blocks(data, "CERTIFICATE"))]
            key = pem_blocks(data, ".*KEY")
            if header.get("format") != FORMAT or len(certificates) != 2 or b"KEY" not in key:
                raise ValueError(f"it should begin with format = {FORMAT!r} and hold two certificates and a key")
            first, last = header["first_partition"], header["last_partition"]
            if not (isinstance(first, int) and isinstance(last, int) and 0 <= first <= last):
                raise ValueError(f"partitions {first!r} to {last!r} are no range")
            server = Address.parse(str(header["server"]))
            return cls(str(header["name"]), server, first, last, certificates[0], key, certificates[1])
        except (ValueError, KeyError, LinkError) as error:
            raise CredentialsError(
                f"{path} is not a device's bundle ({error}); `amgt-server fleet enroll` makes one"
            ) from error

    @classmethod
    def load(cls, path: Path) -> tuple[Bundle, Tls]:
        """Read a bundle file and check that its certificate is its key's and valid today.

        Raises:
            CredentialsError: see `read` and `Tls.load`.
        """
        bundle = cls.read(path)
        return bundle, Tls.check(TlsFiles(path, path, path), bundle.ca, bundle.certificate, bundle.key)

    def to_bytes(self) -> bytes:
        """The file's content."""
        header = _HEADER.format(
            format=FORMAT, name=self.name, server=self.server, first=self.first_partition, last=self.last_partition
        )
        return header.encode() + self.certificate + self.key + self.ca


def _split(pem: bytes) -> list[bytes]:
    return re.findall(rb"-----BEGIN.*?-----END [A-Z ]+-----", pem, re.DOTALL)
