"""A codec of an installed package, found by its entry point, from `get_codec` to a whole run by its name."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = '''
"""Every n-th value, as it is."""
import numpy as np
from amgt_fed.codec import Body, Codec, CorruptPayload, Opened, Piece


class EveryNth(Opened):
    def __init__(self, values, step):
        self.values, self.step = values, step

    def pieces(self):
        yield Piece(self.values, indices=np.arange(self.values.size, dtype=np.int64) * self.step)


class Stride(Codec):
    name = "stride"

    def __init__(self, step=2):
        self.step = int(step)

    def compress(self, update, layout, *, max_error, max_bytes, state, rng):
        return Body(bytes([self.step]) + update[:: self.step].astype("<f4").tobytes())

    def open(self, body, layout):
        step = body[0] if len(body) else 0
        if not step or len(body) != 1 + 4 * len(range(0, layout.size, step)):
            raise CorruptPayload("a stride body of a wrong length")
        return EveryNth(np.frombuffer(body[1:], "<f4"), step)


class Impostor(Stride):
    name = "someone-else"
'''


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory of installed packages, with one in it."""
    folder = tmp_path_factory.mktemp("site")
    (folder / "stride_codec.py").write_text(PROGRAM, encoding="utf-8")
    info = folder / "stride_codec-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: stride-codec\nVersion: 1.0\n", encoding="utf-8")
    points = "[amgt_fed.codecs]\nstride = stride_codec:Stride\nimpostor = stride_codec:Impostor\n"
    (info / "entry_points.txt").write_text(points, encoding="utf-8")
    return folder


def python(site: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(site), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *arguments], env=environment, capture_output=True, text=True, check=False, timeout=120
    )


def test_a_payload_names_its_codec_and_is_refused_where_it_is_not_installed(site: Path, tmp_path: Path) -> None:
    payload = tmp_path / "payload.bin"
    program = (
        "import sys, numpy as np\n"
        "from amgt_fed.codec import *\n"
        "layout = Layout.from_shapes({'x': (9,)})\n"
        "assert {'stride', 'impostor'} <= set(codec_names())\n"
        "encoded = get_codec('stride', step=4).encode(np.arange(9, dtype=np.float32), layout)\n"
        "assert decode(encoded.payload, layout).tolist() == [0, 0, 0, 0, 4, 0, 0, 0, 8]\n"
        "open(sys.argv[1], 'wb').write(encoded.payload)\n"
        "try: get_codec('impostor')\n"
        "except UnknownCodec as error: print(error)\n"
    )
    there = python(site, "-c", program, str(payload))
    assert there.returncode == 0, there.stderr
    assert "must give an amgt_fed.codec.Codec named 'impostor'" in there.stdout
    from amgt_fed.codec import Layout, UnsupportedPayload, decode

    with pytest.raises(UnsupportedPayload, match=r"'stride'; install the package"):
        decode(payload.read_bytes(), Layout.from_shapes({"x": (9,)}))


def test_a_run_uses_it_by_name(site: Path, tmp_path: Path) -> None:
    def run(step: int) -> list[dict[str, object]]:
        out = tmp_path / f"run{step}"
        program = str(Path(sys.executable).parent / "amgt-fed")
        command = [program, "run", "--task", "digits-logreg", "--rounds", "1", "--clients", "2", "--no-baseline",
                   "--per-round", "2", "--quiet", "--set", f"codec.uplink=stride:step={step}",
                   "--set", "codec.uplink_budget=none", "--out", str(out)]  # fmt: skip
        done = python(site, *command)
        assert done.returncode == 0, done.stderr + done.stdout
        return [json.loads(line) for line in (out / "rounds.jsonl").read_text(encoding="utf-8").splitlines()]

    halves, fifths = run(2), run(5)
    assert len(halves) == len(fifths) == 1
    bytes_of = [sum(float(str(row["uplink_bytes"])) for row in rows) for rows in (halves, fifths)]
    assert bytes_of[0] / bytes_of[1] == pytest.approx(2.5, rel=0.1)
