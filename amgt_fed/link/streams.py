"""One stream on the server, from Hello to its end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Any

import grpc

from amgt_fed.errors import LinkError
from amgt_fed.link.errors import MessageTooLarge, ProtocolViolation
from amgt_fed.link.frames import Incoming, check_name, chunks, parse_up
from amgt_fed.link.limits import PROTOCOL
from amgt_fed.link.node import Node, Outgoing, Peer, Stream
from amgt_fed.link.traffic import GRPC_PREFIX_BYTES, Traffic
from amgt_fed.link.v1 import link_pb2

if TYPE_CHECKING:
    from amgt_fed.link.server import LinkServer

log = logging.getLogger("amgt_fed.link.server")


MAX_HANDSHAKES = 1000
"""So many are counted at most within the time to a Hello."""


class _Refused(Exception):
    """The stream ends with this gRPC status."""

    def __init__(self, code: grpc.StatusCode, text: str) -> None:
        super().__init__(text)
        self.code, self.text = code, text


class StreamHandler:
    """Serve streams for a `LinkServer`."""

    def __init__(self, server: LinkServer) -> None:
        self._server = server
        self._open = 0
        self._all_closed = asyncio.Event()
        self._all_closed.set()
        # When each handshake began that no Hello has followed yet. Appended in gRPC's threads.
        self._handshakes: deque[float] = deque(maxlen=MAX_HANDSHAKES)

    def handshake_begins(self) -> None:
        """Take note that a TLS handshake begins; callable from any thread."""
        self._handshakes.append(time.monotonic())

    def report_refused_handshakes(self) -> None:
        """Log how many connections brought no Hello; gRPC does not tell whose they were, but says why by itself."""
        count = 0
        while self._handshakes and self._handshakes[0] + self._server.limits.hello_s < time.monotonic():
            self._handshakes.popleft()
            count += 1
        if count:
            log.warning(
                "refused %d connections without a valid certificate of this fleet (unknown, expired, or no TLS at all)",
                count,
            )

    async def wait_closed(self, timeout: float) -> None:
        """Wait until every stream has ended, so that all Goodbyes are out."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._all_closed.wait(), timeout)

    async def connect(self, requests: Any, context: Any) -> None:
        """The gRPC method: one call is one stream."""
        with contextlib.suppress(IndexError):
            self._handshakes.popleft()
        self._open += 1
        self._all_closed.clear()
        try:
            await self._serve(context)
        except _Refused as refusal:
            log.warning("refused %s: %s", context.peer(), refusal.text)
            await context.abort(refusal.code, refusal.text)
        except (ProtocolViolation, MessageTooLarge) as error:
            log.warning("closed the stream from %s: %s", context.peer(), error)
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        finally:
            self._open -= 1
            if self._open == 0:
                self._all_closed.set()

    async def _serve(self, context: Any) -> None:
        limits = self._server.limits
        try:
            async with asyncio.timeout(limits.hello_s):
                raw = await context.read()
        except TimeoutError:
            raise _Refused(grpc.StatusCode.DEADLINE_EXCEEDED, f"no Hello within {limits.hello_s:g} s") from None
        if raw is grpc.aio.EOF:
            return
        hello = self._check_hello(raw, context)
        stream = Stream(self._identify(hello, context), hello.max_message_bytes)
        try:
            node = self._server.members.attach(stream)
        except LinkError as error:
            raise _Refused(grpc.StatusCode.RESOURCE_EXHAUSTED, str(error)) from error
        node.traffic.received_bytes += len(raw) + GRPC_PREFIX_BYTES
        try:
            await self._welcome(context, node, stream, hello)
            reader = asyncio.create_task(self._read(context, node, stream))
            writer = asyncio.create_task(self._write(context, node, stream))
            stream.cut = reader.cancel
            await _until_either_ends(reader, writer)
        finally:
            self._server.members.detach(node, stream)

    def _check_hello(self, raw: bytes, context: Any) -> link_pb2.Hello:
        up = parse_up(raw)
        if up.WhichOneof("kind") != "hello":
            raise ProtocolViolation("the stream does not begin with a Hello")
        hello: link_pb2.Hello = up.hello
        if hello.protocol != PROTOCOL:
            older = "client" if hello.protocol < PROTOCOL else "server"
            raise _Refused(
                grpc.StatusCode.FAILED_PRECONDITION,
                f"client speaks protocol {hello.protocol}, server {PROTOCOL}; update amgt-fed on the {older}",
            )
        check_name(hello.name)
        return hello

    def _identify(self, hello: link_pb2.Hello, context: Any) -> Peer:
        certificate = None
        auth = context.auth_context()
        if "x509_pem_cert" in auth:
            certificate = auth["x509_pem_cert"][0]
            common_name = auth.get("x509_common_name", [b""])[0].decode(errors="replace")
            # A process that hosts several nodes has one certificate; each node's name begins with it.
            if hello.name != common_name and not hello.name.startswith(f"{common_name}/"):
                raise _Refused(
                    grpc.StatusCode.PERMISSION_DENIED,
                    f"node calls itself {hello.name!r}, but its certificate is for {common_name!r}",
                )
        peer = Peer(hello.name, certificate, context.peer())
        if (reason := self._server.authorize(peer)) is not None:
            raise _Refused(grpc.StatusCode.PERMISSION_DENIED, reason)
        return peer

    async def _welcome(self, context: Any, node: Node, stream: Stream, hello: link_pb2.Hello) -> None:
        server = self._server
        held = set(hello.held) if hello.session == server.session else set()
        stream.sent |= held & node.outbox.keys()
        welcome = link_pb2.Welcome(
            protocol=PROTOCOL,
            session=server.session,
            run_id=server.run_id,
            node_id=node.node_id,
            max_message_bytes=server.limits.max_message_bytes,
            chunk_bytes=server.limits.chunk_bytes,
            run_config=server.settings,
            settled=sorted(held - node.outbox.keys()),
        )
        await _send(context, node.traffic, link_pb2.Down(welcome=welcome))

    async def _read(self, context: Any, node: Node, stream: Stream) -> None:
        """Put replies together until the node hangs up."""
        server = self._server
        incoming: Incoming | None = None
        unwanted: int | None = None  # a reply nobody waits for, whose chunks are dropped as they come
        reserved = 0
        try:
            while True:
                waits = server.limits.stall_s if incoming is not None else None
                async with asyncio.timeout(waits):
                    raw = await context.read()
                if raw is grpc.aio.EOF:
                    return
                node.traffic.received_bytes += len(raw) + GRPC_PREFIX_BYTES
                if stream.is_closing:
                    continue  # shut out or taken over: nothing of it counts any more
                up = parse_up(raw)
                if up.WhichOneof("kind") != "chunk":
                    raise ProtocolViolation(f"node {node.name} says Hello twice")
                chunk = up.chunk
                if chunk.HasField("total_bytes"):
                    server.budget.release(reserved)
                    incoming, unwanted, reserved = None, None, 0
                    if chunk.message_id not in node.outbox or chunk.message_id not in stream.sent:
                        unwanted = chunk.message_id
                        node.traffic.dropped_messages += 1
                        stream.push(link_pb2.Down(settled=link_pb2.Settled(message_id=unwanted)))
                        continue
                    incoming = Incoming(chunk, server.limits.max_message_bytes, "the server")
                    await server.budget.reserve(incoming.total_bytes)
                    reserved = incoming.total_bytes
                elif incoming is None and chunk.message_id == unwanted:
                    continue
                elif incoming is None:
                    raise ProtocolViolation(f"reply {chunk.message_id:016x} begins without its first chunk")
                if incoming.feed(chunk):
                    size, reserved = reserved, 0
                    self._deliver(node, incoming, partial(server.budget.release, size))
                    incoming = None
        except TimeoutError:
            log.warning("node %s stopped in the middle of a reply for %g s", node.name, server.limits.stall_s)
        finally:
            server.budget.release(reserved)

    def _deliver(self, node: Node, incoming: Incoming, release: Any) -> None:
        payload = incoming.payload()
        if self._server.listener.replied(node.node_id, incoming.message_id, payload, release):
            node.traffic.received_messages += 1
            node.traffic.received_payload_bytes += len(payload)
        else:
            node.traffic.dropped_messages += 1
        self._server.forget(incoming.message_id)

    async def _write(self, context: Any, node: Node, stream: Stream) -> None:
        """Send what there is until the stream is to close."""
        while True:
            await self._flush(context, node, stream)
            if stream.is_closing:
                return
            outgoing = node.next_to_send() if node.stream is stream else None
            if outgoing is None:
                stream.wake.clear()
                if not stream.control:
                    await stream.wake.wait()
                continue
            stream.sent.add(outgoing.message_id)
            if outgoing.size > stream.max_message_bytes:  # it was queued for an earlier stream, with a larger limit
                self._server.listener.failed(
                    outgoing.message_id, f"message is {outgoing.size} bytes; node {node.name} takes less"
                )
                self._server.forget(outgoing.message_id)
                continue
            await self._send_message(context, node, stream, outgoing)

    async def _send_message(self, context: Any, node: Node, stream: Stream, outgoing: Outgoing) -> None:
        left = max(outgoing.expires - time.monotonic(), 0.0)
        for chunk in chunks(outgoing.message_id, outgoing.parts, self._server.limits.chunk_bytes, left):
            await self._flush(context, node, stream)
            if stream.is_closing or outgoing.message_id not in node.outbox:
                return
            await _send(context, node.traffic, link_pb2.Down(chunk=chunk))
        node.traffic.sent_messages += 1
        node.traffic.sent_payload_bytes += outgoing.size

    async def _flush(self, context: Any, node: Node, stream: Stream) -> None:
        while stream.control:
            await _send(context, node.traffic, stream.control.popleft())


async def _send(context: Any, traffic: Traffic, down: link_pb2.Down) -> None:
    raw = down.SerializeToString()
    await context.write(raw)
    traffic.sent_bytes += len(raw) + GRPC_PREFIX_BYTES


async def _until_either_ends(reader: asyncio.Task[None], writer: asyncio.Task[None]) -> None:
    """Wait for one, break the other off, and raise what the first one raised."""
    try:
        done, _ = await asyncio.wait({reader, writer}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in (reader, writer):
            task.cancel()
        await asyncio.gather(reader, writer, return_exceptions=True)
    for task in done:
        error = task.exception() if not task.cancelled() else None
        if isinstance(error, ProtocolViolation | MessageTooLarge):
            raise error
        # A stream that breaks is the ordinary end of a stream: its node will be back. Anything else is our own fault.
        if error is not None and not isinstance(error, grpc.RpcError | grpc.aio.UsageError | grpc.aio.InternalError):
            log.error("a stream failed", exc_info=error)
