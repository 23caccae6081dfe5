"""Our bytes inside Flower's Message, and what another app's message is called."""

from __future__ import annotations

import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict
from hypothesis import given, settings
from hypothesis import strategies as st

from amgt_fed.errors import WireError
from amgt_fed.flower.records import pack, unpack


@given(data=st.binary(max_size=300))
@settings(deadline=None)
def test_what_is_packed_is_unpacked(data: bytes) -> None:
    assert unpack(pack(data)) == data


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (RecordDict(), "both sides must run amgt-fed"),
        (RecordDict({"config": ConfigRecord({"a": 1})}), r"carries \['config'\]"),
        (RecordDict({"amgt": ArrayRecord({"other": Array("uint8", (1,), "amgt.v1", b"x")})}), "both sides"),
        (RecordDict({"amgt": ArrayRecord({"message": Array("uint8", (1,), "amgt.v2", b"x")})}), r"amgt\.v2"),
        (RecordDict({"amgt": ArrayRecord({"message": Array("float32", (1,), "amgt.v1", b"1234")})}), "float32"),
    ],
)
def test_a_message_of_another_app_is_refused_by_what_it_is(content: RecordDict, named: str) -> None:
    with pytest.raises(WireError, match=named):
        unpack(content)
