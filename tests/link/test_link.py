"""The link end to end: a server and clients on loopback, real gRPC."""

from __future__ import annotations

import dataclasses
import os
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from amgt_fed.errors import ConfigError
from amgt_fed.link import (
    Address,
    AddressError,
    ConnectionRefused,
    LinkLimits,
    MessageTooLarge,
    Peer,
    TakenOver,
    Tls,
    TlsFiles,
    node_id_of,
)
from tests.reference.certificates import Authority

Wait = Callable[..., None]
Federation = Any  # of conftest.py


def test_a_message_is_answered_and_the_node_learns_the_run(federation: Federation, wait: Wait) -> None:
    server = federation.server()
    client = federation.client(server, "pi-3")
    wait(server.node_ids)
    assert server.node_ids() == [node_id_of("pi-3")]
    assert server.node_names() == {node_id_of("pi-3"): "pi-3"}
    federation.send(server, 5, b"hello ", b"there")
    wait(lambda: federation.listener.replies)
    assert federation.listener.replies == [(node_id_of("pi-3"), 5, b"re:hello there")]
    joined = client.requests[0].joined
    assert (joined.run_id, joined.node_id) == (42, node_id_of("pi-3"))
    assert joined.run_config == {"lr": 0.5, "task": "toy"}
    wait(lambda: federation.listener.settlements == [5])
    server.stop()
    client.join()
    assert client.error is None


@pytest.mark.parametrize("size", [0, 1, 256 * 1024, 256 * 1024 + 1, 5_000_000])
def test_messages_of_any_size_arrive_whole_both_ways(federation: Federation, wait: Wait, size: int) -> None:
    server = federation.server()
    back = random.Random(1).randbytes(size)
    client = federation.client(server, answers=lambda request: [back])
    wait(server.node_ids)
    payload = os.urandom(size)
    federation.send(server, 1, payload)
    wait(lambda: federation.listener.replies)
    assert client.requests[0].payload == payload
    assert federation.listener.replies[0][2] == back


def test_many_nodes_and_many_messages_are_not_mixed_up(federation: Federation, wait: Wait) -> None:
    server = federation.server()
    for index in range(8):
        federation.client(server, f"n{index}")
    wait(lambda: len(server.node_ids()) == 8)
    for message_id in range(200):
        federation.send(server, message_id, b"%d" % message_id, node=node_id_of(f"n{message_id % 8}"))
    wait(lambda: len(federation.listener.replies) == 200)
    assert sorted(federation.listener.replies, key=lambda reply: reply[1]) == [
        (node_id_of(f"n{index % 8}"), index, b"re:%d" % index) for index in range(200)
    ]
    traffic = server.traffic()
    assert traffic.total.received_messages == traffic.total.sent_messages == 200
    assert traffic.nodes["n3"].received_messages == 25
    payload = sum(len(b"%d" % index) for index in range(200))
    assert traffic.total.sent_payload_bytes == payload
    assert traffic.total.received_payload_bytes == payload + 3 * 200
    assert traffic.total.sent_bytes == sum(node.sent_bytes for node in traffic.nodes.values())
    assert traffic.total.received_bytes > payload + 3 * 200


def test_a_client_that_comes_before_its_server_keeps_trying(federation: Federation, wait: Wait) -> None:
    first = federation.server()
    address = first.address
    first.stop()
    client = federation.client(address)
    server = federation.server(address=address)
    wait(server.node_ids)
    assert not client.is_over


def test_a_restarted_client_gets_its_node_id_back_and_is_asked_again(federation: Federation, wait: Wait) -> None:
    server = federation.server(dataclasses.replace(LinkLimits(), grace_s=20.0))
    silent = federation.client(server, answers=lambda request: None)
    wait(server.node_ids)
    federation.send(server, 9, b"work")
    wait(lambda: silent.requests)
    silent.stop()
    federation.client(server)
    wait(lambda: federation.listener.replies)
    assert federation.listener.replies == [(node_id_of("a"), 9, b"re:work")]
    assert federation.listener.failures == {}


def test_a_stream_that_breaks_loses_no_reply_and_repeats_no_work(federation: Federation, wait: Wait) -> None:
    server = federation.server(dataclasses.replace(LinkLimits(), grace_s=20.0, backoff_s=0.02))
    client = federation.client(server, answers=lambda request: None)
    wait(server.node_ids)
    federation.send(server, 1, b"slow")
    wait(lambda: client.requests)
    node = server.members.nodes[node_id_of("a")]
    broken = node.stream
    # The server drops the stream without a Goodbye, as a dying router does, while the client is still at work.
    server.call_soon(lambda: setattr(broken, "is_closing", True) or broken.wake.set())
    wait(lambda: node.stream is not None and node.stream is not broken)
    client.client.reply(client.requests[0], [b"done"])
    wait(lambda: federation.listener.replies)
    assert federation.listener.replies == [(node_id_of("a"), 1, b"done")]
    assert len(client.requests) == 1


