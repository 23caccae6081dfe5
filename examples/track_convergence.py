"""The tracker on a training loop of one's own: how far from the optimum can this model be, at most?

    python examples/track_convergence.py

An l2-regularised logistic regression on digits, trained by gradient descent whose gradients travel compressed. The
regulariser is the strong convexity constant, so the measured gradient proves a bound on f(x) - f*.
"""

import numpy as np
from sklearn.datasets import load_digits

from amgt_fed.codec import Layout, MaxError, encode
from amgt_fed.convergence import Assumptions, CertifiedGradient, ConvergenceTracker, Measurement, StatusRules

MU = 0.05
images, labels = load_digits(return_X_y=True)
features, odd = images / 16, labels % 2
layout = Layout.from_shapes({"weight": (features.shape[1],)})


def loss_and_gradient(x: np.ndarray) -> tuple[float, np.ndarray]:
    scores = features @ x
    loss = np.mean(np.logaddexp(0, scores) - odd * scores) + MU / 2 * x @ x
    return float(loss), features.T @ (1 / (1 + np.exp(-scores)) - odd) / len(odd) + MU * x


smoothness = float(np.linalg.eigvalsh(features.T @ features / len(odd)).max()) / 4 + MU
tracker = ConvergenceTracker(
    Assumptions(mu=MU, smoothness=smoothness, f_low=0.0, c=0.1), rules=StatusRules(gap_tolerance=1e-4)
)
x = np.zeros(layout.size)
for k in range(1, 401):
    loss, gradient = loss_and_gradient(x)
    encoded = encode(gradient.astype(np.float32), layout, MaxError(0.1 / k))  # (27): an error of c / k
    lost = float(np.linalg.norm(encoded.decoded - gradient))
    norm = float(np.linalg.norm(encoded.decoded.astype(np.float64)))
    report = tracker.observe(
        Measurement(
            round=k,
            update_norm=norm,
            delta=lost,
            gradient_error=lost,
            step_size=1 / smoothness,
            loss=loss,
            uplink_bytes=len(encoded.payload),
            certificate=CertifiedGradient(norm=norm, error=lost),
        )
    )
    x -= encoded.decoded / smoothness
    if k in (1, 10, 100) or report.status == "converged":
        assert report.certificate is not None
        print(f"round {k:3}  {report.status:12} f(x) {loss:.5f}  f(x) - f* at most {report.certificate.gap:.2e}")
    if report.status == "converged":
        print(f"{report.total_bytes:,} bytes; dense float32 would be {4 * layout.size * k:,}")
        break
