"""docs/optimizer.md runs as printed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

PAGE = (Path(__file__).parents[2] / "docs" / "optimizer.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


@pytest.mark.parametrize("source", BLOCKS, ids=range(len(BLOCKS)))
def test_a_code_block_runs_as_printed(source: str) -> None:
    exec(compile(source, "docs/optimizer.md", "exec"), {})


def test_the_page_has_code_and_its_pictures_exist() -> None:
    assert BLOCKS
    for target in re.findall(r"\]\(((?!https?:)[^)#]+)\)", PAGE):
        assert (Path(__file__).parents[2] / "docs" / target).exists(), target
