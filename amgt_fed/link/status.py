"""What the gRPC status a stream ended with means to a node."""

from __future__ import annotations

from typing import Any

import grpc

from amgt_fed.link.address import Address
from amgt_fed.link.errors import ConnectionRefused, ShutOut

_FATAL = {
    grpc.StatusCode.UNAUTHENTICATED,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.UNIMPLEMENTED,
}


def refusal_of(error: grpc.aio.AioRpcError, address: Address, name: str) -> ConnectionRefused | None:
    """Why trying again would not help; None where it may."""
    text = f"the server at {address} refuses node {name!r}: {error.details()}"
    if error.code() is grpc.StatusCode.PERMISSION_DENIED:
        return ShutOut(text)
    if error.code() is grpc.StatusCode.UNIMPLEMENTED:
        return ConnectionRefused(f"what listens at {address} is not an AMGT link server")
    return ConnectionRefused(text) if error.code() in _FATAL else None


async def check_status(call: Any) -> None:
    """Turn a stream that ended without Goodbye into its error.

    Raises:
        AioRpcError: the status is not OK.
    """
    code = await call.code()
    if code is not grpc.StatusCode.OK:
        raise grpc.aio.AioRpcError(
            code, await call.initial_metadata(), await call.trailing_metadata(), await call.details()
        )
