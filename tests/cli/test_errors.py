"""Every error a user meets: exit code 2, one line that says what to do, a traceback only with --debug."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from amgt_fed.cli.errors import explain_os_error, reporting
from amgt_fed.cli.main import main
from amgt_fed.errors import EngineError

TINY = "tests.helpers.tiny_task:Tiny"
ROOT = Path(__file__).parents[2]

Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Cli:
    """Run the command in this process, in an empty directory; give exit code, standard output and standard error."""
    for module in ("amgt_fed.api", "amgt_fed_server.federation"):
        monkeypatch.setattr(f"{module}.write_report", lambda directory: directory.report_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(ROOT))
    monkeypatch.delenv("AMGT_DATA", raising=False)
    monkeypatch.setenv("COLUMNS", "80")

    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["amgt-fed", *arguments])
        capsys.readouterr()
        with pytest.raises(SystemExit) as exit:
            main()
        out, err = capsys.readouterr()
        code = exit.value.code
        return (0 if code is None else int(code)), out, err

    return call


SMALL = ["--task", TINY, "--clients", "4", "--per-round", "2", "--rounds", "2", "--no-baseline"]

ERRORS: dict[str, tuple[list[str], str]] = {
    "unknown task": (["run", "--task", "digitz"], "did you mean 'digits'"),
    "task not importable": (["run", "--task", "nowhere:Task"], "'nowhere' cannot be imported"),
    "no data directory": (["run", *SMALL, "--data-dir", "/nowhere"], "data directory '/nowhere' does not exist"),
    "too few clients": (["run", "--clients", "3"], "clients_per_round is 10, but there are only 3"),
    "too many clients": (["run", *SMALL, "--clients", "5000"], "cannot give 5000 clients"),
    "unknown key": (
        ["run", "--set", "client.lrr=1"],
        "unknown configuration key 'client.lrr'; did you mean 'client.lr'",
    ),
    "bad value": (["run", "--set", "client.lr=fast"], "client.lr = 'fast' is not allowed; give a number > 0"),
    "bad rounds": (["run", "--rounds", "0"], "rounds = 0"),
    "bad engine": (["run", "--engine", "spark"], "engine = 'spark' is not allowed; give local, grpc, ray, flower"),
    "unknown option": (["run", "--round", "3"], "'--rounds'?); `amgt-fed run --help`"),
    "unknown command": (["train"], "No such command 'train'; `amgt-fed --help`"),
    "a word for a number": (["run", "--rounds", "ten"], "'ten' is not a valid integer"),
    "missing argument": (["show"], "Missing argument 'RUN'"),
    "not key=value": (["run", "--set", "rounds"], "key=value"),
    "bad codec": (["run", *SMALL, "--set", "codec.uplink=zip"], "codec.uplink = 'zip'"),
    "bad budget": (["run", "--set", "codec.uplink_budget=bytes=1.5"], "codec.uplink_budget"),
    "bad device": (["run", *SMALL, "--set", "device=cuda:99"], "device 'cuda:99'"),
    "no config file": (["run", "--config", "absent.toml"], "absent.toml cannot be read"),
    "resume nothing": (["run", "--resume", "absent"], "absent is not a run directory"),
    "resume with config": (["run", "--resume", ".", "--config", "x.toml"], "leave --config away"),
    "task fails": (
        ["run", *SMALL, "--task", "tests.helpers.tiny_task:Failing", "--set", "options.where=model"],
        "no such layer: [conv9]",
    ),
    "out is a file": (["run", *SMALL, "--out", "file/run"], "Not a directory"),
    "show nothing": (["show", "absent"], "not a run directory"),
    "report nothing": (["report", "absent"], "not a run directory"),
    "list nothing": (["list", "absent"], "there is no folder absent"),
    "check a bad file": (
        ["config", "--check", "bad.toml"],
        "unknown configuration key 'roundz'; did you mean 'rounds'",
    ),
}


@pytest.mark.parametrize("name", ERRORS)
def test_an_error_is_one_line_and_exit_code_2(name: str, cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "bad.toml").write_text("roundz = 3\n", encoding="utf-8")
    arguments, named = ERRORS[name]
    code, out, err = cli(*arguments)
    assert code == 2
    assert out == ""
    assert err.count("\n") == 1, err
    assert err.startswith("error: ")
    assert named in err
    assert "Traceback" not in err
    assert "\x1b" not in err


@pytest.mark.parametrize("place", [0, -1])
def test_debug_shows_the_traceback_and_the_line_wherever_it_stands(place: int, cli: Cli) -> None:
    arguments = ["run", "--task", "digitz"]
    arguments.insert(place if place == 0 else len(arguments), "--debug")
    code, _, err = cli(*arguments)
    assert code == 2
    assert "Traceback (most recent call last)" in err
    assert err.splitlines()[-1].startswith("error: unknown task 'digitz'")


def test_a_clients_failure_ends_the_command_in_one_line_with_the_reason(cli: Cli) -> None:
    code, _, err = cli("run", *SMALL, "--quiet", "--set", "client.lr=1e30", "--set", "client.optimizer=sgd")
    assert code == 2
    assert "round 1: 0 of 2 clients gave an update" in err
    assert "lower client.lr" in err
    assert err.splitlines()[-1].startswith("error: ")
    assert "Traceback" not in err


def test_an_error_of_the_users_own_metric_is_one_line_too(cli: Cli) -> None:
    code, _, err = cli(
        "run", *SMALL, "--quiet", "--task", "tests.helpers.tiny_task:Failing", "--set", "options.where=metrics"
    )
    assert code == 2
    assert err == "error: unexpected KeyError: 'f1' (--debug shows where)\n"


def test_a_run_in_use_is_one_line(cli: Cli, tmp_path: Path) -> None:
    from amgt_fed.runs import RunDirectory

    with RunDirectory(tmp_path / "busy").in_use():
        code, _, err = cli("run", *SMALL, "--quiet", "--out", "busy")
    assert code == 2
    assert "is in use by another process" in err


@pytest.mark.parametrize(
    ("number", "named"),
    [
        (errno.ENOSPC, "the disk is full (/data/x); free some space, then `amgt-fed run --resume DIR`"),
        (errno.EDQUOT, "the disk is full"),
        (errno.EADDRINUSE, "the port is in use"),
        (errno.EACCES, "--out"),
        (errno.EROFS, "choose a place you may write to"),
        (errno.EIO, "Input/output error (/data/x)"),
    ],
)
def test_what_the_operating_system_refused_says_what_to_do(number: int, named: str) -> None:
    assert named in explain_os_error(OSError(number, os.strerror(number), "/data/x"))


def test_a_full_disk_during_a_run_is_one_line_and_the_run_goes_on_later(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import amgt_fed_server.federation as federation

    real, count = federation.save_checkpoint, [0]

    def full(*arguments: Any) -> None:
        count[0] += 1
        if count[0] == 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "checkpoint")
        real(*arguments)

    monkeypatch.setattr(federation, "save_checkpoint", full)
    code, _, err = cli("run", *SMALL, "--quiet", "--out", "run")
    assert code == 2
    assert err.startswith("error: the disk is full (checkpoint); free some space")
    assert err.count("\n") == 1
    code, out, _ = cli("run", "--resume", "run", "--json")
    assert code == 0
    resumed = json.loads(out)
    code, out, _ = cli("run", *SMALL, "--json", "--out", "whole")
    assert json.loads(out)["model_sha256"] == resumed["model_sha256"]


def _raises(error: BaseException) -> tuple[int, str]:
    with pytest.raises(SystemExit) as exit, reporting(debug=False):
        raise error
    return exit.value.code, ""  # type: ignore[return-value]


def test_a_message_with_brackets_is_printed_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert _raises(EngineError("ray is missing: pip install 'amgt-fed[ray]' [bold]"))[0] == 2
    assert capsys.readouterr().err == "error: ray is missing: pip install 'amgt-fed[ray]' [bold]\n"


def test_a_long_message_stays_one_line(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    assert _raises(EngineError("word " * 60 + "\n\tend"))[0] == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert err.rstrip().endswith("word end")


def test_an_interrupt_is_130_and_says_how_to_go_on(capsys: pytest.CaptureFixture[str]) -> None:
    assert _raises(KeyboardInterrupt())[0] == 130
    assert "--resume DIR" in capsys.readouterr().err


# ---- what it prints when all is well


def test_json_is_all_that_reaches_standard_output(cli: Cli) -> None:
    code, out, err = cli("run", *SMALL, "--json", "--out", "run")
    assert code == 0
    summary = json.loads(out)
    assert err == ""
    assert summary["rounds"] == 2
    assert summary["directory"].endswith("/run")
    assert {"engine", "status", "metrics", "model_sha256", "uplink_bytes", "downlink_bytes"} <= summary.keys()
    for arguments, key in ((["show", "run", "--json"], "model_sha256"), (["list", ".", "--json"], None)):
        code, out, _ = cli(*arguments)
        assert code == 0
        found = json.loads(out)
        assert found[key] == summary[key] if key else found[0]["rounds"] == 2
    for arguments in (["config", "--json"], ["tasks", "--json"]):
        code, out, _ = cli(*arguments)
        assert code == 0
        assert len(json.loads(out)) >= 1


def test_a_run_prints_a_table_within_80_columns_and_no_colour_codes_when_piped(cli: Cli, tmp_path: Path) -> None:
    code, out, err = cli("run", *SMALL[:-1], "--out", "r")
    assert code == 0
    assert "\x1b" not in out + err
    table = [line for line in out.splitlines() if str(tmp_path) not in line]
    assert max(map(len, table)) <= 80
    for shown in (
        "AMGT-Fed",
        "dense FedAvg",
        "bytes up",
        "bytes down",
        "x fewer",
        "seconds",
        "status",
        "run directory",
    ):
        assert shown in out
    assert "report.html" in out
    progress = [line for line in err.splitlines() if "/2: " in line]
    assert [line.split()[0] for line in progress] == ["AMGT-Fed", "AMGT-Fed", "FedAvg", "FedAvg"]
    assert max(map(len, err.splitlines())) <= 80
    for shown in ("acc", "↑", "↓", "δ"):
        assert shown in progress[0]
    code, again, _ = cli("show", "r")
    assert code == 0
    assert again.strip().splitlines()[2:8] == out.strip().splitlines()[2:8]


def test_version_and_help_are_no_errors_and_no_arguments_get_the_help(cli: Cli) -> None:
    from amgt_fed import __version__

    assert cli("--version") == (0, f"{__version__}\n", "")
    code, out, err = cli("run", "--help")
    assert (code, err) == (0, "")
    assert "--resume" in out
    code, out, err = cli()
    assert code == 2
    assert "doctor" in out + err


def test_every_listing_fits_80_columns(cli: Cli) -> None:
    cli("run", *SMALL, "--json", "--out", "runs/one-with-a-rather-long-name-20260101")
    for arguments in (["list"], ["config"], ["tasks"], ["doctor"]):
        code, out, _ = cli(*arguments)
        assert code == 0, out
        assert max(map(len, out.splitlines())) <= 80
        assert "\x1b" not in out


def test_the_printed_defaults_are_a_valid_file(cli: Cli, tmp_path: Path) -> None:
    code, out, _ = cli("config", "--toml")
    assert code == 0
    (tmp_path / "defaults.toml").write_text(out, encoding="utf-8")
    code, out, _ = cli("config", "--check", "defaults.toml")
    assert (code, out) == (0, "defaults.toml: valid\n")


def test_doctor_finds_this_machine_fit_and_says_so_as_json(cli: Cli) -> None:
    code, out, _ = cli("doctor", "--json")
    assert code == 0
    findings = {finding["check"]: finding for finding in json.loads(out)}
    assert {"Python", "torch", "flwr", "ports", "GPU", "data: digits", "engine local"} <= findings.keys()
    code, out, _ = cli("doctor", "--data-dir", "/nowhere")
    assert code == 2
    assert "/nowhere does not exist" in " ".join(out.split())


def test_the_installed_command_behaves_alike(tmp_path: Path) -> None:
    command = Path(sys.executable).parent / "amgt-fed"
    done = subprocess.run(
        [str(command), "run", "--task", "digitz"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: unknown task 'digitz'; did you mean 'digits'?")
    assert done.stderr.count("\n") == 1
