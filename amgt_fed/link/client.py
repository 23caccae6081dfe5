"""A node's end of the link: one stream, opened again whenever it breaks."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import logging
import random
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import grpc

from amgt_fed.link.address import Address
from amgt_fed.link.backoff import delays
from amgt_fed.link.credentials import Tls
from amgt_fed.link.diagnose import diagnose
from amgt_fed.link.errors import ConnectionRefused, MessageTooLarge, ProtocolViolation, ShutOut, TakenOver
from amgt_fed.link.frames import METHOD, Incoming, chunks, parse_down
from amgt_fed.link.limits import PROTOCOL, LinkLimits, channel_options
from amgt_fed.link.request import Joined, Request, welcomed
from amgt_fed.link.status import check_status, refusal_of
from amgt_fed.link.v1 import link_pb2

log = logging.getLogger("amgt_fed.link.client")

RENEWAL_POLL_S = 2.0
RENEWED = "the certificate was renewed"


class _Renewed(Exception):
    """There is a newer certificate, so the stream is opened again."""


class LinkClient:
    """One node, from the first connection to the end of the run.

    All methods belong to the event loop that runs `run`, except `reply` and `is_wanted`.

    Args:
        name: under TLS the certificate's common name, or that, a slash and a suffix.
        on_request: called with each message, in the loop; must not block.
        stay: whether to come back for the next run when one is over.
        once_connected: called at each Welcome, in the loop.
        certificates: asked every few seconds and before every connection; what differs from `tls` is used from then on,
            over a new stream. Nothing under way is lost by that, as by any stream that breaks.
    """

    def __init__(
        self,
        address: Address,
        tls: Tls | None,
        name: str,
        on_request: Callable[[Request], None],
        *,
        limits: LinkLimits | None = None,
        stay: bool = False,
        once_connected: Callable[[Joined], None] | None = None,
        certificates: Callable[[], Tls | None] | None = None,
    ) -> None:
        self.name = name
        self._address = address
        self._tls = tls
        self._on_request = on_request
        self._limits = limits or LinkLimits()
        self._stay = stay
        self._certificates = certificates or (lambda: tls)
        self._once_connected = once_connected or (lambda joined: None)
        self._joined: Joined | None = None
        # Message id -> the reply's parts, None while it is being worked on. Kept until the server settles it.
        self._held: dict[int, Sequence[bytes] | None] = {}
        self._to_send: deque[int] = deque()
        self._wake = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None

    async def run(self) -> None:
        """Take part until the run is over (or, with `stay`, until cancelled); reconnect whenever the stream breaks.

        Raises:
            ConnectionRefused: the server does not want this node, or is none; trying again would not help.
            ShutOut: of those, the one where the server's fleet does not (or no longer) have this node's certificate.
            TakenOver: another client uses this node's name.
        """
        self._loop = asyncio.get_running_loop()
        generator = random.Random()
        waits = delays(self._limits.backoff_s, self._limits.max_backoff_s, generator)
        told = ""
        while True:
            started = time.monotonic()
            self._tls = self._certificates()
            reason, problem = await self._one_stream()
            if problem == RENEWED:
                log.info("node %s: %s; connecting with the new one", self.name, problem)
                continue
            if reason == link_pb2.Goodbye.TAKEN_OVER:
                raise TakenOver(f"another client connected as {self.name!r}; give each node a name of its own (--name)")
            if reason == link_pb2.Goodbye.RUN_OVER:
                self._held.clear()  # nobody waits for what is still queued
                log.info("node %s: the run is over", self.name)
                if not self._stay:
                    return
            if reason is not None or time.monotonic() - started > self._limits.max_backoff_s:
                waits = delays(self._limits.backoff_s, self._limits.max_backoff_s, generator)
                told = ""
            if reason is None and self._joined is None:
                # Only while never connected is it likely that the address or the certificates are at fault.
                diagnosis = await asyncio.to_thread(diagnose, self._address, self._tls)
                if diagnosis.is_permanent:
                    raise ConnectionRefused(diagnosis.text)
                problem = diagnosis.text if problem == "unavailable" else problem
            elif reason is None and self._tls is not None and self._tls.expires < datetime.datetime.now(datetime.UTC):
                problem = (
                    f"the certificate in {self._tls.files.certificate} has expired; renew it, the file is read again"
                )
            wait = next(waits)
            if reason is None and problem != told:
                log.warning("node %s: %s; trying again until it works", self.name, problem)
                told = problem
            await asyncio.sleep(wait)

    def is_wanted(self, request: Request) -> bool:
        """Whether the server still waits for this reply; callable from any thread."""
        joined = self._joined
        return (
            joined is not None
            and joined.session == request.joined.session
            and request.message_id in self._held
            and time.monotonic() < request.expires
        )

    def reply(self, request: Request, parts: Sequence[bytes]) -> None:
        """Answer a request; callable from any thread. The reply is kept and sent again until the server settles it.

        Raises:
            MessageTooLarge: the server does not take so much; the request is still unanswered.
        """
        size = sum(map(len, parts))
        if size > request.joined.max_reply_bytes:
            raise MessageTooLarge(size, request.joined.max_reply_bytes, "the server")
        assert self._loop is not None
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody will take the reply
            self._loop.call_soon_threadsafe(self._queue_reply, request, parts)

    def _queue_reply(self, request: Request, parts: Sequence[bytes]) -> None:
        if self.is_wanted(request):
            self._held[request.message_id] = parts
            self._to_send.append(request.message_id)
            self._wake.set()

    async def _one_stream(self) -> tuple[link_pb2.Goodbye.Reason | None, str]:
        """Connect and stay connected; returns the server's Goodbye, or None and what broke."""
        options = channel_options(self._limits)
        if self._tls is None:
            channel = grpc.aio.insecure_channel(str(self._address), options=options)
        else:
            channel = grpc.aio.secure_channel(str(self._address), self._tls.channel_credentials(), options=options)
        call = channel.stream_stream(METHOD)()
        try:
            return await self._talk(call), "the server closed the stream"
        except grpc.aio.AioRpcError as error:
            if (refusal := refusal_of(error, self._address, self.name)) is not None:
                raise refusal from error
            if error.code() is grpc.StatusCode.UNAVAILABLE:
                return None, "unavailable" if self._joined is None else f"lost the server at {self._address}"
            return None, f"the server at {self._address} broke the stream off: {error.details()}"
        except (ProtocolViolation, MessageTooLarge) as error:
            raise ConnectionRefused(f"the server at {self._address} broke the protocol: {error}") from error
        except _Renewed:
            return None, RENEWED
        except TimeoutError:
            return None, f"no Welcome from {self._address} within {self._limits.hello_s:g} s"
        finally:
            call.cancel()
            await channel.close()

    async def _talk(self, call: Any) -> link_pb2.Goodbye.Reason | None:
        async with asyncio.timeout(self._limits.hello_s):
            await call.write(self._hello().SerializeToString())
            raw = await call.read()
        if raw is grpc.aio.EOF:
            await check_status(call)
            return None
        self._enter(parse_down(raw))
        reader = asyncio.create_task(self._read(call))
        writer = asyncio.create_task(self._write(call))
        renewal = asyncio.create_task(self._await_renewal())
        try:
            await asyncio.wait({reader, writer, renewal}, return_when=asyncio.FIRST_COMPLETED)
            if renewal.done():
                raise _Renewed
            if writer.done() and isinstance(writer.exception(), grpc.aio.AioRpcError | asyncio.InvalidStateError):
                await asyncio.wait({reader})  # the stream broke under the writer; why, the reader learns
            elif writer.done():
                writer.result()
            return await reader
        finally:
            for task in (reader, writer, renewal):
                task.cancel()
            await asyncio.gather(reader, writer, renewal, return_exceptions=True)

    async def _await_renewal(self) -> None:
        while self._certificates() is self._tls:
            await asyncio.sleep(RENEWAL_POLL_S)

    def _hello(self) -> link_pb2.Up:
        return link_pb2.Up(
            hello=link_pb2.Hello(
                protocol=PROTOCOL,
                name=self.name,
                max_message_bytes=self._limits.max_message_bytes,
                session=self._joined.session if self._joined is not None else 0,
                held=sorted(self._held),
            )
        )

    def _enter(self, down: link_pb2.Down) -> None:
        joined, settled = welcomed(down)
        if self._joined is None or joined.session != self._joined.session:
            self._held.clear()  # another server process: it never asked for these
        for message_id in settled:
            self._held.pop(message_id, None)
        self._joined = joined
        # What the last stream did not bring to its end is sent again from its beginning.
        self._to_send = deque(message_id for message_id, parts in self._held.items() if parts is not None)
        self._wake.set()
        log.info("node %s: connected to %s as node %d", self.name, self._address, joined.node_id)
        self._once_connected(self._joined)

    async def _read(self, call: Any) -> link_pb2.Goodbye.Reason | None:
        assert self._joined is not None
        incoming: Incoming | None = None
        while True:
            raw = await call.read()
            if raw is grpc.aio.EOF:
                await check_status(call)
                return None
            down = parse_down(raw)
            match down.WhichOneof("kind"):
                case "goodbye":
                    reason: link_pb2.Goodbye.Reason = down.goodbye.reason
                    if reason == link_pb2.Goodbye.SHUT_OUT:
                        raise ShutOut(f"the server at {self._address} shut node {self.name!r} out: {down.goodbye.text}")
                    return reason
                case "settled":
                    self._held.pop(down.settled.message_id, None)
                case "chunk":
                    if down.chunk.HasField("total_bytes"):
                        incoming = Incoming(down.chunk, self._limits.max_message_bytes, "this node")
                    if incoming is None:
                        raise ProtocolViolation("a message begins without its first chunk")
                    if incoming.feed(down.chunk):
                        self._receive(incoming)
                        incoming = None
                case _:
                    raise ProtocolViolation("a second Welcome")

    def _receive(self, incoming: Incoming) -> None:
        assert self._joined is not None
        if incoming.message_id in self._held:
            return
        self._held[incoming.message_id] = None
        expires = time.monotonic() + incoming.expires_in_s
        self._on_request(Request(self._joined, incoming.message_id, incoming.payload(), expires))

    async def _write(self, call: Any) -> None:
        assert self._joined is not None
        while True:
            while self._to_send:
                message_id = self._to_send.popleft()
                parts = self._held.get(message_id)
                if parts is None:
                    continue
                for chunk in chunks(message_id, parts, self._joined.chunk_bytes):
                    if message_id not in self._held:
                        break  # settled meanwhile: cancelled, or the server has it from an earlier stream
                    await call.write(link_pb2.Up(chunk=chunk).SerializeToString())
            self._wake.clear()
            await self._wake.wait()
