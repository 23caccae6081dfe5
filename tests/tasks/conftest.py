"""The data directory, or a reason to skip."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """AMGT_DATA, or `shared/data` beside the repository."""
    folder = Path(os.environ.get("AMGT_DATA") or Path(__file__).parents[3] / "shared" / "data")
    if not folder.is_dir():
        pytest.skip(f"needs the data directory: {folder} is absent; set AMGT_DATA")
    return folder
