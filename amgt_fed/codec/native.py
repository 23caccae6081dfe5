"""The optional C kernel: the same bits as numpy, several times sooner.

Whether it is there changes nothing but the time, so it is used without being asked for, and a machine without a
compiler is no error. It is compiled when a vector first is large enough to repay that; until then numpy serves.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from pathlib import Path
from threading import Lock, Thread
from typing import Any

import numpy as np
from numpy.typing import NDArray

from amgt_fed.native import compile_library

WORTH_COMPILING = 1 << 16  # elements; below, numpy is done before a compiler has started
_COUNTING = (
    *("amgt_select", "amgt_rans_encode", "amgt_rans_decode", "amgt_pack"),
)  # functions that return a count; the others return nothing

_wanted: ContextVar[bool | None] = ContextVar("amgt_codec_kernel", default=None)
_starting = Lock()
_compiler: Thread | None = None


@cache
def _library() -> ctypes.CDLL | None:
    library = compile_library(Path(__file__).with_name("kernel.c"))
    if library is not None:
        for name in _COUNTING:
            getattr(library, name).restype = ctypes.c_int64
    return library


def _compiled() -> ctypes.CDLL | None:
    """The kernel if it is compiled; if not, this has it compiled beside what goes on, which nobody waits for."""
    global _compiler
    if _compiler is None:
        with _starting:
            if _compiler is None:
                _compiler = Thread(target=_library, name="amgt-codec-kernel")
                _compiler.start()
    return _library() if _library.cache_info().currsize else None


@contextmanager
def use_kernel(wanted: bool) -> Iterator[bool]:
    """Use the kernel for every size, waiting for its compiler, or not at all, within a block.

    Yields:
        Whether it is used: False also where it was wanted and there is no compiler.
    """
    token = _wanted.set(wanted)
    try:
        yield wanted and _library() is not None
    finally:
        _wanted.reset(token)


def kernel_for(size: int) -> ctypes.CDLL | None:
    """The kernel, if it is to be used for so many elements; None: use numpy."""
    wanted = _wanted.get()
    if wanted is not None:
        return _library() if wanted else None
    if size >= WORTH_COMPILING:
        return _compiled()
    return _library() if _library.cache_info().currsize else None


def address(array: NDArray[Any]) -> ctypes.c_void_p:
    """The memory of a contiguous array; the caller keeps the array alive."""
    assert array.flags.c_contiguous
    return ctypes.c_void_p(array.ctypes.data)


def whole(number: int) -> ctypes.c_int64:
    """A C int64."""
    return ctypes.c_int64(number)


def owned(array: NDArray[Any], dtype: Any) -> NDArray[Any]:
    """The array itself, or a contiguous copy of this dtype, for the kernel to read."""
    return np.ascontiguousarray(array, dtype)
