"""The AMGT link: our gRPC service, which carries bytes between a server and long-lived nodes; it knows no Flower."""

import os

# gRPC's own handling of fork crashes or hangs the forked child while streams are open, as in a DataLoader's worker
# processes. They never use gRPC, so it is better left alone. gRPC reads this when it is first imported, and Flower
# imports it: the commands set it themselves, before anything else.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")

from amgt_fed.link.address import Address
from amgt_fed.link.bundle import Bundle
from amgt_fed.link.client import LinkClient
from amgt_fed.link.credentials import Tls, TlsFiles, choose_security
from amgt_fed.link.errors import (
    AddressError,
    ConnectionRefused,
    CredentialsError,
    MessageTooLarge,
    PlaintextRefused,
    ProtocolViolation,
    ShutOut,
    TakenOver,
)
from amgt_fed.link.limits import LinkLimits
from amgt_fed.link.listener import Listener
from amgt_fed.link.node import Outgoing, Peer, node_id_of
from amgt_fed.link.renewal import Renewal
from amgt_fed.link.request import Joined, Request
from amgt_fed.link.server import LinkServer
from amgt_fed.link.sockets import SocketCounter
from amgt_fed.link.traffic import Traffic, TrafficReport

__all__ = [
    "Address",
    "AddressError",
    "Bundle",
    "ConnectionRefused",
    "CredentialsError",
    "Joined",
    "LinkClient",
    "LinkLimits",
    "LinkServer",
    "Listener",
    "MessageTooLarge",
    "Outgoing",
    "Peer",
    "PlaintextRefused",
    "ProtocolViolation",
    "Renewal",
    "Request",
    "ShutOut",
    "SocketCounter",
    "TakenOver",
    "Tls",
    "TlsFiles",
    "Traffic",
    "TrafficReport",
    "choose_security",
    "node_id_of",
]
