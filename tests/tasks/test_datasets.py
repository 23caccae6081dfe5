"""Files of the data directory: missing, damaged, right."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from amgt_fed.tasks import TaskSettings, load_task
from amgt_fed.tasks.datasets import SHA256, DataError, data_file, read_idx, read_npz

HEART = "heart_disease/heart_disease.npz"
REAL = ["beijing-air", "fashion-mnist", "har", "heart-disease", "mnist", "shakespeare"]


@pytest.mark.parametrize("task", REAL)
def test_without_a_directory_the_error_names_both_ways_to_give_one(task: str) -> None:
    with pytest.raises(DataError, match=r"\w+/[\w-]+.* is needed.*--data-dir.*AMGT_DATA"):
        load_task(task, TaskSettings()).train_data()


@pytest.mark.parametrize("task", REAL)
def test_a_missing_file_is_named_with_its_place(task: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"{tmp_path}/.* is missing; put it there"):
        load_task(task, TaskSettings(data_dir=tmp_path)).train_data()


def test_a_damaged_copy_is_refused_even_after_a_good_one_was_read(data_dir: Path, tmp_path: Path) -> None:
    copy = tmp_path / HEART
    copy.parent.mkdir()
    shutil.copyfile(data_dir / HEART, copy)
    assert read_npz(tmp_path, HEART)["X"].shape == (920, 13)
    content = bytearray(copy.read_bytes())
    content[-40] ^= 1
    copy.write_bytes(content)
    with pytest.raises(DataError, match="is damaged"):
        data_file(tmp_path, HEART)


@pytest.mark.parametrize("name", sorted(SHA256))
def test_every_file_is_the_one_the_table_says(name: str, data_dir: Path) -> None:
    assert data_file(data_dir, name).is_file()


def test_idx_files_have_the_shape_of_their_header(data_dir: Path) -> None:
    labels = read_idx(data_dir, "mnist/t10k-labels-idx1-ubyte.gz")
    assert labels.shape == (10_000,)
    assert np.bincount(labels).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert read_idx(data_dir, "mnist/t10k-images-idx3-ubyte.gz").shape == (10_000, 28, 28)
