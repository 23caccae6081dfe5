"""AMGT-Fed: federated and edge training with the AMGT optimizer, compressed updates and a certificate.

The names below are imported when first used: `from amgt_fed import AMGT` needs torch and nothing of Flower.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from amgt_fed.api import RunResult, run
    from amgt_fed.codec import decode, encode
    from amgt_fed.config import RunConfig
    from amgt_fed.convergence import ConvergenceTracker
    from amgt_fed.errors import AMGTFedError
    from amgt_fed.layout import Layout
    from amgt_fed.optimizer import AMGT
    from amgt_fed.tasks import Examples, Task, TaskSettings

__version__ = "0.1.0"

_HOMES = {
    "AMGT": "amgt_fed.optimizer",
    "AMGTFedError": "amgt_fed.errors",
    "ConvergenceTracker": "amgt_fed.convergence",
    "Examples": "amgt_fed.tasks",
    "Layout": "amgt_fed.layout",
    "RunConfig": "amgt_fed.config",
    "RunResult": "amgt_fed.api",
    "Task": "amgt_fed.tasks",
    "TaskSettings": "amgt_fed.tasks",
    "decode": "amgt_fed.codec",
    "encode": "amgt_fed.codec",
    "run": "amgt_fed.api",
}

__all__ = [
    "AMGT",
    "AMGTFedError",
    "ConvergenceTracker",
    "Examples",
    "Layout",
    "RunConfig",
    "RunResult",
    "Task",
    "TaskSettings",
    "__version__",
    "decode",
    "encode",
    "run",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'amgt_fed' has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
