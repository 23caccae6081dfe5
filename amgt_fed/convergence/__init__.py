"""Convergence under bounded errors: the theory's bounds as functions, and a tracker that applies them to a run."""

from . import theory
from .errors import InvalidAssumption, InvalidMeasurement
from .fit import LastHalfSlope, Slope, fit_slope
from .gap import GapBounds, MeasuredPoint, MinimumSearch, gap_bounds
from .measurement import Assumptions, CertifiedGradient, Measurement
from .report import Bound, Bounds, Certificate, ErrorBudget, RoundReport, Status, StopReason
from .rules import StatusRules, StopRules
from .tracker import ConvergenceTracker

__all__ = [
    "Assumptions",
    "Bound",
    "Bounds",
    "Certificate",
    "CertifiedGradient",
    "ConvergenceTracker",
    "ErrorBudget",
    "GapBounds",
    "InvalidAssumption",
    "InvalidMeasurement",
    "LastHalfSlope",
    "MeasuredPoint",
    "Measurement",
    "MinimumSearch",
    "RoundReport",
    "Slope",
    "Status",
    "StatusRules",
    "StopReason",
    "StopRules",
    "fit_slope",
    "gap_bounds",
    "theory",
]
