from __future__ import annotations

import contextlib
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amgt_fed.errors import ConfigError
from amgt_fed.link import LinkLimits, MessageTooLarge, ProtocolViolation
from amgt_fed.link.backoff import delays
from amgt_fed.link.frames import METHOD, Incoming, check_name, chunks, config_of, parse_down, parse_up, settings_of
from amgt_fed.link.limits import MAX_CHUNK_BYTES
from amgt_fed.link.v1 import link_pb2


@given(
    parts=st.lists(st.binary(max_size=40), max_size=6), size=st.integers(1, 50), message_id=st.integers(0, 2**64 - 1)
)
def test_any_message_in_any_chunks_comes_out_as_it_went_in(parts: list[bytes], size: int, message_id: int) -> None:
    pieces = list(chunks(message_id, parts, size, 2.5))
    assert all(len(piece.data) <= size for piece in pieces)
    assert [piece.HasField("total_bytes") for piece in pieces] == [True] + [False] * (len(pieces) - 1)
    incoming = Incoming(pieces[0], 1000, "this test")
    complete = [incoming.feed(piece) for piece in pieces]
    assert complete == [False] * (len(pieces) - 1) + [True]
    assert incoming.payload() == b"".join(parts)
    assert incoming.expires_in_s == 2.5


def first(total: int, data: bytes = b"") -> link_pb2.Chunk:
    return link_pb2.Chunk(message_id=7, total_bytes=total, data=data)


def test_a_size_beyond_the_limit_is_refused_before_any_byte_is_kept() -> None:
    with pytest.raises(MessageTooLarge, match=r"9223372036854775808 bytes; the server takes at most 100 "):
        Incoming(first(2**63), 100, "the server")


def test_chunks_that_break_the_rules_are_refused() -> None:
    with pytest.raises(ProtocolViolation, match="without its first chunk"):
        Incoming(link_pb2.Chunk(message_id=7, data=b"x"), 100, "t")
    incoming = Incoming(first(4), 100, "t")
    assert not incoming.feed(first(4, b"ab"))
    with pytest.raises(ProtocolViolation, match="inside message"):
        incoming.feed(link_pb2.Chunk(message_id=8, data=b"c"))
    with pytest.raises(ProtocolViolation, match="empty chunk"):
        incoming.feed(link_pb2.Chunk(message_id=7))
    with pytest.raises(ProtocolViolation, match="goes on after its 4 bytes"):
        incoming.feed(link_pb2.Chunk(message_id=7, data=b"cde"))


@given(data=st.binary(max_size=60))
def test_arbitrary_bytes_parse_or_are_a_violation(data: bytes) -> None:
    for parse in (parse_up, parse_down):
        with contextlib.suppress(ProtocolViolation):
            assert parse(data).WhichOneof("kind") is not None


def test_every_bit_of_a_small_message_may_be_flipped() -> None:
    whole = link_pb2.Down(
        welcome=link_pb2.Welcome(protocol=1, session=5, node_id=9, run_config=settings_of({"a": 1, "b": "x"}))
    ).SerializeToString()
    for bit in range(8 * len(whole)):
        broken = bytearray(whole)
        broken[bit // 8] ^= 1 << bit % 8
        with contextlib.suppress(ProtocolViolation):
            config_of(parse_down(bytes(broken)).welcome.run_config)


@given(
    config=st.dictionaries(
        st.text(max_size=8),
        st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | st.text(max_size=8),
        max_size=8,
    )
)
def test_a_run_configuration_keeps_values_and_types(config: dict[str, bool | int | float | str]) -> None:
    back = config_of(settings_of(config))
    assert back == config
    assert {key: type(value) for key, value in back.items()} == {key: type(value) for key, value in config.items()}


def test_a_configuration_the_wire_cannot_carry_is_refused() -> None:
    with pytest.raises(ValueError, match="does not fit 64 bits"):
        settings_of({"n": 2**63})
    with pytest.raises(TypeError, match="use bool, int, float or str"):
        settings_of({"n": b"x"})  # type: ignore[dict-item]
    twice = [link_pb2.Setting(key="a", flag=True), link_pb2.Setting(key="a", integer=1)]
    with pytest.raises(ProtocolViolation, match="'a' twice or without a value"):
        config_of(twice)
    with pytest.raises(ProtocolViolation, match="without a value"):
        config_of([link_pb2.Setting(key="a")])


@pytest.mark.parametrize("name", ["a", "node-7", "pi.lab_3", "host/12", "A" * 128])
def test_names_that_are_fine(name: str) -> None:
    check_name(name)


@pytest.mark.parametrize(
    "name", ["", "/", "a/", "/a", "a/b/c", "../x", ".hidden", "a b", "a\nb", "ä", "A" * 129, "a\0"]
)
def test_names_that_are_not(name: str) -> None:
    with pytest.raises(ProtocolViolation, match="node name"):
        check_name(name)


def test_the_method_is_the_one_of_the_proto() -> None:
    assert METHOD == "/amgt_fed.link.v1.Link/Connect"


def test_waits_double_up_to_the_longest_and_differ_between_nodes() -> None:
    def some(seed: int) -> list[float]:
        waits = delays(0.2, 5.0, random.Random(seed))
        return [next(waits) for _ in range(40)]

    for wait, ceiling in zip(some(1), [0.2, 0.4, 0.8, 1.6, 3.2] + [5.0] * 35, strict=True):
        assert ceiling / 2 <= wait <= ceiling
    assert some(1) != some(2)


@pytest.mark.parametrize(
    "limits",
    [
        {"max_message_bytes": 0},
        {"grace_s": -1.0},
        {"keepalive_s": float("nan")},
        {"chunk_bytes": MAX_CHUNK_BYTES + 1},
        {"max_message_bytes": 100, "receive_budget_bytes": 99},
    ],
)
def test_limits_that_make_no_sense_are_refused_by_name(limits: dict[str, float]) -> None:
    with pytest.raises(ConfigError) as caught:
        LinkLimits(**limits)  # type: ignore[arg-type]
    assert next(iter(limits)) in str(caught.value)
