"""A file, a checkpoint and a client's state are old or new, wherever the process dies and whenever the disk is full."""

from __future__ import annotations

import errno
import itertools
import os
import random
import signal
import subprocess
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from amgt_fed.errors import StateError
from amgt_fed.federated.client import ClientState
from amgt_fed.federated.messages import ClientUpdate, StepRecord
from amgt_fed.federated.state import ClientRecord, ServerState
from amgt_fed.runs import Checkpoint, load_checkpoint, save_checkpoint
from amgt_fed.runs.files import write_atomically
from clients.store import ClientStore

SIZE = 200_000  # large enough that a kill hits the middle of a write now and then


def checkpoint(round: int, size: int = 50, salt: int = 0) -> Checkpoint:
    rng = np.random.default_rng([round, salt])
    state = ServerState(
        run=2**62 + 1,
        round=round,
        model=rng.standard_normal(size).astype(np.float32),
        residual=rng.standard_normal(size).astype(np.float32),
        optimizer={"exp_avg": rng.standard_normal(size).astype(np.float32), "step": np.array(3.0, np.float64)},
        steps=(StepRecord(round - 1, rng.bytes(7)), StepRecord(round, b"")),
        clients={0: ClientRecord(round, round - 1), 11: ClientRecord(0, 0)},
    )
    return Checkpoint(state, b"8 bytes.", {"loss": 0.1 + round, "marks": [1, None]}, 10, 20, 3, 1.5, "why")


def client_state(round: int, size: int = 50) -> ClientState:
    rng = np.random.default_rng(round)
    sent = ClientUpdate(round, rng.bytes(9), 17, 0.1, 0.2, 0.3, 2.5, {"accuracy": 1 / 3})
    vectors = [rng.standard_normal(size).astype(np.float32) for _ in range(2)]
    return ClientState(2**62 + 1, round, vectors[0], vectors[1], sent, b"8 bytes.")


def assert_same_checkpoint(one: Checkpoint, two: Checkpoint) -> None:
    assert one.state.model.tobytes() == two.state.model.tobytes()
    assert one.state.residual is not None
    assert two.state.residual is not None
    assert one.state.residual.tobytes() == two.state.residual.tobytes()
    assert one.state.optimizer.keys() == two.state.optimizer.keys()
    for name, value in one.state.optimizer.items():
        other = two.state.optimizer[name]
        assert (value.dtype, value.shape, value.tobytes()) == (other.dtype, other.shape, other.tobytes())
    for name in ("run", "round", "steps", "clients"):
        assert getattr(one.state, name) == getattr(two.state, name)
    for name in ("layout_digest", "tracker", "uplink_bytes", "downlink_bytes", "failures", "elapsed_s", "stopped"):
        assert getattr(one, name) == getattr(two, name)


def assert_same_client(one: ClientState, two: ClientState | None) -> None:
    assert two is not None
    assert (one.run, one.round, one.sent, one.sent_base) == (two.run, two.round, two.sent, two.sent_base)
    assert one.model.tobytes() == two.model.tobytes()
    assert (one.residual is None) == (two.residual is None)
    if one.residual is not None and two.residual is not None:
        assert one.residual.tobytes() == two.residual.tobytes()


def test_a_checkpoint_comes_back_bit_for_bit(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "checkpoint", checkpoint(5))
    loaded = load_checkpoint(tmp_path / "checkpoint")
    assert loaded is not None
    assert_same_checkpoint(loaded, checkpoint(5))


def test_there_is_none_before_the_first_and_one_file_pair_after_many(tmp_path: Path) -> None:
    assert load_checkpoint(tmp_path) is None
    (tmp_path / "round-00000001-abc.safetensors.tmp").write_bytes(b"cut off by a kill")
    for round in range(1, 6):
        save_checkpoint(tmp_path, checkpoint(round))
    names = sorted(path.name for path in tmp_path.iterdir())
    assert len(names) == 2
    assert names[0].startswith("round-00000005-")
    assert names[1] == "state.json"


def test_a_clients_state_comes_back_bit_for_bit_and_of_another_run_not_at_all(tmp_path: Path) -> None:
    store = ClientStore(tmp_path / "client", durable=True)
    assert store.load(7) is None
    for state in (client_state(3), ClientState(7, 1, np.zeros(4, np.float32))):
        store.save(state)
        assert_same_client(state, store.load(state.run))
        assert store.load(state.run + 1) is None


# ---- SIGKILL at any instant


