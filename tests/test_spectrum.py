import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from amgt_fed.errors import AMGTFedError
from amgt_fed.spectrum import SpectrumError, hessian_spectrum, model_spectrum


def dense(model: nn.Module, loss, batches, l2: float = 0.0) -> Tensor:
    """The whole Hessian, by double backward: the slow way, for comparison."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    total = sum(len(inputs) for inputs, _ in batches)
    value = sum(len(inputs) / total * loss(model(inputs), targets) for inputs, targets in batches)
    value = value + l2 / 2 * sum((p**2).sum() for p in parameters)
    gradient = torch.cat([g.reshape(-1) for g in torch.autograd.grad(value, parameters, create_graph=True)])
    rows = [torch.autograd.grad(g, parameters, retain_graph=True, allow_unused=True) for g in gradient]
    return torch.stack(
        [
            torch.cat(
                [(torch.zeros_like(p) if r is None else r).reshape(-1) for r, p in zip(row, parameters, strict=True)]
            )
            for row in rows
        ]
    )


def quadratic(hessian) -> tuple:
    matrix = torch.as_tensor(hessian, dtype=torch.float64)
    return lambda x: 0.5 * x @ matrix @ x + 2


def test_the_papers_first_quadratic_is_stable_below_a_third() -> None:
    spectrum = hessian_spectrum(lambda p: 2 * p[0] ** 2 + 2 * p[1] ** 2 - 2 * p[0] * p[1] + 2, torch.ones(2).double())
    assert (spectrum.lambda_min, spectrum.lambda_max) == pytest.approx((2, 6))
    assert spectrum.stability_limit == pytest.approx(1 / 3)
    assert spectrum.alpha_opt == pytest.approx(0.25)
    assert spectrum.condition == pytest.approx(3)
    assert spectrum.rate(0.25) == pytest.approx(0.5)
    assert spectrum.rate(0.1) == pytest.approx(spectrum.rate(0.3)) == pytest.approx(0.8)


def test_the_papers_second_quadratic_has_irrational_eigenvalues() -> None:
    spectrum = hessian_spectrum(lambda p: p[0] ** 2 + 2 * p[1] ** 2 - 2 * p[0] * p[1] + 2, torch.zeros(2).double())
    assert spectrum.lambda_min == pytest.approx(3 - math.sqrt(5))
    assert spectrum.lambda_max == pytest.approx(3 + math.sqrt(5))
    assert spectrum.stability_limit == pytest.approx(2 / (3 + math.sqrt(5)))
    assert spectrum.alpha_opt == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    "eigenvalues",
    [
        np.linspace(1, 100, 80),
        np.linspace(-50, 3, 80),  # the larger end is the negative one
        np.concatenate([[-1e-3], np.zeros(60), np.geomspace(1e-6, 10, 39)]),  # a deep net's shape
        np.concatenate([np.zeros(50), np.linspace(-4, -1, 20)]),  # lambda_max = 0
        np.concatenate([[5.0] * 40, [2.0] * 30]),
        np.full(50, 3.0),
        np.full(50, -3.0),
        np.zeros(40),
        np.linspace(1e-9, 1e-7, 60),
        np.linspace(1, 3, 33),
        np.linspace(1, 3, 32),
        [7.0],
    ],
)
def test_lanczos_finds_both_ends(eigenvalues) -> None:
    generator = np.random.default_rng(0)
    size = len(eigenvalues)
    basis, _ = np.linalg.qr(generator.normal(size=(size, size)))
    spectrum = hessian_spectrum(quadratic(basis * eigenvalues @ basis.T), torch.zeros(size).double())
    scale = np.abs(eigenvalues).max()
    assert spectrum.lambda_max == pytest.approx(np.max(eigenvalues), abs=1e-9 * scale)
    assert spectrum.lambda_min == pytest.approx(np.min(eigenvalues), abs=1e-9 * scale)
    assert max(spectrum.residual_max, spectrum.residual_min) <= 1e-8 * scale


def small_nets() -> dict:
    torch.manual_seed(0)
    images, sequences = torch.randn(24, 1, 6, 6).double(), torch.randn(24, 5, 3).double()
    flat, labels, numbers = torch.randn(24, 6).double(), torch.randint(0, 3, (24,)), torch.randn(24, 1).double()
    cross_entropy, squares = nn.functional.cross_entropy, nn.functional.mse_loss

    class Last(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn, self.head = nn.GRU(3, 4, batch_first=True), nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.rnn(x)[0][:, -1])

    return {
        "logistic": (nn.Linear(6, 3), cross_entropy, flat, labels),
        "mlp": (nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)), cross_entropy, flat, labels),
        "regression": (nn.Sequential(nn.Linear(6, 5), nn.Softplus(), nn.Linear(5, 1)), squares, flat, numbers),
        "convolution": (
            nn.Sequential(nn.Conv2d(1, 3, 3), nn.GELU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(12, 3)),
            cross_entropy,
            images,
            labels,
        ),
        "batch norm": (
            nn.Sequential(nn.Linear(6, 7), nn.BatchNorm1d(7), nn.Tanh(), nn.Linear(7, 3)),
            cross_entropy,
            flat,
            labels,
        ),
        "gru": (Last(), cross_entropy, sequences, labels),
    }


@pytest.mark.parametrize("name", ["logistic", "mlp", "regression", "convolution", "batch norm", "gru"])
def test_the_ends_are_those_of_the_dense_hessian(name: str) -> None:
    model, loss, inputs, targets = small_nets()[name]
    model = model.double()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    spectrum = model_spectrum(model, loss, [(inputs, targets)])
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key]), key
    values = torch.linalg.eigvalsh(dense(model, loss, [(inputs, targets)]))
    assert spectrum.lambda_max == pytest.approx(float(values[-1]), rel=1e-8)
    assert spectrum.lambda_min == pytest.approx(float(values[0]), abs=1e-8 * float(values[-1]))


def test_batches_count_by_their_examples_and_frozen_parameters_not_at_all() -> None:
    model, loss, inputs, targets = small_nets()["mlp"]
    model = model.double()
    model[0].bias.requires_grad_(False)
    whole = model_spectrum(model, loss, [(inputs, targets)], l2=0.3)
    parts = model_spectrum(model, loss, [(inputs[:5], targets[:5]), (inputs[5:], targets[5:])], l2=0.3)
    values = torch.linalg.eigvalsh(dense(model, loss, [(inputs, targets)], l2=0.3))
    for spectrum in (whole, parts):
        assert spectrum.lambda_max == pytest.approx(float(values[-1]), rel=1e-8)
        assert spectrum.lambda_min == pytest.approx(float(values[0]), abs=1e-8)


def test_float32_models_are_good_to_float32() -> None:
    model, loss, inputs, targets = small_nets()["mlp"]
    exact = model_spectrum(model.double(), loss, [(inputs, targets)])
    rough = model_spectrum(model.float(), loss, [(inputs.float(), targets)])
    assert rough.lambda_max == pytest.approx(exact.lambda_max, rel=1e-5)
    assert rough.lambda_min == pytest.approx(exact.lambda_min, abs=1e-5 * exact.lambda_max)


def test_a_net_too_large_for_a_dense_hessian_takes_few_products() -> None:
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(64, 128), nn.Tanh(), nn.Linear(128, 10)).double()
    inputs, targets = torch.randn(200, 64).double(), torch.randint(0, 10, (200,))
    spectrum = model_spectrum(model, nn.functional.cross_entropy, [(inputs, targets)], tolerance=1e-6)
    assert spectrum.products < 500  # of 9,610 rows
    assert spectrum.residual_max < 1e-5 * spectrum.lambda_max


def test_gradient_descent_on_the_edge_of_stability_behaves_as_predicted() -> None:
    model, loss, inputs, targets = small_nets()["logistic"]
    model = model.double()
    spectrum = model_spectrum(model, loss, [(inputs, targets)], l2=0.05)

    def largest_displacement(step: float) -> float:
        torch.manual_seed(0)
        w = torch.randn(2, dtype=torch.float64)  # the two extreme directions of the quadratic model
        curvature = torch.tensor([spectrum.lambda_min, spectrum.lambda_max], dtype=torch.float64)
        for _ in range(2000):
            w = w - step * curvature * w
        return float(w.abs().max())

    assert largest_displacement(spectrum.stability_limit * 0.99) < 1
    assert largest_displacement(spectrum.stability_limit * 1.01) > 1e3


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: hessian_spectrum(lambda x: (x - 1).log().sum(), torch.zeros(3)), "loss is nan"),
        (lambda: hessian_spectrum(lambda x: x.sqrt().sum(), torch.zeros(3)), "gradient not finite"),
        (lambda: model_spectrum(nn.ReLU(), nn.functional.mse_loss, [(torch.ones(1), torch.ones(1))]), "parameters"),
        (lambda: model_spectrum(nn.Linear(1, 1), nn.functional.mse_loss, []), "no batches"),
        (lambda: hessian_spectrum(lambda x: -(x**2).sum(), torch.ones(3)).alpha_opt, "positive definite"),
        (lambda: hessian_spectrum(lambda x: (x**1.5).sum(), torch.zeros(3)), "second derivative"),
    ],
)
def test_what_has_no_spectrum_says_why(call, message: str) -> None:
    with pytest.raises(SpectrumError, match=message) as caught:
        call()
    assert isinstance(caught.value, AMGTFedError)


def test_a_random_loss_is_noticed() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 20), nn.Tanh(), nn.Dropout(0.5), nn.Linear(20, 3))
    batches = [(torch.randn(8, 6), torch.randint(0, 3, (8,))) for _ in range(2)]
    with pytest.raises(SpectrumError, match=r"model\.eval\(\)"):
        model_spectrum(model, nn.functional.cross_entropy, batches)
    assert model_spectrum(model.eval(), nn.functional.cross_entropy, batches).lambda_max > 0
