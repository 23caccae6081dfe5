"""Find a file of the data directory, check its hash, read it."""

from __future__ import annotations

import gzip
import hashlib
import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from amgt_fed.errors import TaskError

SHA256 = {
    "beijing_air/beijing_air.npz": "008ce173f545e466e7cd292beea13fba60450f532f614135bd7b9b48b4c24223",
    "fashion_mnist/t10k-images-idx3-ubyte.gz": "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
    "fashion_mnist/t10k-labels-idx1-ubyte.gz": "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
    "fashion_mnist/train-images-idx3-ubyte.gz": "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
    "fashion_mnist/train-labels-idx1-ubyte.gz": "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
    "har/har_features.npz": "8529c53ecff5bcd389656aeafaf32943340b38cecf3162a8b1533908f69a63ba",
    "har/har_windows.npz": "11d3b25b3603b65bbbe0411ec5f4ba9ff1b1d754078b0402f1f8b88cbac05765",
    "heart_disease/heart_disease.npz": "fa8aa40e5cc8be5b41d40558fdaba7fbdbf63dbc3ac1c0a6949f8833ec82ff75",
    "mnist/t10k-images-idx3-ubyte.gz": "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
    "mnist/t10k-labels-idx1-ubyte.gz": "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
    "mnist/train-images-idx3-ubyte.gz": "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
    "mnist/train-labels-idx1-ubyte.gz": "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
    "shakespeare/shakespeare_by_role.npz": "a5f91ed68ac3ab4fec4387df968d210997e8a52813a8a8f99124ab87cf904211",
}
"""Every file of the data directory, by its path in it."""

_checked: dict[Path, tuple[int, int]] = {}


class DataError(TaskError):
    """A data file that is missing, or whose content is not the expected one."""


def data_file(folder: Path | None, name: str) -> Path:
    """The path of a data file whose sha256 is the one in `SHA256`.

    A file is hashed once per process, and again once its size or time of change differs.

    Args:
        folder: the data directory; None where the user named none.
        name: a key of `SHA256`.

    Raises:
        DataError: no directory, no such file, or another content.
    """
    if folder is None:
        raise DataError(f"{name} is needed; name the directory that holds it with --data-dir, or set AMGT_DATA")
    path = Path(folder) / name
    if not path.is_file():
        raise DataError(f"{path} is missing; put it there, or name another directory with --data-dir or AMGT_DATA")
    state = path.stat()
    stamp = (state.st_size, state.st_mtime_ns)
    key = path.resolve()
    if _checked.get(key) != stamp:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != SHA256[name]:
            raise DataError(f"{path} is damaged: its sha256 is {found}, not {SHA256[name]}; put a fresh copy there")
        _checked[key] = stamp
    return path


def read_npz(folder: Path | None, name: str) -> dict[str, NDArray[Any]]:
    """All arrays of an .npz file, by name.

    Raises:
        DataError: see `data_file`.
    """
    with np.load(data_file(folder, name), allow_pickle=False) as arrays:
        return dict(arrays)


def read_idx(folder: Path | None, name: str) -> NDArray[np.uint8]:
    """The bytes of a gzipped idx file, in the shape its header gives.

    Raises:
        DataError: see `data_file`.
    """
    content = gzip.decompress(data_file(folder, name).read_bytes())
    dimensions = content[3]  # two zero bytes, the type (8: unsigned bytes), the number of dimensions
    shape = np.frombuffer(content, ">u4", dimensions, 4).astype(int)
    return np.frombuffer(content, np.uint8, math.prod(shape), 4 + 4 * dimensions).reshape(shape).copy()