def write_checkpoints(folder: Path) -> None:
    for salt in itertools.count(time.monotonic_ns() % 1000):
        # The same round twice over, as a resumed run does: neither may spoil the other.
        save_checkpoint(folder, checkpoint(2 + salt // 2 % 3, SIZE, salt))


def write_client_states(folder: Path) -> None:
    store = ClientStore(folder, durable=False)
    for round in itertools.count(time.monotonic_ns() % 1000):
        store.save(client_state(1 + round % 5, SIZE))


def kill_while(function: Callable[[Path], None], folder: Path, times: int, check: Callable[[], None]) -> None:
    """SIGKILL a process that writes without pause, `times` times, each at another instant."""
    rng = random.Random(1)
    for _ in range(times):
        with warnings.catch_warnings():  # a fork of a process with threads: this child uses none of theirs
            warnings.simplefilter("ignore", DeprecationWarning)
            child = os.fork()
        if child == 0:
            try:
                function(folder)
            finally:
                os._exit(1)
        time.sleep(rng.uniform(0.0, 0.12))
        os.kill(child, signal.SIGKILL)
        assert os.waitpid(child, 0)[1] == signal.SIGKILL
        check()


def test_a_kill_at_any_instant_leaves_a_whole_checkpoint(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, checkpoint(2, SIZE, 0))
    seen: set[tuple[int, bytes]] = set()

    def check() -> None:
        loaded = load_checkpoint(tmp_path)
        assert loaded is not None
        assert loaded.state.model.shape == (SIZE,)
        seen.add((loaded.state.round, loaded.state.model[:2].tobytes()))

    kill_while(write_checkpoints, tmp_path, 20, check)
    assert len(seen) > 1  # the kills did hit a process that was writing


def test_a_kill_at_any_instant_leaves_a_whole_client_state(tmp_path: Path) -> None:
    store = ClientStore(tmp_path, durable=False)
    store.save(client_state(1, SIZE))
    seen: set[int] = set()

    def check() -> None:
        loaded = store.load(2**62 + 1)
        assert loaded is not None
        assert_same_client(client_state(loaded.round, SIZE), loaded)
        seen.add(loaded.round)

    kill_while(write_client_states, tmp_path, 20, check)
    assert len(seen) > 1


# ---- a full disk


class FullDisk:
    """`os.fsync`, or a file's write, of a disk that is full."""

    def __init__(self) -> None:
        self.left = 0

    def __call__(self, _: int) -> None:
        if self.left == 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.left -= 1


@pytest.mark.parametrize("after", [0, 1, 2])
def test_a_full_disk_leaves_the_checkpoint_before_in_force(
    after: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_checkpoint(tmp_path, checkpoint(1))
    disk = FullDisk()
    disk.left = after
    monkeypatch.setattr("amgt_fed.runs.files.os.fsync", disk)
    with pytest.raises(OSError, match="No space left"):
        save_checkpoint(tmp_path, checkpoint(2))
    monkeypatch.undo()
    loaded = load_checkpoint(tmp_path)
    assert loaded is not None
    assert_same_checkpoint(loaded, checkpoint(1))
    assert not list(tmp_path.glob("*.tmp"))
    save_checkpoint(tmp_path, checkpoint(2))
    again = load_checkpoint(tmp_path)
    assert again is not None
    assert again.state.round == 2


def test_a_full_disk_leaves_the_clients_state_before_in_force(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = ClientStore(tmp_path, durable=True)
    store.save(client_state(1))
    monkeypatch.setattr("clients.store.os.fsync", FullDisk())
    with pytest.raises(OSError, match="No space left"):
        store.save(client_state(2))
    monkeypatch.undo()
    assert_same_client(client_state(1), store.load(2**62 + 1))
    assert [path.name for path in tmp_path.iterdir()] == ["state.safetensors"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a small file system")
def test_a_disk_that_is_really_full_leaves_the_checkpoint_before_in_force(tmp_path: Path) -> None:
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(tmp_path)], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip(f"no small file system to be had: {mounted.stderr.decode().strip()}")
    try:
        save_checkpoint(tmp_path, checkpoint(1, 100_000))  # 1.2 MB
        with pytest.raises(OSError, match="No space left"):
            save_checkpoint(tmp_path, checkpoint(2, 250_000))
        loaded = load_checkpoint(tmp_path)
        assert loaded is not None
        assert_same_checkpoint(loaded, checkpoint(1, 100_000))
        store = ClientStore(tmp_path / "client", durable=False)
        store.save(client_state(1, 50_000))
        with pytest.raises(OSError, match="No space left"):
            store.save(client_state(2, 400_000))
        assert_same_client(client_state(1, 50_000), store.load(2**62 + 1))
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


# ---- damage


def test_a_flipped_bit_anywhere_in_a_checkpoint_is_found(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, checkpoint(4))
    tensors = next(tmp_path.glob("*.safetensors"))
    whole = tensors.read_bytes()
    for place in range(0, len(whole), 13):
        damaged = bytearray(whole)
        damaged[place] ^= 4
        tensors.write_bytes(damaged)
        with pytest.raises(StateError, match="damaged"):
            load_checkpoint(tmp_path)


@pytest.mark.parametrize("cut", [0.0, 0.3, 0.99])
def test_a_checkpoint_cut_short_is_an_error_and_not_a_traceback(cut: float, tmp_path: Path) -> None:
    for name in ("state.json", "tensors"):
        folder = tmp_path / name
        save_checkpoint(folder, checkpoint(4))
        path = folder / name if name == "state.json" else next(folder.glob("*.safetensors"))
        path.write_bytes(path.read_bytes()[: int(cut * path.stat().st_size)])
        with pytest.raises(StateError):
            load_checkpoint(folder)
    next((tmp_path / "tensors").glob("*.safetensors")).unlink()
    with pytest.raises(StateError, match="cannot be read"):
        load_checkpoint(tmp_path / "tensors")


@pytest.mark.parametrize("text", ["[]", "5", "null", "{}", '{"format": "amgt-checkpoint-9"}', '{"format": null}'])
def test_json_that_is_no_checkpoint_is_an_error(text: str, tmp_path: Path) -> None:
    (tmp_path / "state.json").write_text(text, encoding="utf-8")
    with pytest.raises(StateError):
        load_checkpoint(tmp_path)


def test_a_flipped_bit_anywhere_in_a_clients_state_counts_as_no_state(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = ClientStore(tmp_path, durable=False)
    store.save(client_state(4))
    path = tmp_path / "state.safetensors"
    whole = path.read_bytes()
    for place in range(0, len(whole), 7):
        damaged = bytearray(whole)
        damaged[place] ^= 1
        path.write_bytes(damaged)
        found = store.load(2**62 + 1)
        if found is not None:  # a bit that means nothing, in the padding say
            assert_same_client(client_state(4), found)
    assert "starting without it" in caplog.text
    for length in range(0, len(whole), 11):
        path.write_bytes(whole[:length])
        assert store.load(2**62 + 1) is None


def test_writing_in_a_folder_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        write_atomically(tmp_path / "absent" / "file", b"")
