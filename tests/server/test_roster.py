"""Who takes part follows from seed, round and attempt alone; who cannot take part is said why."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from flwr.app import Message

from amgt_fed.config import from_flat
from amgt_fed.errors import RoundError
from amgt_fed.federated.state import ServerState
from amgt_fed.flower.records import pack
from amgt_fed.layout import Layout
from amgt_fed.wire import Hello
from server.roster import Roster, introduced, quorum_of

LAYOUT = Layout.from_shapes({"weight": (3, 4), "bias": (3,)})


def roster(clients: list[int], **keys: Any) -> Roster:
    config = from_flat({"partition.num_clients": 20, "federation.clients_per_round": 5, **keys})
    found = Roster(None, config, LAYOUT, run=1)  # type: ignore[arg-type]  # nothing is sent here
    found.nodes = {client: 1000 + client for client in clients}
    return found


def test_a_sample_depends_on_seed_round_and_attempt_and_on_nothing_else() -> None:
    forwards, backwards = roster(list(range(20))), roster(list(range(19, -1, -1)))
    assert forwards.sample(3, 0)[0] == backwards.sample(3, 0)[0] == forwards.sample(3, 0)[0]
    samples = {tuple(forwards.sample(round, attempt)[0]) for round in range(1, 6) for attempt in range(3)}
    assert len(samples) == 15
    assert roster(list(range(20)), seed=1).sample(3, 0)[0] != forwards.sample(3, 0)[0]


def test_every_client_is_sampled_about_equally_often() -> None:
    counts = [0] * 20
    found = roster(list(range(20)))
    for round in range(1, 401):
        drawn = found.sample(round, 0)[0]
        assert len(set(drawn)) == 5
        assert drawn == sorted(drawn)
        for client in drawn:
            counts[client] += 1
    assert 60 < min(counts) <= max(counts) < 140  # 100 each, 8.7 is one standard deviation


def test_those_that_failed_are_left_out_where_enough_others_are_there() -> None:
    assert not set(roster(list(range(20))).sample(1, 1, avoid={0, 1, 2})[0]) & {0, 1, 2}
    assert len(roster(list(range(6))).sample(1, 1, avoid={0, 1, 2})[0]) == 5


def test_fewer_clients_than_asked_for_will_do_down_to_the_quorum() -> None:
    assert roster([2, 5, 7], **{"federation.quorum": 0.6}).sample(1, 0)[0] == [2, 5, 7]
    with pytest.raises(RoundError, match="round 1: 3 clients are connected, the quorum needs 4"):
        roster([2, 5, 7], **{"federation.quorum": 0.8}).sample(1, 0)


@pytest.mark.parametrize(
    ("quorum", "participants", "needed"),
    [(1.0, 10, 10), (0.5, 10, 5), (0.51, 10, 6), (0.3, 10, 3), (0.01, 10, 1), (0.7, 1, 1), (0.1, 30, 3)],
)
def test_the_quorum_is_rounded_up_and_at_least_one(quorum: float, participants: int, needed: int) -> None:
    assert quorum_of(from_flat({"federation.quorum": quorum}), participants) == needed


def test_a_client_ahead_of_a_resumed_server_is_sent_the_model() -> None:
    state = ServerState(run=1, round=4, model=None)  # type: ignore[arg-type]  # not looked at
    state = introduced(state, {0: Hello(0, 2, 5, 4, b""), 1: Hello(1, 2, 5, 6, b""), 2: Hello(2, 3, 5, 1, b"")})
    assert [state.record(client).synced_round for client in range(3)] == [4, 0, 1]


def test_too_few_clients_are_counted_within_the_time(world: Any) -> None:
    world.nodes = 2
    with pytest.raises(RoundError, match=r"2 of 4 clients are ready after 0\.4 s, a round needs 4"):
        world.run(**{"federation.wait_for_clients_s": 0.4})


def test_a_federation_goes_on_with_those_that_came(world: Any) -> None:
    world.nodes = 3
    summary = world.run(**{"federation.wait_for_clients_s": 0.4, "federation.clients_per_round": 2})
    assert summary.rounds == 3


def _raise(*_: object) -> Message:
    raise RuntimeError("the data are gone")


def test_clients_that_cannot_start_end_the_wait_at_once_with_their_reason(world: Any) -> None:
    world.fates = {("query.hello", client, None): _raise for client in range(4)}
    with pytest.raises(RoundError, match=r"0 of 4 clients are ready.*RuntimeError: the data are gone; .*and 1 more"):
        world.run(**{"federation.wait_for_clients_s": 100.0})


@pytest.mark.parametrize("data", [b"", b"\x08\x02", b"\xff" * 40])
def test_a_node_that_answers_nonsense_is_left_out(world: Any, data: bytes) -> None:
    world.fates = {("query.hello", 2, None): lambda message, _: Message(pack(data), reply_to=message)}
    summary = world.run(**{"federation.clients_per_round": 3})
    assert summary.rounds == 3
    assert {client for kind, client, _ in world.calls if kind == "train"} == {0, 1, 3}


def test_a_node_that_never_says_who_it_is_holds_up_no_round_and_is_asked_once(world: Any) -> None:
    release = threading.Event()

    def silent(message: Message, _: object) -> Message:
        release.wait(30)
        return Message(pack(b""), reply_to=message)

    world.fates = {("query.hello", 3, None): silent}
    timer = threading.Timer(2.5, release.set)  # lets the grid close in the end
    timer.start()
    try:
        summary = world.run(**{"federation.clients_per_round": 2, "federation.wait_for_clients_s": 1.0, "rounds": 4})
    finally:
        release.set()
        timer.cancel()
    assert summary.rounds == 4
    asked = sum(call[:2] == ("query.hello", 3) for call in world.calls)
    assert 1 <= asked <= 2  # again only once the first question has run out
    assert summary.seconds < 4 * 1.0
