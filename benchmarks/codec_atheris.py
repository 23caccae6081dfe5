"""Coverage-guided fuzzing of the decoder: `pip install atheris`; `python benchmarks/codec_atheris.py -runs=100000`.

libFuzzer's arguments follow. The first byte it gives chooses between a raw payload and a body under a right checksum;
honest payloads are in the corpus. Exits with 0 and says so where atheris is not installed.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import tempfile
from pathlib import Path


def main() -> None:
    if not importlib.util.find_spec("atheris"):
        print("atheris is not installed: nothing was fuzzed (pip install atheris)")
        return
    atheris = importlib.import_module("atheris")
    with atheris.instrument_imports(include=["amgt_fed.codec"]):
        import numpy as np

        from amgt_fed.codec import CodecError, decode
    from codec_fuzz import LAYOUT, resealed, seeds

    def one(data: bytes) -> None:
        payload = data[1:]
        if data[:1] > b"\x40" and len(payload) >= 14:
            payload = resealed(payload)
        try:
            assert np.isfinite(decode(payload, LAYOUT)).all()
        except CodecError:
            return

    with tempfile.TemporaryDirectory() as corpus:
        for place, payload in enumerate(seeds()):
            (Path(corpus) / str(place)).write_bytes(b"\xff" + payload)
        atheris.Setup([*sys.argv, "-max_len=8000", corpus], one)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
