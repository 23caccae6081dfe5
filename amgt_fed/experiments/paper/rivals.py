# ruff: noqa: RUF001 - the paper's symbols stand in texts for people
"""AMGT beside Adam, AMSGrad, RMSProp and SGD: quadratics, digits over learning rates; and (8), (9)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.optim import SGD, Adam, Optimizer, RMSprop

from amgt_fed.optimizer import AMGT

from .claims import Claim, Curve, Effort, Figure, Section, Table, judge
from .quadratics import APPLICATION_1, APPLICATION_2, Outcome, descend

Factory = Callable[[Iterable[Tensor], float], Optimizer]

OPTIMIZERS: dict[str, Factory] = {
    "AMGT": lambda params, lr: AMGT(params, lr=lr),
    "AMGT, (10) and (25) on": lambda params, lr: AMGT(params, lr=lr, lr_decay=0.01, threshold=1.0, threshold_steps=0),
    "Adam": lambda params, lr: Adam(params, lr=lr),
    "AMSGrad": lambda params, lr: Adam(params, lr=lr, amsgrad=True),
    "RMSProp": lambda params, lr: RMSprop(params, lr=lr),
    "SGD": lambda params, lr: SGD(params, lr=lr),
    "SGD, momentum .9": lambda params, lr: SGD(params, lr=lr, momentum=0.9),
}
QUADRATIC_LIMIT = 1000


@dataclass(frozen=True, slots=True)
class Digits:
    """Half of the digits to learn from, a fifth to test on."""

    inputs: Tensor
    targets: Tensor
    test_inputs: Tensor
    test_targets: Tensor


def check_rivals(effort: Effort) -> Section:
    """The abstract's comparison: "surpasses standard Adam", "resilient to learning rates"; and (8), (9)."""
    accuracy = _digits_accuracy(effort)
    mean = {name: scores.mean(axis=1) for name, scores in accuracy.items()}
    best = {name: float(scores.max()) for name, scores in mean.items()}
    area = {name: float(scores.mean()) for name, scores in mean.items()}
    rates = effort.rates
    quadratic_rows = _quadratic_rows(rates)
    better_best, better_area = best["AMGT"] >= best["Adam"], area["AMGT"] > area["Adam"]
    on_area, on_best = area["AMGT, (10) and (25) on"], best["AMGT, (10) and (25) on"]
    numbers = (
        f"Test accuracy on digits, mean of {len(effort.seeds)} seeds. Best rate: AMGT {best['AMGT']:.1f} %, Adam "
        f"{best['Adam']:.1f} %; with (10) and (25) on {on_best:.1f} %."
    )
    claims = (
        Claim(
            "surpasses-adam",
            "AMGT surpasses standard Adam in convergence",
            "abstract",
            "better",
            f"best {best['AMGT']:.1f} % against {best['Adam']:.1f} %; mean over rates {area['AMGT']:.1f} % against "
            f"{area['Adam']:.1f} %",
            judge(
                as_printed=better_best and better_area and best["AMGT"] > best["Adam"] + 0.5,
                corrected=max(best["AMGT"], on_best) >= best["Adam"] - 0.5
                and max(area["AMGT"], on_area) > area["Adam"],
            ),
            numbers
            + " At its best rate each method learns these digits; the difference lies in how many rates are good.",
        ),
        Claim(
            "rate-resilience",
            "Resilience to the learning rate",
            "abstract",
            "more resilient than Adam",
            f"mean accuracy over the rates: AMGT {area['AMGT']:.1f} %, with (10) and (25) on {on_area:.1f} %, Adam "
            f"{area['Adam']:.1f} %",
            judge(as_printed=better_area, corrected=on_area > area["Adam"]),
            f"{len(rates)} rates, {rates[0]:g} to {rates[-1]:g}, {effort.epochs} epochs each, one setting per method.",
        ),
        _equation_8_claim(),
        _equation_9_claim(),
    )
    table = Table(
        "rivals",
        f"Digits, test accuracy in % after {effort.epochs} epochs",
        ("optimizer", *(f"{rate:g}" for rate in rates), "best", "mean"),
        tuple(
            (name, *(f"{score:.1f}" for score in scores), f"{best[name]:.1f}", f"{area[name]:.1f}")
            for name, scores in mean.items()
        ),
        "A 64-32-10 ReLU net, batches of 32; every column a learning rate.",
    )
    quadratics = Table(
        "rivals-quadratics",
        "Both applications from (1, 0): fewest steps to 1e-6 over the same rates",
        ("optimizer", "Application 1", "at rate", "Application 2", "at rate"),
        quadratic_rows,
        f"At most {QUADRATIC_LIMIT} steps. Without noise the adaptive methods have nothing to gain on two variables.",
    )
    figure = Figure(
        "rivals",
        "Digits: accuracy over three decades of learning rates"
        if len(rates) < 9
        else "Digits: accuracy over learning rates",
        "learning rate",
        "test accuracy in %",
        tuple(Curve(name, rates, tuple(map(float, scores))) for name, scores in mean.items()),
        "The wider the plateau, the less the rate needs tuning.",
        log_y=False,
    )
    return Section("Beside other optimizers", claims, (table, quadratics), (figure,))


