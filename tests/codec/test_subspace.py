"""Updates inside a round's subspace come through; what a payload says is checked."""

from __future__ import annotations

import numpy as np
import pytest

from amgt_fed.codec import CorruptPayload, ImpossibleBudget, MaxBytes, RelativeError, decode, get_codec
from amgt_fed.codec.subspace import SubspaceCodec, for_round
from amgt_fed.errors import ConfigError
from amgt_fed.layout import Float32Vector, Layout
from amgt_fed.subspace import Subspace

LAYOUT = Layout.from_shapes({"wide": (12, 90), "tall": (90, 12), "conv": (8, 6, 3, 3), "small": (6, 7), "bias": (12,)})


def inside(space: Subspace, seed: int = 0) -> Float32Vector:
    """A random update of the subspace."""
    rng = np.random.default_rng(seed)
    parts = []
    for segment in LAYOUT.segments:
        found = space.directions(segment.name, segment.shape)
        count = segment.size if found is None else int(np.prod(found.reduced_shape))
        values = rng.standard_normal(count).astype(np.float32)
        parts.append(values if found is None else found.expand(values))
    return np.concatenate(parts)


def test_directions_follow_the_longer_side_and_small_tensors_move_freely() -> None:
    space = Subspace(4, 3)
    shapes = {s.name: s.shape for s in space.reduced(LAYOUT).segments}
    assert shapes == {"wide": (12, 4), "tall": (4, 12), "conv": (8, 4), "small": (6, 7), "bias": (12,)}


def test_expansion_is_the_matrix_product() -> None:
    for name, shape in (("wide", (12, 90)), ("tall", (90, 12))):
        found = Subspace(4, 1).directions(name, shape)
        assert found is not None
        b = np.random.default_rng(1).standard_normal(found.reduced_shape).astype(np.float32)
        expected = found.signs.T @ b / 2 if name == "tall" else b @ found.signs / 2
        np.testing.assert_allclose(found.expand(b).reshape(shape), expected, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(found.reduce(found.expand(b)), b, rtol=1e-4, atol=1e-5)


def test_the_directions_of_round_one_are_these() -> None:
    """Both ends must draw the same signs for ever; these were written down when the format was made."""
    found = Subspace(2, 1).directions("wide", (12, 90))
    assert found is not None
    assert "".join("+" if s > 0 else "-" for s in found.signs[0, :24]) == GOLDEN


GOLDEN = "+++-++--+++--+++-++-+--+"


def test_every_round_and_every_tensor_has_its_own_directions() -> None:
    first, second = (Subspace(4, round).directions("wide", (12, 90)) for round in (1, 2))
    other = Subspace(4, 1).directions("other", (12, 90))
    assert first is not None
    assert second is not None
    assert other is not None
    assert (first.signs != second.signs).any()
    assert (first.signs != other.signs).any()
    assert set(np.unique(first.signs)) == {-1.0, 1.0}


@pytest.mark.parametrize("nmse", [0.5, 0.05, 1e-3])
def test_an_update_inside_the_subspace_meets_an_error_budget(nmse: float) -> None:
    codec = for_round(SubspaceCodec(rank=4), 7)
    update = inside(Subspace(4, 7))
    encoded = codec.encode(update, LAYOUT, RelativeError(nmse))
    decoded = decode(encoded.payload, LAYOUT)
    assert np.array_equal(decoded, encoded.decoded)
    assert np.linalg.norm((decoded - update).astype(np.float64)) <= np.sqrt(nmse) * np.linalg.norm(update) * (1 + 1e-6)


def test_within_equal_bytes_it_beats_the_codec_that_does_not_know_the_subspace() -> None:
    update = inside(Subspace(4, 7))
    errors = [
        codec.encode(update, LAYOUT, MaxBytes(160)).error_l2
        for codec in (for_round(SubspaceCodec(rank=4), 7), get_codec("amgt"))
    ]
    assert errors[0] < 0.7 * errors[1]


def test_an_update_outside_the_subspace_is_refused_under_an_error_budget() -> None:
    update = np.random.default_rng(0).standard_normal(LAYOUT.size).astype(np.float32)
    with pytest.raises(ImpossibleBudget, match="raise the rank"):
        SubspaceCodec(rank=4).encode(update, LAYOUT, RelativeError(0.1))


def test_an_update_of_zeros_comes_back_as_zeros() -> None:
    payload = SubspaceCodec(rank=4).encode(np.zeros(LAYOUT.size, np.float32), LAYOUT, MaxBytes(100)).payload
    assert not decode(payload, LAYOUT).any()


def test_a_body_cut_short_or_of_round_or_rank_zero_is_refused() -> None:
    codec = SubspaceCodec(rank=4)
    whole = codec.compress(inside(Subspace(4, 1)), LAYOUT, max_error=np.inf, max_bytes=150, state=None, rng=None).data
    for length in range(len(whole)):
        with pytest.raises(CorruptPayload):
            codec.open(memoryview(whole[:length]), LAYOUT)
    for head in (b"\0\0\0\0\x04", b"\1\0\0\0\0"):
        with pytest.raises(CorruptPayload, match="run from 1"):
            codec.open(memoryview(head + whole[5:]), LAYOUT)


@pytest.mark.parametrize(("rank", "round"), [(0, 1), (256, 1), (4, 0)])
def test_an_impossible_subspace_is_refused(rank: int, round: int) -> None:
    with pytest.raises(ConfigError):
        Subspace(rank, round)
