"""The paper, reproduced: every claim beside what was computed, with a verdict that the computation gives."""

from .claims import Claim, Curve, Effort, Figure, Section, Table, Verdict
from .report import PaperReport, make_directory, reproduce, write

__all__ = [
    "Claim",
    "Curve",
    "Effort",
    "Figure",
    "PaperReport",
    "Section",
    "Table",
    "Verdict",
    "make_directory",
    "reproduce",
    "write",
]
