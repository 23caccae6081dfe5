"""A task by name, by reference, and every way that can fail."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from amgt_fed.errors import TaskError
from amgt_fed.tasks import BUILT_IN, Task, TaskSettings, load_task
from amgt_fed.tasks.digits import Digits

MODULE = """
from amgt_fed import Examples, Task
import torch
from torch import nn

class Mine(Task):
    def model(self):
        return nn.Linear(2, 2)
    def train_data(self):
        return Examples(torch.zeros(40, 2), torch.arange(40) % 2)

class Unfinished(Task):
    def model(self):
        return nn.Linear(2, 2)

class Failing(Mine):
    def __init__(self, settings):
        raise FileNotFoundError("weights.pt is missing")

class Outer:
    class Inner(Mine):
        pass

not_a_task = 5
class NotATask: pass
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "registry_example.py").write_text(MODULE, encoding="utf-8")
    (tmp_path / "registry_broken.py").write_text("import\n", encoding="utf-8")
    (tmp_path / "registry_needy.py").write_text("import a_package_nobody_has\n", encoding="utf-8")
    for name in ("registry_example", "registry_broken", "registry_needy"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return tmp_path


def test_a_built_in_name_gives_the_task() -> None:
    assert isinstance(load_task("digits", TaskSettings()), Digits)


@pytest.mark.parametrize("name", sorted(BUILT_IN))
def test_every_built_in_name_leads_to_a_documented_task(name: str) -> None:
    module, _, attribute = BUILT_IN[name].partition(":")
    found = getattr(__import__(module, fromlist=[attribute]), attribute)
    assert issubclass(found, Task)
    assert found.name == name
    assert found.__doc__


@pytest.mark.parametrize("reference", ["registry_example:Mine", "registry_example:Outer.Inner"])
@pytest.mark.usefixtures("here")
def test_a_class_in_the_working_directory_is_found(reference: str) -> None:
    task = load_task(reference, TaskSettings(num_clients=4))
    assert len(task.client_indices) == 4


@pytest.mark.parametrize(
    ("reference", "named"),
    [
        ("digit", "did you mean 'digits'"),
        ("nothing_like_it", "Built in: .*digits.*my_module:MyTask"),
        (":Mine", "unknown task"),
        ("registry_example:", "unknown task"),
        ("registry_absent:Mine", "cannot be imported.*PYTHONPATH"),
        ("registry_needy:Mine", "a_package_nobody_has"),
        ("registry_broken:Mine", "SyntaxError"),
        ("registry_example:Absent", "has no 'Absent'"),
        ("registry_example:not_a_task", r"must be a subclass of amgt_fed\.Task"),
        ("registry_example:NotATask", r"must be a subclass of amgt_fed\.Task"),
        ("registry_example:Unfinished", "abstract.*train_data"),
        ("registry_example:Failing", r"FileNotFoundError: weights\.pt is missing"),
    ],
)
@pytest.mark.usefixtures("here")
def test_a_task_that_cannot_be_had_is_one_line_with_the_reason(reference: str, named: str) -> None:
    with pytest.raises(TaskError, match=named) as caught:
        load_task(reference, TaskSettings())
    assert "\n" not in str(caught.value)
    assert reference in str(caught.value)