def test_a_reply_ready_while_disconnected_is_sent_after(federation: Federation, wait: Wait) -> None:
    limits = dataclasses.replace(LinkLimits(), grace_s=20.0, backoff_s=0.3, max_backoff_s=0.3)
    server = federation.server(limits)
    client = federation.client(server, answers=lambda request: None, limits=limits)
    wait(server.node_ids)
    federation.send(server, 1, b"slow")
    wait(lambda: client.requests)
    node = server.members.nodes[node_id_of("a")]
    server.call_soon(lambda: setattr(node.stream, "is_closing", True) or node.stream.wake.set())
    wait(lambda: node.stream is None)
    client.client.reply(client.requests[0], [b"done"])
    wait(lambda: federation.listener.replies)
    assert federation.listener.replies == [(node_id_of("a"), 1, b"done")]


def test_a_restarted_server_asks_anew_and_old_replies_are_forgotten(federation: Federation, wait: Wait) -> None:
    first = federation.server()
    client = federation.client(first, answers=lambda request: None)
    wait(first.node_ids)
    federation.send(first, 1, b"old")
    wait(lambda: client.requests)
    address = first.address
    first.stop(run_over=False)
    second = federation.server(address=address)
    wait(lambda: not client.client.is_wanted(client.requests[0]))
    wait(second.node_ids)
    client.client.reply(client.requests[0], [b"late"])
    federation.send(second, 2, b"new")
    wait(lambda: len(client.requests) == 2)
    client.client.reply(client.requests[1], [b"fresh"])
    wait(lambda: federation.listener.replies)
    assert federation.listener.replies == [(node_id_of("a"), 2, b"fresh")]


def test_a_node_that_does_not_come_back_fails_its_messages_after_the_grace_period(
    federation: Federation, wait: Wait
) -> None:
    server = federation.server()
    client = federation.client(server, answers=lambda request: None)
    wait(server.node_ids)
    federation.send(server, 3, b"x")
    wait(lambda: client.requests)
    client.stop()
    assert server.node_ids() == [node_id_of("a")]
    wait(lambda: not server.node_ids())
    assert federation.listener.failures == {3: "node a is gone and was not back within 0.5 s"}
    assert federation.listener.settlements == [3]
    federation.send(server, 4, b"x", node=node_id_of("a"))
    wait(lambda: 4 in federation.listener.failures)
    assert "not connected" in federation.listener.failures[4]


def test_the_second_of_one_name_takes_over_and_the_first_is_told(federation: Federation, wait: Wait) -> None:
    server = federation.server()
    first = federation.client(server)
    wait(server.node_ids)
    second = federation.client(server)
    first.join()
    assert isinstance(first.error, TakenOver)
    federation.send(server, 1, b"x")
    wait(lambda: federation.listener.replies)
    assert len(second.requests) == 1


def test_a_cancelled_message_is_not_waited_for_and_its_reply_is_dropped_and_counted(
    federation: Federation, wait: Wait
) -> None:
    server = federation.server()
    client = federation.client(server, answers=lambda request: None)
    wait(server.node_ids)
    federation.send(server, 1, b"x")
    wait(lambda: client.requests)
    server.cancel([1])
    wait(lambda: not client.client.is_wanted(client.requests[0]))

    def send_all_the_same() -> None:  # as a client would that does not listen
        client.client._held[1] = [bytes(600_000)]
        client.client._to_send.append(1)
        client.client._wake.set()

    client.call_soon(send_all_the_same)
    wait(lambda: server.traffic().nodes["a"].dropped_messages == 1)
    federation.send(server, 2, b"y")
    wait(lambda: len(client.requests) == 2)
    client.client.reply(client.requests[1], [b"fine"])
    wait(lambda: federation.listener.replies)
    assert federation.listener.replies == [(node_id_of("a"), 2, b"fine")]


def test_an_expired_message_is_neither_sent_nor_kept(federation: Federation, wait: Wait) -> None:
    server = federation.server()
    client = federation.client(server, answers=lambda request: None)
    wait(server.node_ids)
    federation.send(server, 1, b"x", ttl=0.2)
    wait(lambda: client.requests)
    wait(lambda: 1 in federation.listener.settlements)
    assert not client.client.is_wanted(client.requests[0])


