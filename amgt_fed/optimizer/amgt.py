"""AMGT as a torch optimizer: groups, state, checkpoints. The mathematics is in step.py."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Literal, overload

import torch
from torch import Tensor
from torch.optim import Optimizer

from amgt_fed.optimizer.errors import NonFiniteGradient, UnsupportedTensor
from amgt_fed.optimizer.functional import step_functional
from amgt_fed.optimizer.rule import Rule
from amgt_fed.optimizer.settings import check_settings
from amgt_fed.optimizer.step import Slot, step_slots

_HALF = (torch.float16, torch.bfloat16)


class AMGT(Optimizer):
    """Adaptive moments whose memory shortens with the noise, thresholded within a shrinking error budget.

    Takes the place of `torch.optim.Adam`; the update is written out in docs/optimizer.md.

    Args:
        params: tensors or parameter groups; a group may override every setting below.
        lr: eta_0 of (10). With `mu` the step size does not depend on it: only the factor by which an lr_scheduler
            has changed it counts.
        betas: b1 of the gradient's mean before (9) scales it, b2 of its square; each in [0, 1).
        eps: inside the square root, as in (7); in units of a squared gradient.
        gamma: >= 0, how strongly noise shortens the memory, (9); 0 keeps b1 fixed.
        kappa: in [0, 1], pull of the corrected mean towards the present gradient, (2), D3.
        lr_decay: >= 0, eta_t = lr / (1 + lr_decay (t - 1)), (10).
        mu: strong convexity; step size alpha_t = 1 / (mu (t + t0)), (13), in place of (10).
        t0: >= 0, only with `mu`; ceil(L / mu) - 1 keeps every step <= 1 / L (D4).
        threshold: theta >= 0 of the budget (27); 0 switches the threshold off.
        threshold_mode: "relative": delta_t = theta ||m_hat|| / t; "absolute": delta_t = theta / t.
        variance: "relative": the noise fraction in [0, 1] (D1); "absolute": the paper's mean variance.
        preconditioned: divide by sqrt(v_hat + eps), (7); False is the plain form (14) of the proofs.
        weight_decay: >= 0; decoupled unless `decoupled_weight_decay=False` adds it to the gradient.
        amsgrad: divide by the running maximum of the second moment; a third tensor of state.
        maximize: ascend.
        foreach: step many small tensors in one call; None: chosen by device.
        capturable: keep every scalar on the device, for CUDA graphs. In a captured or compiled step a non-finite
            gradient is skipped: nothing can be raised from there.
        differentiable: let autograd record the step.
        nonfinite: on a NaN or infinite gradient, "raise" `NonFiniteGradient` or "skip" the whole step; either way
            before anything is changed.
        threshold_rule: "exact" drops the most entries the budget allows; "sufficient" is the cheaper rule that may
            leave budget unspent.

    Raises:
        InvalidHyperparameter: (a ValueError) a setting is out of range.
        UnsupportedTensor: a parameter is complex or not floating point.

    Source: Laisin et al. (2025), doi 10.63561/jca.v2i4.1069, as read in docs/optimizer.md.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]] | Iterable[tuple[str, Tensor]],
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        *,
        gamma: float = 0.1,
        kappa: float = 0.0,
        lr_decay: float = 0.0,
        mu: float | None = None,
        t0: float = 0.0,
        threshold: float = 0.0,
        threshold_mode: Literal["relative", "absolute"] = "relative",
        variance: Literal["relative", "absolute"] = "relative",
        preconditioned: bool = True,
        weight_decay: float = 0.0,
        decoupled_weight_decay: bool = True,
        amsgrad: bool = False,
        maximize: bool = False,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        nonfinite: Literal["raise", "skip"] = "raise",
        threshold_rule: Literal["exact", "sufficient"] = "exact",
    ) -> None:
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "gamma": gamma,
            "kappa": kappa,
            "lr_decay": lr_decay,
            "mu": mu,
            "t0": t0,
            "threshold": threshold,
            "threshold_mode": threshold_mode,
            "threshold_rule": threshold_rule,
            "variance": variance,
            "preconditioned": preconditioned,
            "weight_decay": weight_decay,
            "decoupled_weight_decay": decoupled_weight_decay,
            "amsgrad": amsgrad,
            "maximize": maximize,
            "foreach": foreach,
            "capturable": capturable,
            "differentiable": differentiable,
            "fused": fused,
            "nonfinite": nonfinite,
        }
        check_settings(defaults)
        self._threshold_errors: dict[int, float | Tensor] = {}
        self.skipped_steps = 0
        super().__init__(params, defaults)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group; settings it leaves out are the optimizer's own.

        Raises:
            InvalidHyperparameter: a setting is out of range.
            UnsupportedTensor: a parameter is complex or not floating point.
        """
        check_settings({**self.defaults, **param_group})
        super().add_param_group(param_group)
        for index, param in enumerate(self.param_groups[-1]["params"]):
            if not param.is_floating_point():
                del self.param_groups[-1]
                kind = "complex" if param.is_complex() else "not floating point"
                advice = "; pass torch.view_as_real of it instead" if param.is_complex() else ""
                raise UnsupportedTensor(f"parameter {index} of the group is {kind} ({param.dtype}){advice}")

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Step every parameter that has a gradient.

        Args:
            closure: recomputes the loss and its gradients; called once, with autograd on.

        Returns:
            What the closure returned.

        Raises:
            NonFiniteGradient: with nonfinite="raise"; no parameter and no state was changed.
            UnsupportedTensor: a gradient is sparse.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        work = [(index, group, self._slots(group)) for index, group in enumerate(self.param_groups)]
        on_device = torch.compiler.is_compiling() or any(g["capturable"] or g["differentiable"] for _, g, _ in work)
        if on_device:
            self._step_on_device(work)
        elif self._gradients_are_finite(work):
            for index, group, slots in work:
                rule = Rule.of(group)
                squared = sum(
                    step_slots(part, rule, foreach=group["foreach"] is not False) for part in _by_device(slots)
                )
                self._threshold_errors[index] = squared**0.5
        return loss

    def threshold_error(self) -> list[float]:
        """Give the measured ||T(m_hat) - m_hat||_2 of the last step, one number per parameter group.

        The norm runs over all tensors of the group; 0.0 before the first step and where the threshold is off.
        """
        return [float(self._threshold_errors.get(index, 0.0)) for index in range(len(self.param_groups))]

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a checkpoint; training goes on with the same bits.

        Raises:
            InvalidHyperparameter: a setting in it is out of range.
            ValueError: its groups do not match the optimizer's.
        """
        defaults = self.defaults
        for group in state_dict["param_groups"]:
            check_settings({**defaults, **group})
        super().load_state_dict(state_dict)
        # The base class casts every state tensor to the parameter's dtype, which would round the float32 moments of a
        # half-precision parameter and the float64 product of the b1_t.
        saved = state_dict["state"]
        for group, old in zip(self.param_groups, state_dict["param_groups"], strict=True):
            for param, key in zip(group["params"], old["params"], strict=True):
                for name, value in saved.get(key, {}).items():
                    if isinstance(value, Tensor):
                        self.state[param][name] = value.detach().clone().to(self._home(name, param, group))
        self._threshold_errors = {}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._threshold_errors = {}
        self.skipped_steps = 0
        for group in self.param_groups:
            for name, value in self.defaults.items():
                group.setdefault(name, value)

    def _slots(self, group: dict[str, Any]) -> list[Slot]:
        slots = []
        for index, param in enumerate(group["params"]):
            if param.grad is None:
                continue
            if param.grad.is_sparse or param.grad.layout != torch.strided:
                raise UnsupportedTensor(
                    f"parameter {index} of shape {tuple(param.shape)} has a sparse gradient; AMGT needs dense ones "
                    "(for an embedding: sparse=False)"
                )
            state = self.state[param]
            if not state:
                self._init_state(state, param, group)
            if group["amsgrad"] and "max_exp_avg_sq" not in state:
                state["max_exp_avg_sq"] = state["exp_avg_sq"].clone()
            slots.append(
                Slot(
                    param,
                    param.grad,
                    state["exp_avg"],
                    state["exp_avg_sq"],
                    state["max_exp_avg_sq"] if group["amsgrad"] else None,
                    state["step"],
                    state["beta1_product"],
                )
            )
        return slots

    def _init_state(self, state: dict[str, Any], param: Tensor, group: dict[str, Any]) -> None:
        # Squares of half-precision gradients leave that type's range, so their moments are kept in float32.
        dtype = torch.float32 if param.dtype in _HALF else param.dtype
        zeros = torch.zeros_like(param, dtype=dtype, memory_format=torch.preserve_format)
        state["step"] = torch.zeros((), dtype=torch.float32, device=self._home("step", param, group))
        state["beta1_product"] = torch.ones((), dtype=torch.float64, device=self._home("beta1_product", param, group))
        state["exp_avg"] = zeros
        state["exp_avg_sq"] = torch.zeros_like(zeros)
        if group["amsgrad"]:
            state["max_exp_avg_sq"] = torch.zeros_like(zeros)

    @staticmethod
    def _home(name: str, param: Tensor, group: dict[str, Any]) -> torch.device:
        on_host = name in ("step", "beta1_product") and not group["capturable"]
        return torch.device("cpu") if on_host else param.device

    def _gradients_are_finite(self, work: list[tuple[int, dict[str, Any], list[Slot]]]) -> bool:
        """Look at every gradient before anything is changed, so that a bad one cannot poison the state."""
        for index, group, slots in work:
            for slot in slots:
                if slot.grad.numel() == 0 or _square_is_finite(slot):
                    continue
                if group["nonfinite"] == "skip":
                    self.skipped_steps += 1
                    return False
                raise NonFiniteGradient(
                    f"the gradient of a parameter of shape {tuple(slot.param.shape)} in group {index} holds NaN or an "
                    'infinity, or its square overflows; nothing was changed. nonfinite="skip" passes over such steps'
                )
        return True

    def _step_on_device(self, work: list[tuple[int, dict[str, Any], list[Slot]]]) -> None:
        everything = [slot for _, _, slots in work for slot in slots]
        if not everything:
            return
        finite = torch.stack(
            [
                torch.isfinite(slot.grad.detach().to(slot.exp_avg.dtype).square()).all().to(everything[0].param.device)
                for slot in everything
            ]
        ).all()
        if not torch.compiler.is_compiling() and not self._capturing(everything) and not bool(finite):
            self._gradients_are_finite(work)
            return
        for index, group, slots in work:
            error: Tensor | float = 0.0
            for slot in slots:
                with torch.set_grad_enabled(group["differentiable"]):
                    new, squared = step_functional(slot, group, finite.to(slot.param.device))
                    self._store(slot, new, group)
                error = error + squared
            self._threshold_errors[index] = error**0.5

    def _store(self, slot: Slot, new: Slot, group: dict[str, Any]) -> None:
        if group["differentiable"]:
            state = self.state[slot.param]
            for name in ("step", "beta1_product", "exp_avg", "exp_avg_sq", "max_exp_avg_sq"):
                if getattr(new, name) is not None:
                    state[name] = getattr(new, name)
            slot.param.copy_(new.param)
            return
        slot.param.copy_(new.param)
        slot.exp_avg.copy_(new.exp_avg)
        slot.exp_avg_sq.copy_(new.exp_avg_sq)
        slot.step.copy_(new.step)
        slot.beta1_product.copy_(new.beta1_product)
        if slot.max_exp_avg_sq is not None and new.max_exp_avg_sq is not None:
            slot.max_exp_avg_sq.copy_(new.max_exp_avg_sq)

    @staticmethod
    def _capturing(slots: list[Slot]) -> bool:
        return slots[0].param.is_cuda and torch.cuda.is_current_stream_capturing()


def _by_device(slots: list[Slot]) -> list[list[Slot]]:
    parts: dict[tuple[torch.device, torch.dtype], list[Slot]] = {}
    for slot in slots:
        parts.setdefault((slot.param.device, slot.exp_avg.dtype), []).append(slot)
    return list(parts.values())


def _square_is_finite(slot: Slot) -> bool:
    dtype = slot.exp_avg.dtype
    norm = float(torch.linalg.vector_norm(slot.grad.to(dtype)))
    if norm * norm <= torch.finfo(dtype).max:
        return True
    peak = torch.linalg.vector_norm(slot.grad.to(dtype), ord=torch.inf)
    return bool(torch.isfinite(peak * peak))
