"""Call a ClientApp and always get a reply: its own, or an error that says what went wrong."""

from __future__ import annotations

import logging
import traceback

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from amgt_fed.flower import compat

log = logging.getLogger("amgt_fed.client")

MAX_REASON_CHARACTERS = 16_000


def answer(client_app: ClientApp, message: Message, context: Context) -> Message:
    """Let `client_app` handle one message.

    Returns:
        The app's reply, or an error reply if it raised, exited or returned something else. The error's reason is one
        line, `Type: text`, followed by the traceback, so `reason.splitlines()[0]` is what to show by default.
    """
    try:
        reply: object = client_app(message, context)
    except (Exception, SystemExit) as error:  # an app may raise anything; the round goes on without this client
        first = " ".join(f"{type(error).__name__}: {error}".split())
        log.warning("node %d failed on %r: %s", context.node_id, message.metadata.message_type, first)
        trace = "".join(traceback.format_exception(error))
        return compat.error_reply(message, compat.CLIENT_APP_RAISED, f"{first}\n{trace}"[:MAX_REASON_CHARACTERS])
    if not isinstance(reply, Message):
        reason = f"ClientApp returned {type(reply).__name__} for {message.metadata.message_type!r}; return a Message"
        log.warning("node %d: %s", context.node_id, reason)
        return compat.error_reply(message, compat.CLIENT_APP_RAISED, reason)
    return reply
