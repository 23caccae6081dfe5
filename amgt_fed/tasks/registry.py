"""From a task's name, or `module:Class`, to the task."""

from __future__ import annotations

import difflib
import importlib
import os
import sys
from importlib.metadata import entry_points

from amgt_fed.errors import AMGTFedError, TaskError
from amgt_fed.tasks.base import Task, TaskSettings

BUILT_IN = {
    "beijing-air": "amgt_fed.tasks.beijing:BeijingAir",
    "digits": "amgt_fed.tasks.digits:Digits",
    "digits-logreg": "amgt_fed.tasks.logistic:DigitsLogistic",
    "fashion-mnist": "amgt_fed.tasks.images:FashionMNIST",
    "har": "amgt_fed.tasks.har:HAR",
    "heart-disease": "amgt_fed.tasks.heart:HeartDisease",
    "mnist": "amgt_fed.tasks.images:MNIST",
    "paper-quadratic": "amgt_fed.tasks.quadratic:PaperQuadratic",
    "shakespeare": "amgt_fed.tasks.shakespeare:Shakespeare",
}

ENTRY_POINTS = "amgt_fed.tasks"
"""Installed packages add tasks under this entry point group."""


def find_task(name: str) -> type[Task]:
    """The class of a task: a built-in name, an entry point, or `module:Class` from the Python path or directory.

    Raises:
        TaskError: there is no such task, it cannot be imported, or it is not a `Task`.
    """
    reference = BUILT_IN.get(name) or _installed().get(name) or name
    module_name, separator, class_name = reference.partition(":")
    if not separator or not module_name or not class_name:
        known = sorted({*BUILT_IN, *_installed()})
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise TaskError(f"unknown task {name!r}; {hint}Built in: {', '.join(known)}. Your own: --task my_module:MyTask")
    found: object = _import(module_name, name)
    for part in class_name.split("."):
        if not hasattr(found, part):
            raise TaskError(f"task {name!r}: module {module_name!r} has no {class_name!r}")
        found = getattr(found, part)
    if not (isinstance(found, type) and issubclass(found, Task)):
        raise TaskError(f"task {name!r} is {found!r}; it must be a subclass of amgt_fed.Task")
    return found


def load_task(name: str, settings: TaskSettings) -> Task:
    """Build a task.

    Raises:
        TaskError: see `find_task`; or it cannot be built.
    """
    found = find_task(name)
    try:
        return found(settings)
    except AMGTFedError:
        raise
    except Exception as error:  # an abstract method left out, or whatever the user's constructor raises
        raise TaskError(f"task {name!r} cannot be built: {type(error).__name__}: {error}") from error


def _installed() -> dict[str, str]:
    return {entry.name: entry.value for entry in entry_points(group=ENTRY_POINTS)}


def _import(module_name: str, task: str) -> object:
    here = os.getcwd()
    if here not in sys.path and "" not in sys.path:
        # An installed command does not have the working directory on its path, as `python -m` has. It stays there:
        # the task's module may import its neighbours later.
        sys.path.insert(0, here)
    try:
        return importlib.import_module(module_name)
    except ImportError as error:
        raise TaskError(
            f"task {task!r}: module {module_name!r} cannot be imported ({error}); "
            "run from the directory that holds it, or put it on PYTHONPATH"
        ) from error
    except Exception as error:  # the user's module may raise anything while it is imported
        raise TaskError(
            f"task {task!r}: module {module_name!r} fails while it is imported: {type(error).__name__}: {error}"
        ) from error
