"""The server's end of the link, in a thread of its own; it knows bytes and ids, not what they mean."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import resource
import secrets
import threading
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import grpc

from amgt_fed.errors import LinkError
from amgt_fed.link.address import Address, explain_bind_failure
from amgt_fed.link.budget import ReceiveBudget
from amgt_fed.link.credentials import Tls
from amgt_fed.link.errors import AddressError
from amgt_fed.link.frames import METHOD, RunConfig, settings_of
from amgt_fed.link.limits import LinkLimits, channel_options
from amgt_fed.link.listener import Listener
from amgt_fed.link.members import Members
from amgt_fed.link.node import Node, Outgoing, Peer
from amgt_fed.link.renewal import Renewal
from amgt_fed.link.streams import StreamHandler
from amgt_fed.link.traffic import Traffic, TrafficReport
from amgt_fed.link.v1 import link_pb2

log = logging.getLogger("amgt_fed.link.server")

HOUSEKEEPING_S = 0.5
STOP_GRACE_S = 2.0


class LinkServer:
    """Accept nodes, send them messages, hand their replies to a listener.

    Args:
        address: where to listen; port 0 takes a free one.
        tls: certificates; None for plaintext (`choose_security` decides when that is allowed).
        run_id, run_config: what every node is told on joining.
        listener: see `Listener`.
        limits: sizes and times.
        authorize: asked with every Hello; returns why the peer is refused, or None. Runs in the link's thread.
        recheck: asked twice a second whether `authorize` may now answer otherwise about somebody who is connected; whom
            it then refuses is cut off. Runs in the link's thread, so it must not block.

    Raises:
        TypeError, ValueError: `run_config` holds something else than bool, 64-bit int, float and str.
    """

    def __init__(
        self,
        address: Address,
        tls: Tls | None,
        *,
        run_id: int,
        run_config: RunConfig,
        listener: Listener,
        limits: LinkLimits | None = None,
        authorize: Callable[[Peer], str | None] | None = None,
        recheck: Callable[[], bool] | None = None,
    ) -> None:
        self.limits = limits or LinkLimits()
        self.run_id = run_id
        self.session = secrets.randbits(63) + 1
        self.settings = settings_of(run_config)
        self.authorize = authorize or (lambda peer: None)
        self._recheck = recheck or (lambda: False)
        self.listener = listener
        self.budget = ReceiveBudget(self.limits.receive_budget_bytes)
        self._asked_address = address
        self._tls = tls
        self.members = Members(self.limits, self._lose, listener.nodes_changed)
        self._owners: dict[int, Node] = {}  # message id -> the node that has it in its outbox
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._ready = threading.Event()
        self._failure: Exception | None = None
        self._stopping: asyncio.Event | None = None
        self._farewell = link_pb2.Goodbye.Reason.RUN_OVER
        self.address = address

    def start(self) -> Address:
        """Begin to listen.

        Returns:
            The bound address, which is also `self.address` from now on.

        Raises:
            AddressError: the address is in use, unknown, or not ours.
        """
        _raise_open_file_limit()
        self._thread = threading.Thread(target=self._run, name="amgt-link-server", daemon=True)
        self._thread.start()
        self._ready.wait()
        if self._failure is not None:
            self._thread.join()
            raise self._failure
        return self.address

    def stop(self, *, run_over: bool = True) -> None:
        """Say Goodbye to all nodes and stop listening; `run_over` tells them whether to come again.

        May be called twice.
        """
        if self._thread is None or self._stopping is None or not self._thread.is_alive():
            return
        if not run_over:
            self._farewell = link_pb2.Goodbye.Reason.RESTARTING
        self._call(self._stopping.set)
        self._thread.join()

    def node_ids(self) -> list[int]:
        """Nodes that are connected, or gone for less than the grace period, in ascending order."""
        return sorted(list(self.members.nodes))

    def node_names(self) -> dict[int, str]:
        """The same nodes' names."""
        return {node.node_id: node.name for node in list(self.members.nodes.values())}

    def send(self, messages: Iterable[tuple[int, Outgoing]]) -> None:
        """Queue messages for nodes; a message to an unknown node fails at once."""
        self._call(self._enqueue, list(messages))

    def cancel(self, message_ids: Iterable[int]) -> None:
        """Forget messages; their replies, should they come, are dropped."""
        self._call(self._cancel, list(message_ids))

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> None:
        """Run `callback` in the link's thread after a delay."""
        assert self._loop is not None
        self._call(self._loop.call_later, delay_s, callback)

    def call_soon(self, callback: Callable[[], None]) -> None:
        """Run `callback` in the link's thread."""
        self._call(callback)

    def traffic(self) -> TrafficReport:
        """Bytes so far; see `Traffic` for what is counted."""
        nodes = {name: traffic.copy() for name, traffic in list(self.members.traffic.items())}
        total = Traffic()
        for traffic in nodes.values():
            total.add(traffic)
        return TrafficReport(nodes, total)

    # What follows runs in the link's thread.

    def forget(self, message_id: int) -> None:
        """Drop a message that is answered, cancelled or failed."""
        node = self._owners.pop(message_id, None)
        if node is not None and node.settle(message_id) is not None:
            self.listener.settled(message_id)

    def _fail(self, message_id: int, reason: str) -> None:
        self.listener.failed(message_id, reason)
        self.forget(message_id)

    def _lose(self, node: Node, reason: str) -> None:
        for message_id in list(node.outbox):
            self._fail(message_id, reason)

    def _enqueue(self, messages: list[tuple[int, Outgoing]]) -> None:
        for node_id, outgoing in messages:
            node = self.members.nodes.get(node_id)
            if node is None:
                self.listener.failed(outgoing.message_id, f"node {node_id} is not connected")
                self.listener.settled(outgoing.message_id)
            elif node.stream is not None and outgoing.size > node.stream.max_message_bytes:
                limit = node.stream.max_message_bytes
                reason = f"message is {outgoing.size} bytes; node {node.name} takes at most {limit}"
                self.listener.failed(outgoing.message_id, reason)
                self.listener.settled(outgoing.message_id)
            else:
                node.outbox[outgoing.message_id] = outgoing
                self._owners[outgoing.message_id] = node
                if node.stream is not None:
                    node.stream.wake.set()

    def _cancel(self, message_ids: list[int]) -> None:
        for message_id in message_ids:
            self.forget(message_id)

    def _call(self, function: Callable[..., Any], *arguments: Any) -> None:
        assert self._loop is not None, "the server has not been started"
        try:
            self._loop.call_soon_threadsafe(function, *arguments)
        except RuntimeError as error:  # the loop is closed
            raise LinkError("the link's server has stopped") from error

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except AddressError as error:
            self._failure = error
        except Exception as error:
            log.exception("the link's server failed")
            self._failure = error
        finally:
            self._ready.set()
            # Whoever still waits for a reply must not wait for ever.
            for message_id in list(self._owners):
                self._fail(message_id, "the link's server has stopped")

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stopping = asyncio.Event()
        server = grpc.aio.server(options=channel_options(self.limits))
        handler = StreamHandler(self)
        service, _, method = METHOD[1:].partition("/")
        # Without (de)serializers gRPC passes the bytes on as they are: they are counted and checked before parsing.
        connect = grpc.stream_stream_rpc_method_handler(handler.connect)
        server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(service, {method: connect})])
        where = str(self._asked_address)
        try:
            if self._tls is None:
                port = server.add_insecure_port(where)
            else:
                renewal = Renewal(self._tls, partial(Tls.load, self._tls.files))

                def certificates() -> Tls:
                    handler.handshake_begins()
                    return renewal.current()

                port = server.add_secure_port(where, self._tls.server_credentials(certificates))
            if port == 0:
                raise RuntimeError("no port")
        except RuntimeError as error:
            raise AddressError(explain_bind_failure(self._asked_address)) from error
        await server.start()
        self.address = Address(self._asked_address.host, port)
        self._ready.set()
        try:
            while not self._stopping.is_set():
                try:
                    await asyncio.wait_for(self._stopping.wait(), HOUSEKEEPING_S)
                except TimeoutError:
                    self._keep_house(handler)
            self.members.say_goodbye(self._farewell)
            await handler.wait_closed(STOP_GRACE_S)
        finally:
            await server.stop(0.1)

    def _keep_house(self, handler: StreamHandler) -> None:
        if self._recheck():
            self.members.shut_out(self.authorize)
        handler.report_refused_handshakes()
        # The listener knows when a message's time is over; here it only stops taking memory and bandwidth.
        for node in list(self.members.nodes.values()):
            for message_id in node.expired():
                self.forget(message_id)


def _raise_open_file_limit() -> None:
    """Let this process hold as many connections as the system allows it: every node takes a descriptor."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        # macOS has limits of its own above what it reports.
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
