"""AMGT as a torch optimizer: groups, state, checkpoints. The mathematics is in step.py."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Literal, overload

import torch
from torch import Tensor
from torch.optim import Optimizer

from amgt_fed.optimizer import native
from amgt_fed.optimizer.errors import NonFiniteGradient, UnsupportedTensor
from amgt_fed.optimizer.functional import step_functional
from amgt_fed.optimizer.rule import Rule
from amgt_fed.optimizer.settings import check_settings
from amgt_fed.optimizer.slots import Slot, bad_slot, by_device, home, slot_of, store
from amgt_fed.optimizer.step import step_slots


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
        threshold_steps: steps after which a tensor is thresholded no more, delta_t = 0; 0: never.
        threshold_mode: "relative": delta_t = theta ||m_hat|| / t; "absolute": delta_t = theta / t.
        variance: "relative": the noise fraction in [0, 1] (D1); "absolute": the paper's mean variance.
        preconditioned: divide by sqrt(v_hat + eps), (7); False is the plain form (14) of the proofs.
        weight_decay: >= 0; decoupled unless `decoupled_weight_decay=False` adds it to the gradient.
        amsgrad: divide by the running maximum of the second moment; a third tensor of state.
        maximize: ascend.
        foreach: step many small tensors in one call; None: chosen by device.
        capturable: keep every scalar on the device, for CUDA graphs. In a captured step a non-finite gradient is
            skipped: nothing can be raised from there. `torch.compile` leaves the step outside its graph.
        differentiable: let autograd record the step.
        fused: True: one C kernel, compiled when first used, steps what is float32 or float64 on the CPU; needs a C
            compiler. None and False: torch operations only.
        nonfinite: on a NaN or infinite gradient, "raise" `NonFiniteGradient` or "skip" the whole step; either way
            before anything is changed.
        threshold_rule: "exact" drops the most entries the budget allows; "sufficient" is the cheaper rule that may
            leave budget unspent.

    Raises:
        InvalidHyperparameter: (a ValueError) a setting is out of range.
        UnsupportedTensor: a parameter is complex or not floating point.
        FusedStepUnavailable: fused=True where there is no working C compiler.

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
        threshold: float = 0.99,
        threshold_mode: Literal["relative", "absolute"] = "relative",
        threshold_steps: int = 40,
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
            "threshold_steps": threshold_steps,
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
        if {**self.defaults, **param_group}["fused"]:
            native.kernel()  # compiles now, or says now that it cannot
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
        self._step_groups()
        return loss

    # AOTAutograd (seen with torch 2.13) loses the write to beta1_product after a compiled step, so a compiled training
    # loop runs this part as it is.
    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _step_groups(self) -> None:
        work = [_Work(index, group, self._slots(group)) for index, group in enumerate(self.param_groups)]
        if any(part.group["capturable"] or part.group["differentiable"] for part in work):
            self._step_on_device(work)
            return
        for part in work:
            if part.group["fused"]:
                part.fuse()
        for part in work:
            if not self._may_go_on(part):
                return
        for part in work:
            self._threshold_errors[part.index] = part.step() ** 0.5

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
                        self.state[param][name] = value.detach().clone().to(home(name, param, group))
        self._threshold_errors = {}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._threshold_errors = {}
        self.skipped_steps = 0
        for group in self.param_groups:
            for name, value in self.defaults.items():
                group.setdefault(name, value)

    def _slots(self, group: dict[str, Any]) -> list[Slot]:
        return [
            slot_of(index, param, param.grad, self.state[param], group)
            for index, param in enumerate(group["params"])
            if param.grad is not None
        ]

    def _may_go_on(self, part: _Work) -> bool:
        """Look at every gradient before anything is changed, so that a bad one cannot poison the state."""
        bad = part.bad_slot()
        if bad is None:
            return True
        if part.group["nonfinite"] == "skip":
            self.skipped_steps += 1
            return False
        raise NonFiniteGradient(
            f"the gradient of a parameter of shape {tuple(bad.param.shape)} in group {part.index} holds NaN or an "
            'infinity, or its square overflows; nothing was changed. nonfinite="skip" passes over such steps'
        )

    def _step_on_device(self, work: list[_Work]) -> None:
        slots = [slot for part in work for slot in part.slots]
        if not slots:
            return
        capturing = slots[0].param.is_cuda and torch.cuda.is_current_stream_capturing()
        if not capturing and not all(map(self._may_go_on, work)):
            return
        device = slots[0].param.device
        finite = torch.stack(
            [slot.grad.detach().to(slot.exp_avg.dtype).square().isfinite().all().to(device) for slot in slots]
        ).all()
        for part in work:
            error: Tensor | float = 0.0
            for slot in part.slots:
                differentiable = part.group["differentiable"]
                with torch.set_grad_enabled(differentiable):
                    new, squared = step_functional(slot, part.group, finite.to(slot.param.device))
                    store(slot, new, self.state[slot.param], differentiable=differentiable)
                error = error + squared.to(device)
            self._threshold_errors[part.index] = error**0.5


class _Work:
    """One parameter group's part of a step."""

    def __init__(self, index: int, group: dict[str, Any], slots: list[Slot]) -> None:
        self.index, self.group, self.slots = index, group, slots
        self._eager = slots
        self._fused: native.FusedGroup | None = None

    def fuse(self) -> None:
        """Hand what the kernel can take to the kernel."""
        taken: list[Slot] = []
        self._eager = []
        for slot in self.slots:
            (taken if native.takes(slot) else self._eager).append(slot)
        self._fused = native.FusedGroup(taken, Rule.of(self.group))

    def bad_slot(self) -> Slot | None:
        return (self._fused and self._fused.check()) or bad_slot(self._eager)

    def step(self) -> float:
        """Step every tensor and give the squared threshold error."""
        squared = self._fused.step() if self._fused else 0.0
        if self._eager:
            rule, foreach = Rule.of(self.group), self.group["foreach"] is not False
            squared += sum(step_slots(part, rule, foreach=foreach) for part in by_device(self._eager))
        return squared
