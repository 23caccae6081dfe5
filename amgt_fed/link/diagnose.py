"""Why a connection fails, tried once more with plain sockets: gRPC says little more than "unavailable"."""

from __future__ import annotations

import contextlib
import socket
import ssl
from dataclasses import dataclass

from amgt_fed.link.address import Address
from amgt_fed.link.credentials import Tls

TIMEOUT_S = 3.0
_HTTP2_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0"
_TLS_ALERT = 0x15
_SETTINGS = 0x04


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """One line, and whether trying again is pointless."""

    text: str
    is_permanent: bool


def diagnose(address: Address, tls: Tls | None) -> Diagnosis:
    """Connect to `address` as a client with these certificates would, and say what stands in the way.

    Blocks for a few seconds at most.
    """
    try:
        address.resolve()
        with socket.create_connection((address.host, address.port), timeout=TIMEOUT_S) as connection:
            return _try_tls(address, connection, tls) if tls is not None else _try_plaintext(address, connection)
    except ConnectionRefusedError:
        return Diagnosis(f"nobody listens at {address}", False)
    except TimeoutError:
        return Diagnosis(f"no answer from {address} within {TIMEOUT_S:g} s", False)
    except OSError as error:
        return Diagnosis(f"cannot reach {address}: {error.strerror or error}", False)
    except Exception as error:
        return Diagnosis(str(error), False)


def _try_plaintext(address: Address, connection: socket.socket) -> Diagnosis:
    connection.sendall(_HTTP2_PREFACE)
    answer = b""
    with contextlib.suppress(ConnectionError):
        answer = connection.recv(9)
    if answer[:1] == bytes([_TLS_ALERT]) or (not answer and _speaks_tls(address)):
        return Diagnosis(f"the server at {address} wants TLS; pass --ca, --cert and --key instead of --insecure", True)
    if len(answer) > 3 and answer[3] == _SETTINGS:
        return Diagnosis(f"the server at {address} answers, but the stream broke", False)
    if not answer:
        return Diagnosis(f"{address} hung up without a word", False)
    return Diagnosis(f"what listens at {address} is not an AMGT link server (it does not speak gRPC)", True)


def _speaks_tls(address: Address) -> bool:
    # Only whether, not with whom: nothing is sent over this connection.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    try:
        with (
            socket.create_connection((address.host, address.port), timeout=TIMEOUT_S) as connection,
            context.wrap_socket(connection),
        ):
            return True
    except (OSError, ssl.SSLError):
        return False


def _try_tls(address: Address, connection: socket.socket, tls: Tls) -> Diagnosis:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=tls.ca.decode("ascii"))
    context.load_cert_chain(tls.files.certificate, tls.files.key)
    context.set_alpn_protocols(["h2"])
    try:
        with context.wrap_socket(connection, server_hostname=address.host) as secure:
            # In TLS 1.3 the server looks at our certificate after the handshake is over for us; a gRPC server that
            # accepts it speaks first, one that does not hangs up without a word.
            if secure.recv(1):
                return Diagnosis(f"the server at {address} answers, but the stream broke", False)
            return Diagnosis(
                f"the server at {address} does not accept {tls.files.certificate}; was it issued by the server's CA, "
                "and is the server's clock right?",
                True,
            )
    except ssl.SSLCertVerificationError as error:
        return Diagnosis(
            f"the certificate of the server at {address} is not accepted: {error.verify_message}; is {tls.files.ca} "
            f"the CA that issued it, and does it name {address.host}?",
            True,
        )
    except ssl.SSLError as error:
        reason = error.reason or str(error)
        if "WRONG_VERSION" in reason or "HTTP_REQUEST" in reason:
            return Diagnosis(f"what listens at {address} does not speak TLS; is it a server with --insecure?", True)
        if "ALERT" in reason:
            return Diagnosis(
                f"the server at {address} does not accept {tls.files.certificate} ({_plain(reason)}); was it issued "
                "by the server's CA, and is the server's clock right?",
                True,
            )
        return Diagnosis(f"TLS with {address} fails: {_plain(reason)}", False)
    except ConnectionError:
        return Diagnosis(f"{address} hung up during the TLS handshake; does it accept {tls.files.certificate}?", False)


def _plain(reason: str) -> str:
    return reason.replace("_", " ").lower()
