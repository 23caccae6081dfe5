"""Is a budget ever broken? `python benchmarks/codec_budgets.py 1000000` asks all four of adversarial vectors.

Every vector is of one of the families below and small (--size draws up to 40 values in two tensors); it is encoded
under one budget, the four in turn, with and without the state of the vector before. The error is taken again from the
decoded payload, in whole numbers of the smallest denormal where it is close to the limit, so no rounding hides an
excess. Prints the vectors and violations for each family and budget, and fails if there is one. A million take half an
hour on two cores; what was done is said now and then, with the --seed to go on from.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from fractions import Fraction
from typing import Any

import numpy as np

from amgt_fed.codec import (
    BitsPerParameter,
    Budget,
    ImpossibleBudget,
    Layout,
    MaxBytes,
    MaxError,
    RelativeError,
    decode,
    get_codec,
)
from amgt_fed.layout import Float32Vector

FAMILIES = (
    "denormal", "huge range", "spike", "spike in noise", "all equal", "all zero", "alternating", "alternating sizes",
    "low rank", "heavy tail", "random bits", "largest", "powers of two",
)  # fmt: skip
BUDGETS = ("error", "relative", "bytes", "bits")
PIECE = 2_000
_LARGEST = float(np.finfo(np.float32).max)


def vector(family: str, rows: int, columns: int, rng: np.random.Generator) -> Float32Vector:
    """A matrix of the family, and a bias of `rows` behind it, flat."""
    n = rows * columns + rows
    base = rng.standard_normal(n)
    size = 10.0 ** rng.uniform(-30, 30)
    match family:
        case "denormal":
            out = base * 10.0 ** rng.uniform(-45, -38)
        case "huge range":
            out = base * 10.0 ** rng.uniform(-45, 38, n)
        case "spike":
            out = np.zeros(n)
            out[rng.integers(n)] = 10.0 ** rng.uniform(-45, 38)
        case "spike in noise":
            out = base * size
            out[rng.integers(n)] = 10.0 ** rng.uniform(0, 8) * size
        case "all equal":
            out = np.full(n, base[0] * size)
        case "all zero":
            out = np.zeros(n)
        case "alternating":
            out = np.where(np.arange(n) % 2, size, -size)
        case "alternating sizes":
            out = np.where(np.arange(n) % 2, size, size * 10.0 ** rng.uniform(-12, 0)) * np.sign(base)
        case "low rank":
            out = 10.0 ** rng.uniform(-8, 0) * base
            out[: rows * columns] += np.outer(rng.standard_normal(rows), rng.standard_normal(columns)).reshape(-1)
            out *= size
        case "heavy tail":
            out = rng.standard_cauchy(n) * size
        case "random bits":
            words = rng.integers(0, 1 << 32, n, dtype=np.uint32).view(np.float32)
            out = np.where(np.isfinite(words), words, np.float32(1)).astype(np.float64)
        case "largest":
            out = np.sign(base) * _LARGEST * rng.choice([1.0, 1 - 2.0**-23, 0.5, 1e-3], n)
        case _:
            out = np.ldexp(np.sign(base), rng.integers(-149, 127, n))
    return np.asarray(np.clip(out, -_LARGEST, _LARGEST), np.float32)


def budget(kind: str, update: Float32Vector, rng: np.random.Generator) -> Budget:
    """One that can be met, from no error at all to all of it, from the smallest payload to more than lossless."""
    share = float(rng.choice([0.0, 1e-12, 1e-7, 1.0, 10.0 ** rng.uniform(-9, 0), rng.uniform(0, 1.1)]))
    most = 6.0 * update.size + 64
    match kind:
        case "error":
            return MaxError(math.sqrt(share) * math.sqrt(float(np.square(update, dtype=np.float64).sum())))
        case "relative":
            return RelativeError(share)
        case "bytes":
            return MaxBytes(15 + int(rng.uniform(0, 1) ** 3 * most))
        case _:
            return BitsPerParameter(8 * (15 + rng.uniform(0, 1) ** 3 * most) / update.size)


def exact_square(left: Float32Vector, right: Float32Vector | None = None) -> Fraction:
    """||left - right||^2, without rounding: in units of 2^-149 every float32 is a whole number."""
    zero = [0.0] * left.size
    pairs = zip(left.tolist(), zero if right is None else right.tolist(), strict=True)
    return Fraction(sum((int(math.ldexp(a, 149)) - int(math.ldexp(b, 149))) ** 2 for a, b in pairs), 1 << 298)


def is_met(asked: Budget, payload: bytes, decoded: Float32Vector, update: Float32Vector) -> bool:
    """Whether the budget holds."""
    match asked:
        case MaxBytes(count):
            return len(payload) <= count
        case BitsPerParameter(bits):
            return 8 * len(payload) <= bits * update.size
        case MaxError(l2):
            limit = Fraction(l2) ** 2
            return _far_below(decoded, update, l2) or exact_square(decoded, update) <= limit
        case RelativeError(nmse):
            norm = math.sqrt(float(np.square(update, dtype=np.float64).sum()))
            return _far_below(decoded, update, math.sqrt(nmse) * norm) or (
                # The budget is taken in float64, where the norm itself is rounded.
                exact_square(decoded, update) <= Fraction(nmse) * exact_square(update) * (1 + Fraction(1, 1 << 48))
            )


def _far_below(decoded: Float32Vector, update: Float32Vector, limit: float) -> bool:
    difference = decoded.astype(np.float64) - update
    return math.sqrt(float(np.dot(difference, difference))) < limit * (1 - 1e-9)


def piece(codec: str, seed: int, count: int, largest: int) -> tuple[Counter[tuple[str, str]], list[str]]:
    """Vectors for each family and budget, and what went wrong; the same for the same arguments."""
    rng = np.random.default_rng([7, seed])
    made = get_codec(codec)
    tried: Counter[tuple[str, str]] = Counter()
    wrong = []
    states: dict[tuple[int, int], Any] = {}
    for place in range(count):
        family = FAMILIES[place % len(FAMILIES)]
        kind = BUDGETS[place // len(FAMILIES) % len(BUDGETS)]
        rows = int(rng.integers(1, 7))
        columns = int(rng.integers(1, max(2, largest // rows)))
        layout = Layout.from_shapes({"w": (rows, columns), "b": (rows,)})
        update = vector(family, rows, columns, rng)
        asked = budget(kind, update, rng)
        state = states.get((rows, columns)) if rng.random() < 0.3 else None
        tried[family, kind] += 1
        try:
            encoded = made.encode(update, layout, asked, state=state)
            states[rows, columns] = encoded.state
            if not is_met(asked, encoded.payload, decode(encoded.payload, layout), update):
                wrong.append(f"{family}: {asked} broken, {update.tolist()}")
        except ImpossibleBudget as error:
            wrong.append(f"{family}: {asked} refused, {error}: {update.tolist()}")
        except Exception as error:
            wrong.append(f"{family}: {asked}: {type(error).__name__}: {error}: {update.tolist()}")
    return tried, wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("count", type=int, nargs="?", default=10_000)
    parser.add_argument("--codec", default="amgt", choices=("amgt", "deadzone"))
    parser.add_argument("--size", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=len(os.sched_getaffinity(0)))
    arguments = parser.parse_args()
    tried: Counter[tuple[str, str]] = Counter()
    wrong: list[str] = []
    with ProcessPoolExecutor(arguments.processes) as pool:
        work = [
            pool.submit(piece, arguments.codec, arguments.seed + place,
                        min(PIECE, arguments.count - start), arguments.size)
            for place, start in enumerate(range(0, arguments.count, PIECE))
        ]  # fmt: skip
        for place, result in enumerate(work, 1):
            some, errors = result.result()
            tried += some
            wrong += errors
            for error in errors[:3]:
                print(error, flush=True)
            if place % 25 == 0:
                print(f"{tried.total()} vectors, {len(wrong)} wrong; so far up to --seed {arguments.seed + place}",
                      file=sys.stderr, flush=True)  # fmt: skip
    print("| family | " + " | ".join(BUDGETS) + " | broken |\n" + "|---" * (len(BUDGETS) + 2) + "|")
    for family in FAMILIES:
        counts = " | ".join(str(tried[family, kind]) for kind in BUDGETS)
        print(f"| {family} | {counts} | {sum(line.startswith(family + ':') for line in wrong)} |")
    print(f"\n{tried.total()} vectors, {len(wrong)} budgets broken or wrongly refused")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
