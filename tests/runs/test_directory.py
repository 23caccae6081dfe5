"""The run directory: what was promised is written, cut lines are passed over, one process at a time."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from amgt_fed.config import RunConfig, to_toml
from amgt_fed.errors import StateError
from amgt_fed.runs import RoundRecord, RunDirectory, RunSummary, bytes_to_reach
from amgt_fed.runs.environment import versions
from amgt_fed.runs.report import write_report
from amgt_fed.runs.table import comparison, human_bytes
from amgt_fed.runs.watch import watching


def record(round: int, accuracy: float | None = 0.5, **changes: object) -> RoundRecord:
    made = RoundRecord(
        round=round,
        loss=None if accuracy is None else 1.0 / round,
        metrics={} if accuracy is None else {"accuracy": accuracy},
        train_loss=0.9,
        uplink_bytes=100,
        downlink_bytes=50,
        update_norm=1.0,
        step_norm=0.9,
        delta=0.1,
        delta_budget=None,
        drift=0.5,
        residual_norm=0.0,
        num_clients=10,
        failures=0,
        num_examples=700,
        status="improving",
        seconds=0.2,
        elapsed_s=0.2 * round,
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def summary(**changes: object) -> RunSummary:
    made = RunSummary(
        task="digits",
        engine="local",
        seed=0,
        rounds=3,
        seconds=1.0,
        status="improving",
        stopped="",
        metrics={"loss": 0.3, "accuracy": 0.9},
        uplink_bytes=300,
        downlink_bytes=150,
        failures=0,
        model_sha256="ab" * 32,
        parameters=151_306,
        num_clients=20,
        versions=versions(),
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def test_a_round_is_one_line_with_the_promised_keys_on_disk_at_once(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path)
    for round in (1, 2):
        directory.append_round(record(round))
        lines = directory.rounds_path.read_text(encoding="utf-8").splitlines()
        assert len(lines) == round
        keys = set(json.loads(lines[-1]))
        assert keys >= {"round", "loss", "metrics", "uplink_bytes", "downlink_bytes", "update_norm", "delta"}
        assert keys >= {"num_clients", "failures", "seconds"}
    assert directory.rounds() == [record(1), record(2)]


def test_the_summary_has_the_promised_keys_and_comes_back(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path)
    assert directory.summary() is None
    directory.write_summary(summary(baseline={"engine": "local"}))
    keys = set(json.loads(directory.summary_path.read_text(encoding="utf-8")))
    assert keys >= {"engine", "rounds", "seconds", "status", "metrics", "uplink_bytes", "downlink_bytes"}
    assert keys >= {"model_sha256", "baseline"}
    assert directory.summary() == summary(baseline={"engine": "local"})


def test_a_last_line_cut_anywhere_is_passed_over_and_a_resumed_run_continues_on_a_line_of_its_own(
    tmp_path: Path,
) -> None:
    directory = RunDirectory(tmp_path)
    directory.append_round(record(1))
    directory.append_round(record(2))
    whole = directory.rounds_path.read_bytes()
    start = whole.index(b"\n") + 1
    for end in range(start, len(whole) - 1):
        directory.rounds_path.write_bytes(whole[:end])
        assert directory.rounds() == [record(1)]
        if end % 40 == 0:
            directory.cut_rounds(2)
            directory.append_round(record(2, 0.75))
            assert directory.rounds() == [record(1), record(2, 0.75)]
    directory.rounds_path.write_bytes(whole[:-1])  # all but the newline
    assert directory.rounds() == [record(1), record(2)]
    directory.cut_rounds(3)
    directory.append_round(record(3))
    assert [one.round for one in directory.rounds()] == [1, 2, 3]


@pytest.mark.parametrize("line", [b"{", b"5", b"[]", b"null", b'{"round": 1}', b"\xff\xfe", b'"text"'])
def test_a_damaged_line_before_the_end_is_named_by_its_number(line: bytes, tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path)
    directory.append_round(record(1))
    directory.rounds_path.write_bytes(directory.rounds_path.read_bytes() + line + b"\n")
    directory.append_round(record(3))
    with pytest.raises(StateError, match="damaged") as caught:
        directory.rounds()
    assert "rounds.jsonl" in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", "[]", "5", "{}", '{"task": "digits"}'])
def test_a_damaged_summary_is_an_error(text: str, tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path)
    directory.summary_path.write_text(text, encoding="utf-8")
    with pytest.raises(StateError, match=r"summary\.json"):
        directory.summary()


def test_keys_of_a_later_version_are_passed_over(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path)
    directory.append_round(record(1))
    line = json.loads(directory.rounds_path.read_text(encoding="utf-8"))
    directory.rounds_path.write_text(json.dumps({**line, "energy_j": 5}) + "\n", encoding="utf-8")
    assert directory.rounds() == [record(1)]


def test_a_folder_without_configuration_is_no_run_directory(tmp_path: Path) -> None:
    with pytest.raises(StateError, match=r"not a run directory: it has no config\.toml"):
        RunDirectory(tmp_path).config()


HOLDER = """
import sys, time
from pathlib import Path
from amgt_fed.runs.directory import RunDirectory
with RunDirectory(Path(sys.argv[1])).in_use():
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_directory_serves_one_process_until_it_ends_however_it_ends(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True, env=environment
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(StateError, match="in use by another process"), RunDirectory(tmp_path).in_use():
            pass
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        holder.stdout.close() if holder.stdout else None
    with RunDirectory(tmp_path).in_use():
        pass
    with RunDirectory(tmp_path).in_use():
        pass


# ---- following, tables, report


def test_a_watcher_sees_every_round_once_and_none_that_is_half_written(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path)
    directory.append_round(record(1))
    seen: list[int] = []
    with watching(directory, lambda found: seen.append(found.round)):
        directory.append_round(record(2))
        line = json.dumps(json.loads(directory.rounds_path.read_text(encoding="utf-8").splitlines()[1]) | {"round": 3})
        with directory.rounds_path.open("a", encoding="utf-8") as file:
            file.write(line[:50])
            file.flush()
            file.write(line[50:] + "\n")
    assert seen == [1, 2, 3]


def test_what_the_callers_function_raises_reaches_the_caller(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path)
    directory.append_round(record(1))

    def failing(_: RoundRecord) -> None:
        raise LookupError("the caller's own")

    with pytest.raises(LookupError, match="the caller's own"), watching(directory, failing):
        pass


def test_bytes_to_reach_counts_both_ways_up_to_the_round_that_reached_it() -> None:
    rounds = [record(1, 0.5), record(2, None), record(3, 0.95), record(4, 0.9)]
    assert bytes_to_reach(rounds, "accuracy", 0.95) == (3, 450)
    assert bytes_to_reach(rounds, "accuracy", 0.96) is None
    assert bytes_to_reach(rounds, "f1", 0.1) is None


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (999, "999 B"), (1000, "1 kB"), (1_234_567, "1.23 MB"), (5e12, "5 TB")]
)
def test_bytes_are_shown_in_the_unit_that_keeps_them_short(count: float, text: str) -> None:
    assert human_bytes(count) == text


