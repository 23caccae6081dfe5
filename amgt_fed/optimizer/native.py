"""The fused step: kernel.c, compiled by the machine's own C compiler when first asked for."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

from amgt_fed.optimizer.errors import FusedStepUnavailable
from amgt_fed.optimizer.rule import Rule
from amgt_fed.optimizer.slots import Slot

_BASE = ("-O3", "-fno-math-errno", "-fno-trapping-math", "-shared", "-fPIC")
# Tried in this order: not every compiler knows OpenMP, or the name of the machine it runs on.
_TUNINGS = (("-march=native", "-fopenmp"), ("-mcpu=native", "-fopenmp"), ("-fopenmp",), ("-march=native",), ())
_BLOCK = 1 << 14  # of kernel.c
_TAKEN = (torch.float32, torch.float64)

_NUMBERS = (
    *("lr", "lr_factor", "lr_decay", "mu", "t0", "beta1", "beta2", "eps", "gamma", "kappa", "theta"),
    *("weight_decay", "sign", "coupled"),
)
_SWITCHES = ("relative_variance", "relative_threshold", "exact", "preconditioned", "threshold_steps")


class _RuleFields(ctypes.Structure):
    _fields_ = [  # rule_t of kernel.c
        *((name, ctypes.c_double) for name in _NUMBERS),
        *((name, ctypes.c_int64) for name in _SWITCHES),
    ]


@cache
def kernel() -> ctypes.CDLL:
    """Compile and load the kernel, once per process.

    Raises:
        FusedStepUnavailable: there is no C compiler, it refuses the source, or its result cannot be loaded.
    """
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        raise FusedStepUnavailable(
            "fused=True needs a C compiler (cc, gcc or clang) on the path; without one, fused=None"
        )
    source = Path(__file__).with_name("kernel.c")
    # The library stays mapped after its file is gone, so nothing is left behind that could be stale or tampered with.
    with TemporaryDirectory(prefix="amgt-kernel-") as directory:
        target = Path(directory) / "kernel.so"
        for tuning in _TUNINGS:
            command = [compiler, *_BASE, *tuning, str(source), "-o", str(target), "-lm"]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode == 0:
                break
        else:
            raise FusedStepUnavailable(f"{compiler} cannot compile {source.name}: {done.stderr.strip()[-500:]}")
        try:
            library = ctypes.CDLL(str(target))
        except OSError as error:  # the temporary directory may forbid execution
            raise FusedStepUnavailable(
                f"the compiled step cannot be loaded: {error}; set TMPDIR, or fused=None"
            ) from error
    library.amgt_check.restype = library.amgt_step.restype = ctypes.c_int64
    return library


def takes(slot: Slot) -> bool:
    """Tell whether the kernel can step this tensor: float32 or float64 on the CPU, memory in one piece, same order."""
    param, grad, m, v, peak = slot.param, slot.grad, slot.exp_avg, slot.exp_avg_sq, slot.max_exp_avg_sq
    # Written out, not looped: this runs once per tensor and step.
    return (
        param.is_cpu
        and grad.is_cpu
        and slot.step.is_cpu
        and param.dtype in _TAKEN
        and grad.dtype is m.dtype is v.dtype is param.dtype
        and (
            (param.is_contiguous() and grad.is_contiguous() and m.is_contiguous() and v.is_contiguous())
            or (_dense(param) and grad.stride() == m.stride() == v.stride() == param.stride())
        )
        and (peak is None or (peak.dtype is param.dtype and peak.stride() == v.stride()))
    )


def _dense(tensor: torch.Tensor) -> bool:
    return bool(torch.ops.aten.is_non_overlapping_and_dense(tensor))


class FusedGroup:
    """One group's tensors for one step: `check` first, then `step`."""

    def __init__(self, slots: list[Slot], rule: Rule) -> None:
        self._kernel = kernel()
        self._slots = slots
        rows = [
            (
                slot.param.data_ptr(),
                slot.grad.data_ptr(),
                slot.exp_avg.data_ptr(),
                slot.exp_avg_sq.data_ptr(),
                0 if slot.max_exp_avg_sq is None else slot.max_exp_avg_sq.data_ptr(),
                slot.step.data_ptr(),
                slot.beta1_product.data_ptr(),
                slot.param.numel(),
                slot.param.dtype == torch.float64,
            )
            for slot in slots
        ]
        self._tensors = np.array(rows, dtype=np.int64).reshape(len(slots), 9)
        largest = max((slot.param.numel() for slot in slots), default=0)
        self._sums = np.zeros(2 * len(slots))
        self._partial = np.empty(2 * (largest // _BLOCK + 1))
        self._rule = _RuleFields(
            lr=rule.lr,
            lr_factor=rule.lr_factor,
            lr_decay=rule.lr_decay,
            mu=rule.mu or 0.0,
            t0=rule.t0,
            beta1=rule.beta1,
            beta2=rule.beta2,
            eps=rule.eps,
            gamma=rule.gamma,
            kappa=rule.kappa,
            theta=rule.theta,
            weight_decay=rule.weight_decay if rule.decoupled else 0.0,
            sign=-1.0 if rule.maximize else 1.0,
            coupled=0.0 if rule.decoupled else rule.weight_decay,
            relative_variance=rule.relative_variance,
            relative_threshold=rule.relative_threshold,
            exact=rule.exact_threshold,
            preconditioned=rule.preconditioned,
            threshold_steps=rule.threshold_steps,
        )
        self._arguments = (
            ctypes.c_void_p(self._tensors.ctypes.data),
            ctypes.c_int64(len(slots)),
            ctypes.byref(self._rule),
            ctypes.c_int64(torch.get_num_threads()),
            ctypes.c_void_p(self._sums.ctypes.data),
            ctypes.c_void_p(self._partial.ctypes.data),
        )

    def check(self) -> Slot | None:
        """Give the first slot whose gradient, or its square, is not finite; changes nothing."""
        found = int(self._kernel.amgt_check(*self._arguments))
        return None if found < 0 else self._slots[found]

    def step(self) -> float:
        """Step every tensor and give the squared threshold error.

        Raises:
            MemoryError: there was no room to sort the entries at the threshold.
        """
        error = ctypes.c_double(0.0)
        if self._kernel.amgt_step(*self._arguments, ctypes.byref(error)):
            raise MemoryError("no memory left to select the entries to drop")
        # The kernel wrote behind autograd's back; a graph that still needs the old values must notice.
        torch.autograd.graph.increment_version([slot.param for slot in self._slots])
        return error.value
