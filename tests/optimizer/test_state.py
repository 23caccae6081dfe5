"""Checkpoints, groups, schedulers, odd tensors, mixed precision: a real torch optimizer."""

from __future__ import annotations

import copy
import io
import math
import pickle
import shutil
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from amgt_fed import AMGT
from amgt_fed.optimizer import native
from amgt_fed.optimizer.errors import FusedStepUnavailable, NonFiniteGradient

COMPILER = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
needs_compiler = pytest.mark.skipif(COMPILER is None, reason="no C compiler on the path")
PATHS = ["foreach", "single", "capturable", pytest.param("fused", marks=needs_compiler)]
FLAGS: dict[str, dict[str, Any]] = {
    "foreach": {"foreach": True},
    "single": {"foreach": False},
    "capturable": {"capturable": True},
    "fused": {"fused": True},
}
EVERYTHING: dict[str, Any] = dict(
    lr=0.01, gamma=1.0, kappa=0.2, lr_decay=0.01, threshold=1.0, weight_decay=0.01, amsgrad=True
)


def tensors(seed: int = 0, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = [(), (0,), (3,), (7, 5), (4, 3, 2, 2), (200_000,)]
    return [torch.randn(shape, generator=generator).to(dtype) for shape in shapes]


def run(optimizer: AMGT, params: list[Tensor], steps: range) -> None:
    for step in steps:
        for param, grad in zip(params, tensors(seed=100 + step), strict=True):
            param.grad = grad.to(param.dtype)
        optimizer.step()


def same_bits(a: list[Tensor], b: list[Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize(
    "options", [{}, EVERYTHING, {"variance": "absolute", "preconditioned": False, "maximize": True}]
)
def test_foreach_and_single_tensor_steps_have_the_same_bits(options: dict[str, Any]) -> None:
    one, many = tensors(), tensors()
    for params, foreach in ((one, False), (many, True)):
        run(AMGT(params, **options, foreach=foreach), params, range(6))
    assert same_bits(one, many)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_checkpoint_through_torch_save_goes_on_with_the_same_bits(path: str, dtype: torch.dtype) -> None:
    params = tensors(dtype=dtype)
    optimizer = AMGT(params, **EVERYTHING, **FLAGS[path])
    run(optimizer, params, range(3))
    file = io.BytesIO()
    torch.save({"params": params, "optimizer": optimizer.state_dict()}, file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    resumed = AMGT(saved["params"], **FLAGS[path])
    resumed.load_state_dict(saved["optimizer"])
    run(optimizer, params, range(3, 6))
    run(resumed, saved["params"], range(3, 6))
    assert same_bits(params, saved["params"])
    for a, b in zip(optimizer.state.values(), resumed.state.values(), strict=True):
        assert a.keys() == b.keys()
        assert all(torch.equal(a[name], b[name]) and a[name].dtype == b[name].dtype for name in a)


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda made: pickle.loads(pickle.dumps(made))])
def test_a_copied_optimizer_goes_on_with_the_same_bits(clone: Any) -> None:
    params = tensors()
    optimizer = AMGT(params, **EVERYTHING)
    run(optimizer, params, range(2))
    other_params, other = clone((params, optimizer))
    run(optimizer, params, range(2, 4))
    run(other, other_params, range(2, 4))
    assert same_bits(params, other_params)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("bad", [math.nan, math.inf, 1e30])
@pytest.mark.parametrize("nonfinite", ["raise", "skip"])
def test_a_bad_gradient_changes_nothing(path: str, bad: float, nonfinite: Any) -> None:
    params = tensors()
    optimizer = AMGT(params, **EVERYTHING, **FLAGS[path], nonfinite=nonfinite)
    run(optimizer, params, range(2))
    before = copy.deepcopy((params, [dict(state) for state in optimizer.state.values()]))
    for param in params:
        param.grad = torch.ones_like(param)
    params[3].grad[0, 0] = bad  # type: ignore[index]
    if nonfinite == "raise":
        with pytest.raises(NonFiniteGradient, match=r"\(7, 5\)"):
            optimizer.step()
    else:
        optimizer.step()
        assert optimizer.skipped_steps == 1
    assert same_bits(params, before[0])
    for now, then in zip(optimizer.state.values(), before[1], strict=True):
        assert all(torch.equal(now[name], then[name]) for name in now)


def test_groups_keep_their_own_settings_and_new_ones_join() -> None:
    a, b, c = (torch.ones(3) for _ in range(3))
    optimizer = AMGT([{"params": [a], "lr": 0.0}, {"params": [b], "lr": 0.1}], threshold=0.0)
    optimizer.add_param_group({"params": [c], "lr": 0.2, "maximize": True})
    for x in (a, b, c):
        x.grad = torch.ones(3)
    optimizer.step()
    assert torch.equal(a, torch.ones(3))
    assert float(b[0]) == pytest.approx(0.9, abs=1e-6)
    assert float(c[0]) == pytest.approx(1.2, abs=1e-6)


def test_a_parameter_without_a_gradient_stays_and_has_no_state() -> None:
    used, unused = torch.ones(2), torch.ones(2)
    optimizer = AMGT([used, unused], lr=0.1)
    used.grad = torch.ones(2)
    optimizer.step()
    assert torch.equal(unused, torch.ones(2))
    assert unused not in optimizer.state
    AMGT([torch.ones(2)]).step()


def test_a_closure_runs_once_with_autograd_and_its_loss_comes_back() -> None:
    x, calls = torch.tensor([3.0], requires_grad=True), []

    def closure() -> Tensor:
        calls.append(1)
        optimizer.zero_grad()
        loss = (x**2).sum()
        loss.backward()
        return loss.detach()

    optimizer = AMGT([x], lr=0.5)
    assert float(optimizer.step(closure)) == 9.0
    assert len(calls) == 1
    assert float(x.detach()) == pytest.approx(2.5, abs=1e-6)


@pytest.mark.parametrize("options", [{"lr": 0.5}, {"mu": 2.0}])
def test_a_scheduler_scales_the_step(options: dict[str, Any]) -> None:
    x = torch.zeros(1, requires_grad=True)
    optimizer = AMGT([x], **options, preconditioned=False, gamma=0.0)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.1)
    moves = []
    for _ in range(3):
        before = float(x.detach())
        x.grad = torch.ones(1)
        optimizer.step()
        scheduler.step()
        moves.append(before - float(x.detach()))
    plain = [0.5, 0.5, 0.5] if "lr" in options else [1 / (2 * t) for t in (1, 2, 3)]
    assert moves == pytest.approx([size * 0.1**k for k, size in enumerate(plain)], rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_parameters_keep_float32_moments_and_learn(dtype: torch.dtype) -> None:
    x = torch.full((50,), 2.0, dtype=dtype)
    optimizer = AMGT([x], lr=0.05)
    for _ in range(100):
        x.grad = x.clone()
        optimizer.step()
    assert float(x.abs().max()) < 0.1
    assert optimizer.state[x]["exp_avg_sq"].dtype == torch.float32


def test_grad_scaler_unscales_and_passes_over_overflow() -> None:
    x = torch.tensor([1.0], requires_grad=True)
    optimizer, scaler = AMGT([x], lr=0.1), torch.amp.GradScaler("cpu", init_scale=1024.0)
    for factor, expected in ((1.0, 0.9), (math.inf, 0.9)):
        optimizer.zero_grad()
        scaler.scale((factor * x).sum()).backward()
        scaler.step(optimizer)
        scaler.update()
        assert float(x.detach()) == pytest.approx(expected, abs=1e-5)
    assert scaler.get_scale() == 512.0


@pytest.mark.parametrize("path", PATHS)
def test_strided_parameters_step_like_contiguous_ones(path: str) -> None:
    base = torch.randn(6, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    gradient = base.flip(0)
    plain, across = base.clone(), base.t().contiguous().t()
    gaps = torch.zeros(6, 8, dtype=torch.float64)[:, ::2]
    gaps.copy_(base)
    for x in (plain, across, gaps):
        optimizer = AMGT([x], lr=0.1, threshold=0.5, **FLAGS[path])
        for _ in range(3):
            x.grad = gradient.clone()
            optimizer.step()
    torch.testing.assert_close(across, plain, rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(gaps, plain, rtol=1e-13, atol=1e-13)


def test_autograd_flows_through_a_differentiable_step_into_the_rate() -> None:
    lr = torch.tensor(0.1, dtype=torch.float64, requires_grad=True)
    start = torch.tensor([1.0, -2.0], dtype=torch.float64, requires_grad=True)
    x = start.clone()
    optimizer = AMGT([x], lr=lr, differentiable=True, preconditioned=False, threshold=0.0)
    x.grad = torch.tensor([3.0, 4.0], dtype=torch.float64)
    optimizer.step()
    x.sum().backward()
    assert float(lr.grad) == pytest.approx(-7.0)  # type: ignore[arg-type]


@needs_compiler
def test_the_fused_step_follows_the_eager_one() -> None:
    eager, fused = tensors(), tensors()
    run(AMGT(eager, **EVERYTHING), eager, range(5))
    run(AMGT(fused, **EVERYTHING, fused=True), fused, range(5))
    for a, b in zip(eager, fused, strict=True):
        # Two roundings of a moment may fall on either side of the cut; a step moves no entry by more than about lr.
        assert a.numel() == 0 or float(((a - b).abs() > 1e-5).float().mean()) < 1e-3


def test_fused_without_a_compiler_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    native.kernel.cache_clear()
    monkeypatch.setattr(native.shutil, "which", lambda name: None)
    with pytest.raises(FusedStepUnavailable, match="C compiler"):
        AMGT([torch.zeros(2)], fused=True)
    monkeypatch.undo()
    native.kernel.cache_clear()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("options", [{}, EVERYTHING])
def test_cuda_gives_the_cpu_s_numbers(options: dict[str, Any]) -> None:
    host = tensors(dtype=torch.float64)
    device = [x.cuda() for x in host]
    first, second = AMGT(host, **options), AMGT(device, **options)
    for step in range(10):
        for x, y, grad in zip(host, device, tensors(seed=step, dtype=torch.float64), strict=True):
            x.grad, y.grad = grad, grad.cuda()
        first.step()
        second.step()
    for x, y in zip(host, device, strict=True):
        torch.testing.assert_close(y.cpu(), x, rtol=1e-6, atol=1e-6)


@pytest.mark.skipif(COMPILER is None, reason="torch.compile needs a C++ compiler on the path")
@pytest.mark.filterwarnings("ignore")
def test_a_compiled_step_gives_the_eager_numbers() -> None:
    eager, compiled = ([torch.linspace(-1, 1, 12, dtype=torch.float64)] for _ in range(2))
    first, second = AMGT(eager, lr=0.1, gamma=1.0), AMGT(compiled, lr=0.1, gamma=1.0)
    step = torch.compile(second.step)
    for _ in range(3):
        eager[0].grad, compiled[0].grad = 2 * eager[0], 2 * compiled[0]
        first.step()
        step()
    torch.testing.assert_close(compiled[0], eager[0], rtol=1e-12, atol=1e-12)


def test_amgt_leaves_the_trap_adam_ends_in() -> None:
    """Reddi et al. (2018): +1010 once in 101 steps, else -10, on [-1, 1]; the optimum is -1."""

    def end(build: Any) -> float:
        x = torch.zeros(1)
        optimizer = build([x])
        for t in range(1, 8_001):
            x.grad = torch.full((1,), 1010.0 if t % 101 == 1 else -10.0)
            optimizer.step()
            x.clamp_(-1, 1)
        return float(x)

    assert end(lambda p: torch.optim.Adam(p, lr=0.01, betas=(0.9, 0.99))) > 0.9
    assert end(lambda p: AMGT(p, lr=0.01, betas=(0.9, 0.99))) < -0.95
    assert end(lambda p: AMGT(p, lr=0.01, betas=(0.9, 0.99), gamma=1.0)) < -0.95


def test_amgt_in_place_of_adam_trains() -> None:
    torch.manual_seed(0)
    net = nn.Linear(4, 1)
    x = torch.randn(64, 4)
    y = x @ torch.tensor([[1.0], [-2.0], [3.0], [0.5]])
    optimizer = AMGT(net.parameters(), lr=0.05)
    for _ in range(300):
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(net(x), y)
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < 1e-3
