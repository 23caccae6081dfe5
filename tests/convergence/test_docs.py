"""docs/convergence.md: its code runs and prints what it says."""

import re
from pathlib import Path

import pytest

PAGE = (Path(__file__).parents[2] / "docs" / "convergence.md").read_text()
EXAMPLES = re.findall(r"```python\n(.*?)```\n\nprints `(.*?)`", PAGE, re.DOTALL)


def test_there_are_two_examples() -> None:
    assert len(EXAMPLES) == 2


@pytest.mark.parametrize(("code", "printed"), EXAMPLES)
def test_an_example_prints_what_the_page_says(code: str, printed: str, capsys: pytest.CaptureFixture[str]) -> None:
    exec(compile(code, "docs/convergence.md", "exec"), {})
    assert capsys.readouterr().out.strip() == printed


def test_every_figure_is_there() -> None:
    figures = re.findall(r"\]\((figures/[^)]+)\)", PAGE)
    assert len(figures) == 8
    for figure in figures:
        assert (Path(__file__).parents[2] / "docs" / figure).is_file(), figure
