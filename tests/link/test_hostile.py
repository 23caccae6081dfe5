"""Peers that break the protocol, written with the generated stub: any gRPC client may come."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import pytest

from amgt_fed.link import LinkLimits, LinkServer, node_id_of
from amgt_fed.link.v1 import link_pb2, link_pb2_grpc

HELLO = link_pb2.Hello(protocol=1, name="evil", max_message_bytes=1 << 20)


def talk(server: LinkServer, *ups: link_pb2.Up | bytes, wait_s: float = 0.3) -> tuple[grpc.StatusCode, str, list[Any]]:
    """Send, listen for a while, hang up; returns the status (OK: the server had no objection) and what came."""

    async def main() -> tuple[grpc.StatusCode, str, list[Any]]:
        downs: list[Any] = []

        async def send() -> AsyncIterator[bytes]:
            for up in ups:
                yield up if isinstance(up, bytes) else up.SerializeToString()
            await asyncio.sleep(wait_s)

        options = [("grpc.max_send_message_length", -1)]
        async with grpc.aio.insecure_channel(str(server.address), options=options) as channel:
            call = channel.stream_stream(
                "/amgt_fed.link.v1.Link/Connect", response_deserializer=link_pb2.Down.FromString
            )(send())
            try:
                async for down in call:
                    downs.append(down)
            except grpc.aio.AioRpcError as error:
                return error.code(), error.details() or "", downs
            return grpc.StatusCode.OK, "", downs

    return asyncio.run(asyncio.wait_for(main(), 20))


def chunk(**fields: Any) -> link_pb2.Up:
    return link_pb2.Up(chunk=link_pb2.Chunk(**fields))


@pytest.mark.parametrize(
    ("ups", "code", "says"),
    [
        ([b"\xff\xff garbage"], "INVALID_ARGUMENT", "not a message of the link"),
        ([b""], "INVALID_ARGUMENT", "empty message"),
        ([chunk(message_id=1, total_bytes=1, data=b"x")], "INVALID_ARGUMENT", "does not begin with a Hello"),
        (
            [link_pb2.Up(hello=link_pb2.Hello(protocol=2, name="a"))],
            "FAILED_PRECONDITION",
            "update amgt-fed on the server",
        ),
        (
            [link_pb2.Up(hello=link_pb2.Hello(protocol=0, name="a"))],
            "FAILED_PRECONDITION",
            "update amgt-fed on the client",
        ),
        ([link_pb2.Up(hello=link_pb2.Hello(protocol=1, name="../../etc"))], "INVALID_ARGUMENT", "is not valid"),
        ([link_pb2.Up(hello=link_pb2.Hello(protocol=1, name="x" * 60_000))], "INVALID_ARGUMENT", "is not valid"),
        ([link_pb2.Up(hello=HELLO), link_pb2.Up(hello=HELLO)], "INVALID_ARGUMENT", "Hello twice"),
        ([link_pb2.Up(hello=HELLO), b""], "INVALID_ARGUMENT", "empty message"),
        ([link_pb2.Up(hello=HELLO), chunk(message_id=3, data=b"x")], "INVALID_ARGUMENT", "without its first chunk"),
        ([link_pb2.Up(hello=HELLO), bytes(5_000_000)], "RESOURCE_EXHAUSTED", "larger than max"),
    ],
)
def test_each_breach_ends_the_stream_with_a_reason(federation: Any, ups: list[Any], code: str, says: str) -> None:
    server = federation.server()
    status, details, _ = talk(server, *ups)
    assert status is grpc.StatusCode[code]
    assert says in details


def test_who_says_nothing_is_shown_the_door(federation: Any, quick: LinkLimits) -> None:
    import dataclasses

    server = federation.server(dataclasses.replace(quick, hello_s=0.2))
    status, details, _ = talk(server, wait_s=5.0)
    assert status is grpc.StatusCode.DEADLINE_EXCEEDED
    assert "no Hello within 0.2 s" in details


def test_a_reply_to_nothing_takes_no_memory_and_is_counted(federation: Any, wait: Callable[..., None]) -> None:
    server = federation.server()
    huge = chunk(message_id=77, total_bytes=2**62, data=b"x")
    status, _, downs = talk(server, link_pb2.Up(hello=HELLO), huge, chunk(message_id=77, data=b"more"))
    assert status is grpc.StatusCode.OK
    assert [down.settled.message_id for down in downs if down.HasField("settled")] == [77]
    assert server.traffic().nodes["evil"].dropped_messages == 1
    assert server.budget.free == server.limits.receive_budget_bytes


def reply_to(
    federation: Any, wait: Callable[..., None], server: LinkServer, *ups: link_pb2.Up, wait_s: float = 0.3
) -> Any:
    """Be asked message 1, then answer with `ups`."""
    federation.client(server, "evil", answers=lambda request: None)
    wait(server.node_ids)
    federation.send(server, 1, b"x", node=node_id_of("evil"))
    session = server.session
    hello = link_pb2.Up(hello=link_pb2.Hello(protocol=1, name="evil", max_message_bytes=100, session=session, held=[1]))
    return talk(server, hello, *ups, wait_s=wait_s)


@pytest.mark.parametrize(
    ("ups", "says"),
    [
        ([chunk(message_id=1, total_bytes=2**63, data=b"x")], "the server takes at most"),
        ([chunk(message_id=1, total_bytes=2, data=b"xyz")], "goes on after its 2 bytes"),
        ([chunk(message_id=1, total_bytes=2)], "empty chunk"),
        ([chunk(message_id=1, total_bytes=2, data=b"x"), chunk(message_id=2, data=b"y")], "inside message"),
    ],
)
def test_a_reply_that_lies_about_its_size_ends_the_stream_and_frees_what_it_held(
    federation: Any, wait: Callable[..., None], ups: list[Any], says: str
) -> None:
    server = federation.server()
    status, details, _ = reply_to(federation, wait, server, *ups)
    assert status is grpc.StatusCode.INVALID_ARGUMENT
    assert says in details
    wait(lambda: server.budget.free == server.limits.receive_budget_bytes)
    assert federation.listener.replies == []


def test_a_reply_that_stops_half_way_is_given_up(federation: Any, wait: Callable[..., None]) -> None:
    server = federation.server()
    half = chunk(message_id=1, total_bytes=100, data=b"x")
    reply_to(federation, wait, server, half, wait_s=3.0)
    wait(lambda: server.budget.free == server.limits.receive_budget_bytes)
    assert federation.listener.replies == []


def test_the_generated_stub_is_a_working_client(federation: Any) -> None:
    server = federation.server()
    with grpc.insecure_channel(str(server.address)) as channel:
        downs = link_pb2_grpc.LinkStub(channel).Connect(iter([link_pb2.Up(hello=HELLO)]))
        welcome = next(iter(downs)).welcome
    assert welcome.node_id == node_id_of("evil")
    assert {setting.key for setting in welcome.run_config} == {"lr", "task"}
