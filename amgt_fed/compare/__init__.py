"""Methods beside each other: the same work, seeds and byte accounting for all, each with its own tuned rate."""

from amgt_fed.compare.methods import METHODS, Method, pick_methods
from amgt_fed.compare.methods_file import read_methods
from amgt_fed.compare.plan import Plan
from amgt_fed.compare.rates import parse_factors
from amgt_fed.compare.results import Results
from amgt_fed.compare.session import Ended, Progress, compare

__all__ = [
    "METHODS",
    "Ended",
    "Method",
    "Plan",
    "Progress",
    "Results",
    "compare",
    "parse_factors",
    "pick_methods",
    "read_methods",
]
