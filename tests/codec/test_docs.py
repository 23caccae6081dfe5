"""The page's code runs as printed."""

from __future__ import annotations

import re
from pathlib import Path

PAGE = (Path(__file__).parents[2] / "docs" / "codec.md").read_text(encoding="utf-8")


def test_the_code_of_the_page_runs() -> None:
    blocks = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert blocks
    for block in blocks:
        exec(compile(block, "docs/codec.md", "exec"), {})


def test_every_codec_the_page_names_is_there() -> None:
    from amgt_fed.codec import codec_names

    named = set(re.findall(r"`(dense|float16|int8|qsgd|stc|sign|eden|powersgd|deadzone|unbiased|subspace)`", PAGE)) | {
        "topk",
        "amgt",
    }
    assert named == set(codec_names())
