"""Every command and every block of the README runs as printed; long ones with fewer rounds, on ports of their own."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from amgt_fed.engines.processes import Children, free_ports

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
FLEET = re.search(r"## On a fleet\n(.*?)\n## ", README, re.DOTALL)

SHORTER = {"amgt-fed run": " --rounds 2", "python benchmarks/demo.py": " --seeds 1 --rounds 2"}
MEASURED_ELSEWHERE = (
    "python benchmarks/link.py",  # tests/link
    "amgt-fed paper",  # tests/experiments
    "python benchmarks/bytes_to_accuracy.py",  # an hour; tests/compare has its verdicts and the comparison it runs
)


def commands() -> list[str]:
    """The README's command lines, without their comments, in order; those of the fleet are a test of their own."""
    assert FLEET is not None
    text = README.replace(FLEET.group(0), "")
    lines = re.findall(r"^    ((?:amgt-\S+|cd|make) .*)$", text, re.MULTILINE)
    lines += re.findall(r"`(python benchmarks/[^`]+)`", text)
    return [re.sub(r"\s+#.*$", "", line) for line in lines]


def environment(tmp_path: Path) -> dict[str, str]:
    scripts = sysconfig.get_path("scripts")
    return {
        **os.environ,
        "PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}",
        "OMP_NUM_THREADS": "1",
        "XDG_STATE_HOME": str(tmp_path / "state"),
    }


def test_the_commands_were_found() -> None:
    found = commands()
    assert {"make demo", "make test", "amgt-fed run", "amgt-fed doctor"} <= set(found)
    assert len(found) >= 12


@pytest.mark.timeout(300)
def test_every_command_runs_in_the_order_it_stands(tmp_path: Path) -> None:
    for name in ("examples", "benchmarks", "docs"):
        (tmp_path / name).symlink_to(ROOT / name)
    for line in commands():
        if line.startswith("make "):
            dry = ["make", "--dry-run", *shlex.split(line)[1:]]
            subprocess.run(dry, cwd=ROOT, check=True, capture_output=True, timeout=30)
            continue
        if line.startswith(MEASURED_ELSEWHERE):
            continue
        for start, more in SHORTER.items():
            if line.startswith(start) and "--resume" not in line and "--rounds" not in line:
                line += more
        line = line.replace("--rounds 10", "--rounds 2").replace("certify_every=5", "certify_every=1")
        line = line.replace("--rounds 20", "--rounds 3").replace("cd examples &&", f"cd {ROOT / 'examples'} &&")
        if "cd " in line:
            line += f" --out {tmp_path / 'wine'}"
        done = subprocess.run(
            ["bash", "-c", line], cwd=tmp_path, env=environment(tmp_path), capture_output=True, text=True, timeout=240
        )
        assert done.returncode == 0, f"{line}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"


def test_the_python_blocks_run_as_printed(tmp_path: Path) -> None:
    blocks = [block for block in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if "import" in block]
    assert len(blocks) == 2
    for block in blocks:
        program = block.replace("rounds=15", "rounds=2")
        done = subprocess.run(
            [sys.executable, "-c", program],
            cwd=tmp_path,
            env=environment(tmp_path),
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
    assert any((tmp_path / "runs").iterdir())


def test_the_example_it_quotes_is_the_example_that_is_there() -> None:
    quoted = re.search(r"```python\nclass Wine.*?return nn\.Sequential\((.*?)\)\n", README, re.DOTALL)
    assert quoted is not None
    assert quoted.group(1) in (ROOT / "examples" / "custom_task.py").read_text()


@pytest.mark.timeout(200)
def test_the_fleet_of_the_page_trains(tmp_path: Path) -> None:
    assert FLEET is not None
    port = str(free_ports(1)[0])
    lines = re.findall(r"^    (amgt-\S+ run .*)$", FLEET.group(1), re.MULTILINE)
    assert len(lines) == 3
    server, *clients = [shlex.split(line.replace("9400", port)) for line in lines]
    server += ["--set", "rounds=3", "--set", "client.steps=3"]
    scripts = Path(sysconfig.get_path("scripts"))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        with Children(tmp_path / "logs", environment(tmp_path)) as children:
            started = children.start("server", [str(scripts / server[0]), *server[1:]])
            for number, client in enumerate(clients):
                children.start(f"client-{number}", [str(scripts / client[0]), *client[1:]])
            assert started.process.wait(timeout=150) == 0
    assert (tmp_path / "runs" / "fleet" / "report.html").exists()


def test_links_and_pictures_lead_somewhere() -> None:
    for target in re.findall(r"\]\(((?!https?:)[^)]+)\)", README):
        assert (ROOT / target).exists(), target
