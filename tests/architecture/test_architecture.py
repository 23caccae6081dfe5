"""What holds for the tree as a whole: who imports whom, what a wheel holds, how long a file may be."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

import amgt_fed

ROOT = Path(__file__).parents[2]
PACKAGES = {"amgt_fed": "amgt_fed", "server": "amgt_fed_server", "clients": "amgt_fed_clients"}
GENERATED = ("_pb2.py", "_pb2.pyi", "_pb2_grpc.py")


def tracked(*folders: str) -> list[Path]:
    """Files under version control, or all files where there is no git."""
    found = subprocess.run(["git", "ls-files", "-z", *folders], cwd=ROOT, capture_output=True, check=False)
    if found.returncode == 0 and found.stdout:
        return [ROOT / name.decode() for name in found.stdout.split(b"\0") if name and (ROOT / name.decode()).exists()]
    files = (path for folder in folders for path in (ROOT / folder).rglob("*"))
    return [path for path in files if path.is_file() and "__pycache__" not in path.parts]


def sources(*folders: str) -> list[Path]:
    return [path for path in tracked(*folders) if path.suffix == ".py"]


def test_imports_go_downwards_only() -> None:
    command = Path(sys.executable).parent / "lint-imports"
    done = subprocess.run([str(command), "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("folder", ["server", "clients"])
def test_siblings_are_imported_relatively_so_that_no_file_knows_its_packages_name(folder: str) -> None:
    for path in sources(folder):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.level == 0:
                names.append(node.module or "")
            for name in names:
                assert name.split(".")[0] not in {"server", "clients", "amgt_fed_server", "amgt_fed_clients"}, path


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The names in a wheel built from the tracked files."""
    copy = tmp_path_factory.mktemp("tree")
    for path in [*tracked(*PACKAGES), ROOT / "pyproject.toml", ROOT / "README.md", ROOT / "LICENSE"]:
        target = copy / path.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    build = "import setuptools.build_meta as b, sys; print(b.build_wheel(sys.argv[1]))"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", build, str(copy / "dist")],
        cwd=copy,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    with zipfile.ZipFile(next((copy / "dist").glob("*.whl"))) as file:
        return file.namelist()


def test_a_wheels_top_level_names_are_the_three_packages(wheel: list[str]) -> None:
    top = {name.split("/")[0] for name in wheel}
    assert {name for name in top if not name.endswith(".dist-info")} == set(PACKAGES.values())


def test_every_module_of_the_tree_is_in_the_wheel(wheel: list[str]) -> None:
    missing = []
    for folder, package in PACKAGES.items():
        for path in tracked(folder):
            name = f"{package}/{path.relative_to(ROOT / folder).as_posix()}"
            if path.suffix in (".py", ".jinja", ".typed") and name not in wheel:
                missing.append(name)
    assert missing == []


def test_the_packages_list_names_every_package_and_no_other() -> None:
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]["packages"]
    here = set()
    for folder, package in PACKAGES.items():
        for path in sources(folder):
            here.add(".".join((package, *path.parent.relative_to(ROOT / folder).parts)))
    assert sorted(listed) == sorted(here)


def test_the_public_names_are_sorted_and_there() -> None:
    names = amgt_fed.__all__
    assert names == sorted(names)
    assert len(set(names)) == len(names)
    for name in names:
        assert getattr(amgt_fed, name) is not None
    assert set(names) <= set(dir(amgt_fed))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = amgt_fed.nothing


def test_importing_the_optimizer_loads_nothing_of_flower() -> None:
    program = (
        "import sys; from amgt_fed import AMGT; "
        "sys.exit(any(n.split('.')[0] in ('flwr', 'grpc', 'typer', 'ray', 'matplotlib') for n in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=False).returncode == 0


def test_no_file_is_longer_than_300_lines() -> None:
    long = {
        str(path.relative_to(ROOT)): lines
        for path in sources("amgt_fed", "server", "clients")
        if not path.name.endswith(GENERATED) and (lines := len(path.read_text(encoding="utf-8").splitlines())) > 300
    }
    assert long == {}


def test_every_test_file_stands_where_its_name_says() -> None:
    """Test folders are no packages: a file is found by its path, and imports no other test."""
    assert [path for path in tracked("tests") if path.name == "__init__.py"] == []


def test_no_source_knows_a_machine_path() -> None:
    for path in tracked("amgt_fed", "server", "clients", "protos", "docs", "examples", "benchmarks"):
        if path.suffix in (".py", ".md", ".toml", ".proto", ".jinja"):
            text = path.read_text(encoding="utf-8")
            assert str(ROOT) + "/" not in text, path
            assert "/work/" not in text, path
