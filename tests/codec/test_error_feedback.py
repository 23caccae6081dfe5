import numpy as np
import pytest

from amgt_fed.codec import InvalidUpdate, Layout, MaxBytes, RelativeError, encode
from amgt_fed.codec.error_feedback import add_residual, next_residual, residual_bound, restore_residual, zero_residual

LAYOUT = Layout.from_shapes({"weight": (32, 48), "bias": (32,)})


def updates(count: int) -> list[np.ndarray]:
    rng = np.random.default_rng(5)
    return [rng.laplace(size=LAYOUT.size).astype(np.float32) for _ in range(count)]


@pytest.mark.parametrize("budget", [RelativeError(0.7), MaxBytes(300)])
def test_decoded_plus_final_residual_is_the_sum_of_updates(budget: object) -> None:
    residual = zero_residual(LAYOUT)
    sent = np.zeros(LAYOUT.size)
    total = np.zeros(LAYOUT.size)
    for update in updates(40):
        corrected = add_residual(update, residual)
        encoded = encode(corrected, LAYOUT, budget)
        residual = next_residual(corrected, encoded)
        sent += encoded.decoded
        total += update
    assert np.linalg.norm(sent) > 0.1 * np.linalg.norm(total)
    assert np.linalg.norm(sent + residual - total) <= 1e-5 * np.linalg.norm(total)


def test_the_residual_stays_within_its_bound_under_a_contraction() -> None:
    residual = zero_residual(LAYOUT)
    batch = updates(60)
    largest = max(float(np.linalg.norm(u)) for u in batch)
    bound = residual_bound(largest, 0.5)
    norms = []
    for update in batch:
        corrected = add_residual(update, residual)
        residual = next_residual(corrected, encode(corrected, LAYOUT, RelativeError(0.5)))
        norms.append(float(np.linalg.norm(residual)))
    assert max(norms) <= bound
    assert max(norms) > 0.5 * largest  # there is something to bound


def test_a_lost_update_goes_back_into_the_residual_whole() -> None:
    update = updates(1)[0]
    encoded = encode(update, LAYOUT, RelativeError(0.5))
    residual = next_residual(update, encoded)
    np.testing.assert_allclose(restore_residual(residual, encoded.decoded), update, rtol=1e-6, atol=1e-6)


def test_inputs_are_not_changed() -> None:
    update, residual = updates(2)
    before = update.copy(), residual.copy()
    add_residual(update, residual)
    np.testing.assert_array_equal(update, before[0])
    np.testing.assert_array_equal(residual, before[1])


def test_mismatched_vectors_and_useless_codecs_are_refused() -> None:
    with pytest.raises(InvalidUpdate, match="shape"):
        add_residual(np.zeros(3, np.float32), np.zeros(4, np.float32))
    with pytest.raises(InvalidUpdate, match="float64"):
        add_residual(np.zeros(3, np.float32), np.zeros(3))
    with pytest.raises(InvalidUpdate, match="nmse"):
        residual_bound(1.0, 1.0)