def test_a_node_has_few_messages_at_a_time(federation: Federation, wait: Wait) -> None:
    server = federation.server()
    client = federation.client(server, answers=lambda request: None)
    wait(server.node_ids)
    for message_id in range(10):
        federation.send(server, message_id, b"x")
    wait(lambda: len(client.requests) >= 4)
    federation.send(server, 99, b"x")
    assert len(client.requests) == 4
    client.client.reply(client.requests[0], [b"y"])
    wait(lambda: len(client.requests) == 5)


def test_replies_wait_while_the_budget_is_used_up(federation: Federation, wait: Wait, quick: LinkLimits) -> None:
    limits = dataclasses.replace(quick, max_message_bytes=1000, receive_budget_bytes=1500)
    server = federation.server(limits)
    federation.listener.keeps = True
    for name in "abc":
        federation.client(server, name, answers=lambda request: [bytes(1000)])
    wait(lambda: len(server.node_ids()) == 3)
    for index, name in enumerate("abc"):
        federation.send(server, index, b"x", node=node_id_of(name))
    for count in (1, 2, 3):
        wait(lambda count=count: len(federation.listener.replies) == count)
        wait(lambda: server.budget.free == 500)
        server.call_soon(federation.listener.unreleased.pop())
    wait(lambda: server.budget.free == 1500)


def test_sizes_are_limited_on_both_sides(federation: Federation, wait: Wait, quick: LinkLimits) -> None:
    server = federation.server(dataclasses.replace(quick, max_message_bytes=1000))
    client = federation.client(
        server, limits=dataclasses.replace(quick, max_message_bytes=100), answers=lambda request: None
    )
    wait(server.node_ids)
    federation.send(server, 1, bytes(101))
    wait(lambda: federation.listener.failures)
    assert federation.listener.failures == {1: "message is 101 bytes; node a takes at most 100"}
    federation.send(server, 2, bytes(100))
    wait(lambda: client.requests)
    with pytest.raises(MessageTooLarge, match="message is 1001 bytes; the server takes at most 1000"):
        client.client.reply(client.requests[0], [bytes(1000), b"x"])
    client.client.reply(client.requests[0], [bytes(1000)])
    wait(lambda: federation.listener.replies)


def test_a_peer_that_is_not_authorized_is_refused_and_does_not_try_again(federation: Federation, wait: Wait) -> None:
    def authorize(peer: Peer) -> str | None:
        return "certificate was revoked" if peer.name == "stolen" else None

    server = federation.server(authorize=authorize)
    client = federation.client(server, "stolen")
    client.join()
    assert isinstance(client.error, ConnectionRefused)
    assert "refuses node 'stolen': certificate was revoked" in str(client.error)
    assert server.node_ids() == []


def test_a_full_federation_lets_nobody_in_until_there_is_room(
    federation: Federation, wait: Wait, quick: LinkLimits
) -> None:
    server = federation.server(dataclasses.replace(quick, max_nodes=1))
    first = federation.client(server, "first")
    wait(server.node_ids)
    second = federation.client(server, "second")
    first.stop()
    wait(lambda: server.node_ids() == [node_id_of("second")])
    assert not second.is_over


def test_when_the_run_is_over_nothing_is_wanted_any_more(federation: Federation, wait: Wait) -> None:
    server = federation.server()
    client = federation.client(server, answers=lambda request: None)
    wait(server.node_ids)
    federation.send(server, 1, b"x")
    wait(lambda: client.requests)
    server.stop()
    client.join()
    assert not client.client.is_wanted(client.requests[0])


def test_a_client_that_pings_often_is_not_taken_for_an_attacker(federation: Federation, wait: Wait) -> None:
    # By default gRPC hangs up on the third ping that comes sooner than the server itself would send one: after 3 s.
    server = federation.server(dataclasses.replace(LinkLimits(), keepalive_s=1000.0))
    client = federation.client(server, limits=dataclasses.replace(LinkLimits(), keepalive_s=0.3))
    wait(server.node_ids)
    stream = server.members.nodes[node_id_of("a")].stream
    time.sleep(4.5)
    assert server.members.nodes[node_id_of("a")].stream is stream
    assert not client.is_over


def test_a_server_that_stops_leaves_no_message_unanswered(federation: Federation, wait: Wait) -> None:
    server = federation.server()
    client = federation.client(server, answers=lambda request: None)
    wait(server.node_ids)
    federation.send(server, 1, b"x")
    wait(lambda: client.requests)
    server.stop()
    assert federation.listener.failures == {1: "the link's server has stopped"}
    assert federation.listener.settlements == [1]


