"""C sources compiled by the machine's own compiler, once per process, where there is one."""

from __future__ import annotations

import ctypes
import platform
import shutil
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory

_BASE = ("-O3", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=off", "-shared", "-fPIC")


def compile_library(source: Path) -> ctypes.CDLL | None:
    """Compile one C file for this machine and load it.

    Sums and products are rounded one by one, as written: the machine's vector instructions change the speed, never a
    bit. The library stays mapped after its file is gone, so nothing is left that could be stale or tampered with.

    Args:
        source: a C11 file.

    Returns:
        The library; None where there is no compiler (cc, gcc or clang), it refuses the source, or the directory for
        temporary files forbids execution.
    """
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None or not source.exists():
        return None
    own = "-mcpu=native" if platform.machine() in ("aarch64", "arm64") else "-march=native"
    with TemporaryDirectory(prefix="amgt-kernel-") as directory:
        target = Path(directory) / "kernel.so"
        for tuning in ((own,), ()):  # a compiler need not know the name of the machine it runs on
            command = [compiler, *_BASE, *tuning, str(source), "-o", str(target), "-lm"]
            if subprocess.run(command, capture_output=True, check=False).returncode == 0:
                try:
                    return ctypes.CDLL(str(target))
                except OSError:
                    return None
    return None
