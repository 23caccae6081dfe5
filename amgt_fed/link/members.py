"""Who is in the federation; belongs to the link's event loop."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from amgt_fed.errors import LinkError
from amgt_fed.link.limits import LinkLimits
from amgt_fed.link.node import Node, Peer, Stream, node_id_of
from amgt_fed.link.traffic import Traffic
from amgt_fed.link.v1 import link_pb2

log = logging.getLogger("amgt_fed.link.server")

FAREWELL_S = 2.0
"""How long a node that is shut out may take to read why; then its stream is cut."""


class Members:
    """The nodes that are connected, or gone for less than the grace period.

    Args:
        limits: how many there may be and how long one may be gone.
        lost: called when a node has left for good, with the reason its messages fail with.
        changed: called when a node joins, comes back or leaves.
    """

    def __init__(self, limits: LinkLimits, lost: Callable[[Node, str], None], changed: Callable[[], None]) -> None:
        self._limits = limits
        self._lost = lost
        self._changed = changed
        self.nodes: dict[int, Node] = {}
        self.traffic: dict[str, Traffic] = {}  # of every node that ever was here, by name
        self.is_over = False  # nobody is waited for any more

    def attach(self, stream: Stream) -> Node:
        """Bind a stream to its node, new or returning; an older stream of the same name is told Goodbye.

        Raises:
            LinkError: the federation is full, or the name's node id belongs to another name.
        """
        name = stream.peer.name
        node_id = node_id_of(name)
        node = self.nodes.get(node_id)
        if node is None:
            if len(self.nodes) >= self._limits.max_nodes:
                raise LinkError(f"the federation is full: {self._limits.max_nodes} nodes are connected")
            node = Node(name, node_id, self.traffic.setdefault(name, Traffic()))
            self.nodes[node_id] = node
            log.info("node %s joined from %s (%d connected)", name, stream.peer.address, len(self.nodes))
        elif node.name != name:
            raise LinkError(f"node name {name!r} has the same id as {node.name!r}; use another name")
        else:
            if node.stream is not None:
                # Not refused: after a change of network a device is back long before its old connection is known dead.
                before = node.stream.peer.address
                log.warning("node %s connects again from %s and takes over from %s", name, stream.peer.address, before)
                node.stream.close(link_pb2.Goodbye.Reason.TAKEN_OVER)
            else:
                log.info("node %s is back from %s", name, stream.peer.address)
            if node.removal is not None:
                node.removal.cancel()
                node.removal = None
        node.stream = stream
        self._changed()
        return node

    def detach(self, node: Node, stream: Stream) -> None:
        """Take note that a stream has ended; its node leaves unless it is back within the grace period."""
        if node.stream is not stream:
            return
        node.stream = None
        if self.is_over:
            return
        log.info("node %s is gone; it has %g s to come back", node.name, self._limits.grace_s)
        node.removal = asyncio.get_running_loop().call_later(self._limits.grace_s, self._miss, node)

    def shut_out(self, refuse: Callable[[Peer], str | None]) -> None:
        """Ask again about everybody connected; who is refused is told why, cut off and forgotten at once."""
        loop = asyncio.get_running_loop()
        for node in list(self.nodes.values()):
            stream = node.stream
            if stream is None or (reason := refuse(stream.peer)) is None:
                continue
            log.warning("shut out node %s at %s: %s", node.name, stream.peer.address, reason)
            node.stream = None
            stream.close(link_pb2.Goodbye.Reason.SHUT_OUT, reason)
            loop.call_later(FAREWELL_S, stream.cut)
            self._remove(node, f"node {node.name} was shut out: {reason}")

    def say_goodbye(self, reason: link_pb2.Goodbye.Reason) -> None:
        """Tell all of them that this server ends; nobody is waited for from here on."""
        self.is_over = True
        for node in self.nodes.values():
            if node.stream is not None:
                node.stream.close(reason)

    def _miss(self, node: Node) -> None:
        log.warning("node %s left: not back within %g s", node.name, self._limits.grace_s)
        self._remove(node, f"node {node.name} is gone and was not back within {self._limits.grace_s:g} s")

    def _remove(self, node: Node, reason: str) -> None:
        del self.nodes[node.node_id]
        self._lost(node, reason)
        self._changed()
