"""A warm process that answers for one or several client nodes of the AMGT link."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from flwr.app import Context
from flwr.clientapp import ClientApp

from amgt_fed.errors import LinkError
from amgt_fed.flower import compat
from amgt_fed.flower.answer import answer
from amgt_fed.link import Address, LinkClient, LinkLimits, MessageTooLarge, Request, Tls

log = logging.getLogger("amgt_fed.client")

STOP_GRACE_S = 2.0


@dataclass(frozen=True, slots=True)
class HostedNode:
    """A node's name on the link and the `Context.node_config` of its ClientApp calls."""

    name: str
    node_config: Mapping[str, bool | int | float | str] = field(default_factory=dict)


class ClientHost:
    """Keep one stream per node open and call the ClientApp, one call at a time, in the thread that calls `run`.

    A node's Context, with its state, lives as long as the run and this process; what must survive a restart of the
    process belongs into a file.

    Args:
        client_app: any Flower ClientApp; loaded and warm before the first message.
        address: of the server.
        tls: see `amgt_fed.link.choose_security`.
        nodes: at least one; names must differ.
        limits: sizes and times of the link.
        stay: whether to wait for the next run when one is over.
        certificates: newer ones than `tls`, if there are; see `LinkClient`.

    Raises:
        LinkError: two nodes have one name.
    """

    def __init__(
        self,
        client_app: ClientApp,
        address: Address,
        tls: Tls | None,
        nodes: Sequence[HostedNode],
        *,
        limits: LinkLimits | None = None,
        stay: bool = False,
        certificates: Callable[[], Tls | None] | None = None,
    ) -> None:
        names = [node.name for node in nodes]
        for name in names:
            if names.count(name) > 1:  # they would take over from each other without end
                raise LinkError(f"node name {name!r} is given twice; each node needs its own")
        self._client_app = client_app
        self._address = address
        self._tls = tls
        self._nodes = nodes
        self._limits = limits or LinkLimits()
        self._stay = stay
        self._certificates = certificates
        self._requests: queue.SimpleQueue[tuple[LinkClient, HostedNode, Request] | None] = queue.SimpleQueue()
        self._contexts: dict[str, Context] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._error: BaseException | None = None

    def run(self) -> None:
        """Answer until the run is over for every node.

        An exception that a signal handler raises ends it too; the streams are closed first.

        Raises:
            LinkError: the server refuses a node, or another client took its name.
        """
        thread = threading.Thread(target=self._run_links, name="amgt-link-client", daemon=True)
        thread.start()
        try:
            while (item := self._requests.get()) is not None:
                self._handle(*item)
        finally:
            self.call_soon(self._cancel_all)
            thread.join(STOP_GRACE_S)
        if self._error is not None:
            raise self._error

    def call_soon(self, callback: Callable[[], None]) -> None:
        """Run `callback` in the thread of the links; before they have begun and after they have ended, not at all."""
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(callback)

    def _handle(self, client: LinkClient, node: HostedNode, request: Request) -> None:
        if not client.is_wanted(request):
            log.info("node %s skips a message that is no longer wanted", node.name)
            return
        joined = request.joined
        message = compat.message_from_bytes(request.payload)
        # Our clock, not the server's: a device's may be years off.
        compat.renew_clock(message, time.time(), request.expires - time.monotonic())
        context = self._contexts.get(node.name)
        if context is None or context.run_id != joined.run_id:
            context = compat.new_context(joined.run_id, joined.node_id, node.node_config, joined.run_config)
            self._contexts[node.name] = context
        compat.set_task_identity(joined.run_id, joined.node_id)
        reply = answer(self._client_app, message, context)
        try:
            client.reply(request, compat.message_to_parts(reply, {}))
        except (MessageTooLarge, ValueError, TypeError) as error:
            log.warning("node %s: reply cannot be sent: %s", node.name, error)
            reason = f"{type(error).__name__}: {error}"
            client.reply(
                request, [compat.message_to_bytes(compat.error_reply(message, compat.CLIENT_APP_RAISED, reason))]
            )

    def _run_links(self) -> None:
        try:
            asyncio.run(self._run_all())
        except asyncio.CancelledError:
            pass
        except BaseExceptionGroup as group:
            # One refusal ends the process; the others' cancellation is no news.
            self._error = group.exceptions[0]
        except Exception as error:
            self._error = error
        finally:
            self._requests.put(None)

    async def _run_all(self) -> None:
        self._loop = asyncio.get_running_loop()
        async with asyncio.TaskGroup() as group:
            for node in self._nodes:
                group.create_task(self._run_one(node))

    async def _run_one(self, node: HostedNode) -> None:
        def take(request: Request) -> None:
            self._requests.put((client, node, request))

        client = LinkClient(
            self._address,
            self._tls,
            node.name,
            take,
            limits=self._limits,
            stay=self._stay,
            certificates=self._certificates,
        )
        await client.run()

    def _cancel_all(self) -> None:
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