def run_directory(path: Path, accuracy: float, uplink: int) -> RunDirectory:
    directory = RunDirectory(path)
    directory.write_config(to_toml(RunConfig()))
    for round in (1, 2, 3):
        directory.append_round(record(round, accuracy * round / 3, uplink_bytes=uplink))
    metrics = {"loss": 1 / 3, "accuracy": accuracy}
    directory.write_summary(summary(metrics=metrics, uplink_bytes=3 * uplink))
    return directory


def test_the_table_compares_what_was_measured(tmp_path: Path) -> None:
    directory = run_directory(tmp_path, 0.96, 100)
    assert {row.baseline for row in comparison(directory)} == {""}
    run_directory(directory.baseline_path, 0.97, 100_000)
    rows = {row.what: row for row in comparison(directory)}
    assert rows["accuracy, last round"].ours == "96.0 %"
    assert rows["accuracy, last round"].baseline == "97.0 %"
    assert rows["accuracy, last round"].ratio == "-1.0 pt"
    assert rows["bytes up"].ratio == "1,000 x fewer"
    assert rows["bytes to 95 %"].ours == "450 B"
    assert rows["bytes to 95 %"].ratio == "667 x fewer"  # 300,150 / 450


def test_the_report_needs_nothing_else_and_escapes_what_it_shows(tmp_path: Path) -> None:
    directory = run_directory(tmp_path / "a <b> & c", 0.96, 100)
    run_directory(directory.baseline_path, 0.9, 100_000)
    page = write_report(directory).read_text(encoding="utf-8")
    assert "<b>" not in page.split("<body>")[1].replace("</b>", "")
    assert "a &lt;b&gt; &amp; c" in page
    assert "data:image/png;base64," in page
    assert "http://" not in page
    assert "https://" not in page
    assert (directory.path / "overview.png").read_bytes().startswith(b"\x89PNG")
    for shown in ("96.0 %", "1,000 x fewer", "[client]", "abababababababab"):
        assert shown in page


def test_a_run_without_metrics_or_rounds_has_a_report_too(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path)
    assert "0 rounds so far" in write_report(directory).read_text(encoding="utf-8")
    for round in (1, 2):
        directory.append_round(record(round, None, update_norm=0.0, delta=0.0))
    assert "2 rounds so far" in write_report(directory).read_text(encoding="utf-8")


def test_the_centralised_score_and_the_sockets_bytes_stand_beside_the_federations(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path)
    directory.append_round(record(1, link={"socket_uplink_bytes": 900, "socket_downlink_bytes": 600}))
    directory.write_summary(summary(reference={"metric": "accuracy", "value": 0.9861}))
    rows = {row.what: row.ours for row in comparison(directory)}
    assert rows["accuracy without a federation"] == "98.6 %"
    assert rows["bytes on the socket"] == "1.5 kB"
    directory.write_summary(summary(reference={"metric": "rmse", "value": 20.0}))
    assert "accuracy without a federation" not in {row.what for row in comparison(directory)}