def _digits_accuracy(effort: Effort) -> dict[str, NDArray[np.float64]]:
    """Accuracy in %, shape (rates, seeds), per optimizer. Every method sees the same nets and the same batches."""
    images, labels = load_digits(return_X_y=True)
    inputs = torch.from_numpy((images / 16.0).astype(np.float32))
    targets = torch.from_numpy(labels.astype(np.int64))
    data = Digits(inputs[:900], targets[:900], inputs[1437:], targets[1437:])
    return {
        name: np.array(
            [[_train(data, make, rate, seed, effort.epochs) for seed in effort.seeds] for rate in effort.rates]
        )
        for name, make in OPTIMIZERS.items()
    }


def _train(data: Digits, make: Factory, rate: float, seed: int, epochs: int) -> float:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    generator = torch.Generator().manual_seed(seed)
    optimizer = make(model.parameters(), rate)
    for _ in range(epochs):
        for batch in torch.randperm(len(data.inputs), generator=generator).split(32):  # type: ignore[no-untyped-call]
            optimizer.zero_grad()
            torch.autograd.backward(nn.functional.cross_entropy(model(data.inputs[batch]), data.targets[batch]))
            optimizer.step()
    with torch.no_grad():
        return 100 * float((model(data.test_inputs).argmax(1) == data.test_targets).float().mean())


def _quadratic_rows(rates: tuple[float, ...]) -> tuple[tuple[str, ...], ...]:
    rows = []
    for name, make in OPTIMIZERS.items():
        cells = [name]
        for application in (APPLICATION_1, APPLICATION_2):
            found: list[tuple[int, float]] = []
            for rate in rates:
                # No run needs more steps than the best so far to lose against it.
                limit = min((steps for steps, _ in found), default=QUADRATIC_LIMIT)
                run = descend(application, (1.0, 0.0), lambda params, make=make, rate=rate: make(params, rate), limit)  # type: ignore[misc]
                if run.outcome is Outcome.CONVERGED:
                    found.append((run.steps, rate))
            cells += [str(min(found)[0]), f"{min(found)[1]:g}"] if found else ["none", "-"]
        rows.append(tuple(cells))
    return tuple(rows)


def _trajectory(make: Callable[[list[Tensor]], Optimizer], scale: float = 1.0, steps: int = 200) -> NDArray[np.float64]:
    """A noisy quadratic in ten variables, gradients times `scale`; the points, shape (steps, 10)."""
    generator = np.random.default_rng(8)
    curvature = np.geomspace(0.1, 10, 10)
    x = torch.ones(10, dtype=torch.float64, requires_grad=True)
    optimizer = make([x])
    points = np.empty((steps, 10))
    for k in range(steps):
        x.grad = torch.from_numpy(scale * (curvature * x.detach().numpy() + generator.normal(size=10)))
        optimizer.step()
        points[k] = x.detach().numpy()
    return points


def _equation_8_claim() -> Claim:
    eps = 1e-30  # inside the root for AMGT, outside for Adam: too small here for the difference to count
    adam = _trajectory(lambda params: Adam(params, lr=0.01, eps=eps))
    printed = _trajectory(lambda params: AMGT(params, lr=0.01, eps=eps, gamma=0.0, threshold=0.0, lr_decay=0.0))
    read = _trajectory(lambda params: AMGT(params, lr=0.01, eps=eps, gamma=1.0, threshold=0.0, lr_decay=0.0))
    same, other = float(np.abs(printed - adam).max()), float(np.abs(read - adam).max())
    return Claim(
        "equation-8",
        "λ_t weakens the pull of past gradients",
        "(8), (9)",
        "the moment of (8)",
        f"without λ_t: {same:.0e} away from Adam after 200 steps; with λ_t scaling β1: {other:.2g}",
        judge(as_printed=same > 1e-9, corrected=other > 1e-3),
        "As printed (8) does not contain λ_t: it is Adam's. Read as the text says, λ_t scales β1, and the bias "
        "correction becomes the running product (D2).",
    )


def _equation_9_claim() -> Claim:
    def spread(variance: str) -> float:
        def make(params: list[Tensor]) -> Optimizer:
            return AMGT(params, lr=0.01, eps=1e-30, gamma=1.0, threshold=0.0, variance=variance)  # type: ignore[arg-type]

        return float(np.abs(_trajectory(make) - _trajectory(make, scale=1000.0)).max())

    absolute, relative = spread("absolute"), spread("relative")
    return Claim(
        "equation-9",
        "λ_t = 1/(1 + γ Var(g_t)) measures noise",
        "(9)",
        "absolute variance",
        f"loss times 1000 moves the path by {absolute:.2g} (absolute), {relative:.0e} (noise fraction)",
        judge(as_printed=absolute < 1e-9, corrected=relative < 1e-9),
        "An adaptive method should not depend on the units of the loss. With the absolute variance γ has the units of "
        "1/g²; the fraction of v that is noise has none (D1).",
    )
