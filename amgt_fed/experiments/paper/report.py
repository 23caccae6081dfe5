"""The whole reproduction: its sections in order, and what is written of it."""

from __future__ import annotations

import base64
import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from amgt_fed.errors import StateError

from .applications import check_applications
from .claims import Claim, Effort, Section, Verdict
from .nonconvex import check_nonconvex
from .plots import render
from .reddi import check_reddi
from .rivals import check_rivals
from .theorems import check_bounded_errors, check_strong_convexity

FORMAT_VERSION = 1


@dataclass(frozen=True, slots=True)
class PaperReport:
    """Every section of the reproduction, how long it took, and whether it was the quick one."""

    sections: tuple[Section, ...]
    seconds: float
    quick: bool

    @property
    def claims(self) -> tuple[Claim, ...]:
        """All claims, in the paper's order."""
        return tuple(claim for section in self.sections for claim in section.claims)

    @property
    def counts(self) -> dict[str, int]:
        """Verdict -> number of claims, every verdict present."""
        return {str(verdict): sum(claim.verdict is verdict for claim in self.claims) for verdict in Verdict}

    def to_json(self) -> str:
        """The report as indented JSON: claims, tables and the figures' numbers."""
        content = {
            "version": FORMAT_VERSION,
            "source": "doi:10.63561/jca.v2i4.1069",
            "quick": self.quick,
            "seconds": round(self.seconds, 2),
            "counts": self.counts,
            "sections": [asdict(section) for section in self.sections],
        }
        return json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def reproduce(*, quick: bool = False, progress: Callable[[str], None] = lambda title: None) -> PaperReport:
    """Compute the whole paper again.

    Args:
        quick: shorter runs, for tests and a first look. What is proved or exact comes out the same; the comparison on
            digits has fewer rates and one seed, so its verdicts may differ.
        progress: told what begins.
    """
    effort = Effort.quick() if quick else Effort()
    begin = time.perf_counter()
    sections: list[Section] = []
    progress("Applications 1 and 2, Table 1")
    sections += check_applications()
    parts: tuple[tuple[str, Callable[[Effort], Section]], ...] = (
        ("Strong convexity", check_strong_convexity),
        ("Errors of O(1/k)", check_bounded_errors),
        ("A small deep net", check_nonconvex),
        ("Other optimizers", check_rivals),
        ("Reddi's counterexample", check_reddi),
    )
    for title, check in parts:
        progress(title)
        sections.append(check(effort))
    return PaperReport(tuple(sections), time.perf_counter() - begin, quick)


def make_directory(out: Path) -> None:
    """Make `out` where it is missing, so that a wrong --out shows before the computation and not after it.

    Raises:
        StateError: it cannot be made, is a file, or may not be written to.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StateError(f"cannot write the report to {out}: {error.strerror or error}; give another --out") from error
    if not os.access(out, os.W_OK | os.X_OK):
        raise StateError(f"cannot write the report to {out}: no permission; give another --out")


def write(report: PaperReport, out: Path) -> list[Path]:
    """Write paper.json, paper.html (pictures inside) and paper_*.png into `out`, which is made where it is missing.

    Returns:
        The files written.

    Raises:
        StateError: the directory cannot be made or written to.
    """
    pictures = {figure.key: render(figure) for section in report.sections for figure in section.figures}
    # Autoescape: a claim may contain < and &.
    environment = Environment(loader=PackageLoader(__package__ or "", "."), autoescape=True, undefined=StrictUndefined)
    encoded = {key: base64.b64encode(picture).decode() for key, picture in pictures.items()}
    page = environment.get_template("page.html.jinja").render(report=report, pictures=encoded)
    files: dict[str, bytes] = {"paper.json": report.to_json().encode(), "paper.html": page.encode()}
    files |= {f"paper_{key.replace('-', '_')}.png": picture for key, picture in pictures.items()}
    make_directory(out)
    try:
        for name, content in files.items():
            (out / name).write_bytes(content)
    except OSError as error:
        raise StateError(f"cannot write the report to {out}: {error.strerror or error}; give another --out") from error
    return [out / name for name in files]