def test_a_client_that_stays_joins_the_next_run(federation: Federation, wait: Wait) -> None:
    first = federation.server()
    client = federation.client(first, stay=True)
    wait(first.node_ids)
    address = first.address
    first.stop()
    second = federation.server(address=address, run_id=43)
    wait(second.node_ids)
    federation.send(second, 1, b"x")
    wait(lambda: client.requests)
    assert client.requests[0].joined.run_id == 43


def test_a_taken_port_and_a_bad_configuration_are_refused(federation: Federation) -> None:
    server = federation.server()
    with pytest.raises(AddressError, match=f"port {server.address.port} is in use"):
        federation.server(address=server.address)
    with pytest.raises(ValueError, match="64 bits"):
        federation.server(run_config={"n": 2**70})
    with pytest.raises(ConfigError):
        LinkLimits(max_nodes=0)


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Tls]:
    folder = tmp_path_factory.mktemp("fleet")
    authorities = {name: Authority(folder, name) for name in ("ours", "theirs")}

    def make(name: str, issuer: str = "ours", trusts: str = "ours", host: str = "127.0.0.1") -> Tls:
        issued = authorities[issuer].issue(name, host=host)
        return Tls.load(TlsFiles(authorities[trusts].certificate, issued.certificate, issued.key))

    return make


def test_mutual_tls_carries_messages_and_the_name_is_the_certificates(
    federation: Federation, wait: Wait, fleet: Callable[..., Tls]
) -> None:
    seen: list[Peer] = []
    server = federation.server(tls=fleet("server"), authorize=lambda peer: seen.append(peer))
    federation.client(server, "jetson", tls=fleet("jetson"))
    wait(server.node_ids)
    federation.send(server, 1, bytes(700_000))
    wait(lambda: federation.listener.replies)
    assert server.node_names() == {node_id_of("jetson"): "jetson"}
    assert seen[0].certificate is not None
    assert seen[0].certificate.startswith(b"-----BEGIN CERTIFICATE")
    federation.client(server, "jetson/1", tls=fleet("jetson"))
    wait(lambda: len(server.node_ids()) == 2)


def test_a_name_that_is_not_the_certificates_is_refused(federation: Federation, fleet: Callable[..., Tls]) -> None:
    server = federation.server(tls=fleet("server"))
    for name in ("other", "jetson2", "jetson.1"):
        client = federation.client(server, name, tls=fleet("jetson"))
        client.join()
        assert isinstance(client.error, ConnectionRefused)
        assert f"calls itself '{name}', but its certificate is for 'jetson'" in str(client.error)
    assert server.traffic().nodes == {}


def test_wrong_certificates_are_refused_with_a_reason(federation: Federation, fleet: Callable[..., Tls]) -> None:
    server = federation.server(tls=fleet("server"))
    cases = [
        (fleet("a", trusts="theirs"), "certificate of the server at .* is not accepted"),
        (fleet("a", issuer="theirs"), "does not accept .*theirs-a.crt"),
        (None, "wants TLS; pass --ca, --cert and --key"),
    ]
    for tls, says in cases:
        client = federation.client(server, "a", tls=tls)
        client.join()
        assert isinstance(client.error, ConnectionRefused)
        with pytest.raises(ConnectionRefused, match=says):
            raise client.error
    plain = federation.server()
    client = federation.client(plain, "a", tls=fleet("a"))
    client.join()
    assert "does not speak TLS" in str(client.error)
    assert server.node_ids() == plain.node_ids() == []


def test_a_server_certificate_for_another_host_is_refused(federation: Federation, fleet: Callable[..., Tls]) -> None:
    server = federation.server(tls=fleet("server", host="192.0.2.9"))
    client = federation.client(server, "a", tls=fleet("a"))
    client.join()
    assert "does it name 127.0.0.1?" in str(client.error)


def test_what_is_no_link_server_is_told_apart(federation: Federation, tmp_path: Path) -> None:
    import http.server
    import threading

    web = http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler)
    web.RequestHandlerClass.log_message = lambda *arguments: None  # type: ignore[method-assign]
    threading.Thread(target=web.serve_forever, daemon=True).start()
    try:
        client = federation.client(Address("127.0.0.1", web.server_address[1]))
        client.join()
        assert "is not an AMGT link server" in str(client.error)
    finally:
        web.shutdown()
        web.server_close()
