from __future__ import annotations

import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def test_the_generated_code_is_what_the_protos_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["generate.py", str(tmp_path)])
    runpy.run_path(str(ROOT / "protos" / "generate.py"), run_name="__main__")
    fresh = {path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file()}
    kept = {path.relative_to(ROOT) for path in (ROOT / "amgt_fed").rglob("*_pb2*.py*") if path.suffix != ".pyc"}
    assert fresh == kept, "run: python protos/generate.py"
    assert len(fresh) >= 5
    for path in fresh:
        assert (tmp_path / path).read_text() == (ROOT / path).read_text(), f"{path}: run python protos/generate.py"
