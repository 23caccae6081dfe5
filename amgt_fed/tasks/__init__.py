"""Models with their data: what a federation trains."""

from amgt_fed.tasks.base import Examples, Task, TaskSettings
from amgt_fed.tasks.facts import Constants, Reference
from amgt_fed.tasks.flat import FlatModel
from amgt_fed.tasks.gradient import FullGradient, full_gradient
from amgt_fed.tasks.registry import BUILT_IN, find_task, load_task
from amgt_fed.tasks.training import LocalSettings, evaluate, train_locally

__all__ = [
    "BUILT_IN",
    "Constants",
    "Examples",
    "FlatModel",
    "FullGradient",
    "LocalSettings",
    "Reference",
    "Task",
    "TaskSettings",
    "evaluate",
    "find_task",
    "full_gradient",
    "load_task",
    "train_locally",
]
