import json
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest

from amgt_fed.codec import Layout, UnsupportedPayload, WrongLayout, codec_names, decode
from amgt_fed.codec.describe import describe
from amgt_fed.codec.frame import FORMAT_VERSION
from amgt_fed.codec.tables import gap_book, level_book

GOLDEN = Path(__file__).parents[1] / "golden" / "codec"
LAYOUT = Layout.from_shapes(json.loads((GOLDEN / "layout.json").read_text()))
NAMES = [
    "amgt_dense", "amgt_empty", "amgt_lossless", "amgt_low_rank", "amgt_mixed", "amgt_own_tables", "amgt_scaled",
    "deadzone", "dense", "eden", "float16", "int8", "powersgd", "qsgd", "sign", "stc", "subspace", "topk", "unbiased",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_a_payload_of_every_version_still_decodes_to_the_same_bits(name: str) -> None:
    decoded = decode((GOLDEN / f"{name}.bin").read_bytes(), LAYOUT)
    np.testing.assert_array_equal(decoded.view(np.uint32), np.load(GOLDEN / f"{name}.npy").view(np.uint32))


def test_every_codec_has_a_golden_payload() -> None:
    described = {describe((GOLDEN / f"{name}.bin").read_bytes()).codec for name in NAMES}
    assert described == set(codec_names())


def test_only_a_body_with_tables_of_its_own_needs_version_2() -> None:
    versions = {name: describe((GOLDEN / f"{name}.bin").read_bytes()).version for name in NAMES}
    assert versions == {name: 2 if name == "amgt_own_tables" else 1 for name in NAMES}


def test_a_newer_version_is_refused_with_the_fix() -> None:
    payload = bytearray((GOLDEN / "amgt_mixed.bin").read_bytes())
    payload[0] = 0xA0 | FORMAT_VERSION + 1
    with pytest.raises(UnsupportedPayload, match=r"version 3.*upgrade"):
        decode(bytes(payload), LAYOUT)


def test_a_codec_of_the_future_is_refused_by_number() -> None:
    payload = bytearray((GOLDEN / "amgt_mixed.bin").read_bytes())
    payload[1] = 200
    payload[10:14] = struct.pack("<I", zlib.crc32(payload[14:], zlib.crc32(LAYOUT.digest, zlib.crc32(payload[:10]))))
    with pytest.raises(UnsupportedPayload, match="200"):
        decode(bytes(payload), LAYOUT)


def test_another_models_layout_is_refused() -> None:
    renamed = Layout.from_shapes({f"x.{s.name}": s.shape for s in LAYOUT.segments})
    with pytest.raises(WrongLayout, match="names and shapes"):
        decode((GOLDEN / "amgt_mixed.bin").read_bytes(), renamed)


def test_the_probability_tables_never_change() -> None:
    # Bodies are unreadable under any other table, so their sums are pinned as well as their golden uses.
    for book, expected in ((level_book(), LEVEL_CHECK), (gap_book(), GAP_CHECK)):
        assert (book.frequency >= 1).all()
        assert (book.frequency.sum(axis=1) == 1 << 15).all()
        weights = np.arange(1, book.frequency.size + 1).reshape(book.frequency.shape)
        assert int((book.frequency * weights).sum()) == expected


LEVEL_CHECK = 68466886983
GAP_CHECK = 68606671149
