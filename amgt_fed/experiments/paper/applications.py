"""The paper's numerical section: both applications and Table 1, judged by runs and eigenvalues."""

from __future__ import annotations

import numpy as np

from .claims import Claim, Curve, Figure, Mark, Section, Table, judge, log_spaced, thinned
from .quadratics import (
    APPLICATION_1,
    APPLICATION_2,
    Application,
    Descent,
    Outcome,
    critical_rate,
    descend,
    fastest_rate,
    plain,
)

PAPER_START, GENERIC_START = (1.0, 1.0), (1.0, 0.0)
RATES_1 = (0.01, 0.1, 0.25, 0.3, 0.4, 0.5, 1.0)
RATES_2 = (0.001, 0.01, 0.1, 0.3, 1 / 3, 0.38, 0.4, 0.5)

Runs = dict[tuple[float, tuple[float, float]], Descent]


def check_applications() -> tuple[Section, Section]:
    """Applications 1 and 2: Hessians, eigenvalues, stability, optimal step sizes, Table 1."""
    return _first(), _second()


def _runs(application: Application, rates: tuple[float, ...]) -> Runs:
    return {(r, s): descend(application, s, plain(r)) for r in rates for s in (PAPER_START, GENERIC_START)}


def _first() -> Section:
    application, spectrum = APPLICATION_1, APPLICATION_1.spectrum
    runs = _runs(application, RATES_1)
    critical = critical_rate(application, GENERIC_START)
    fastest = fastest_rate(application, GENERIC_START, np.round(np.arange(0.05, 0.333, 0.01), 2))
    limit, best = spectrum.stability_limit, spectrum.alpha_opt
    missing = application.missing_directions(PAPER_START)
    claims = [
        _hessian_claim(application),
        _eigenvalue_claim(application, (2.0, 6.0), "2 and 6"),
        Claim(
            "application-1-condition",
            "Condition number of Application 1",
            "Application 1",
            "3",
            f"{spectrum.condition:.6g}",
            judge(as_printed=abs(spectrum.condition - 3) < 5e-7),
            "The quotient of the two eigenvalues.",
        ),
        Claim(
            "application-1-critical",
            "Gradient descent is stable for η < 1/3 and for no larger step",
            "Application 1",
            "1/3",
            f"{limit:.6g}; by bisection over runs {critical:.4f}",
            judge(as_printed=abs(limit - 1 / 3) < 1e-9 and abs(critical - 1 / 3) < 1e-3),
            f"2/λ_max = {limit:.6g}; runs from {GENERIC_START} turn from shrinking to growing at {critical:.4f}.",
        ),
        Claim(
            "application-1-fastest",
            "η = 0.3 is the fastest step size",
            "Table 1",
            "0.3",
            f"{best:.4g}",
            judge(as_printed=abs(fastest - 0.3) < 0.01 and spectrum.rate(0.3) <= spectrum.rate(best) + 1e-9),
            f"The optimum 2/(λ_min + λ_max) = {best:.4g} shrinks the distance by {spectrum.rate(best):.2g} a step, "
            f"0.3 by {spectrum.rate(0.3):.2g}, which is the rate of 0.1 ({spectrum.rate(0.1):.2g}). Runs from "
            f"{GENERIC_START}: {runs[0.25, GENERIC_START]} at 0.25, {runs[0.3, GENERIC_START]} at 0.3.",
        ),
    ]
    for rate in (0.5, 1.0):
        paper, generic = runs[rate, PAPER_START], runs[rate, GENERIC_START]
        eigenvector = f"an eigenvector without a part of eigenvalue {missing[0]:.3g}" if missing else "a generic point"
        claims.append(
            Claim(
                f"application-1-rate-{rate:g}",
                f"η = {rate:g} diverges",
                "Table 1",
                "diverges from (1, 1)",
                f"from (1, 1): {paper}; from (1, 0): {generic}",
                judge(
                    as_printed=paper.outcome is Outcome.DIVERGED,
                    corrected=generic.outcome is Outcome.DIVERGED,
                ),
                f"(1, 1) is {eigenvector}, so the direction that blows up is never entered; from a generic start, "
                "(1, 0) say, the claim is right.",
            )
        )
    figures = (_rate_figure(), _path_figure(application, runs, (0.01, 0.1, 0.25, 0.3, 0.4, 0.5)))
    return Section(f"Application 1: {application.formula}", tuple(claims), (_table(application, runs, "1"),), figures)


def _second() -> Section:
    application, spectrum = APPLICATION_2, APPLICATION_2.spectrum
    runs = _runs(application, RATES_2)
    critical = critical_rate(application, PAPER_START)
    limit, best = spectrum.stability_limit, spectrum.alpha_opt
    tried = [0.3, 1 / 3, 0.38, 0.4]
    good = [rate for rate in tried if runs[rate, PAPER_START].outcome is Outcome.CONVERGED]
    claims = (
        _hessian_claim(application),
        _eigenvalue_claim(application, (1.17, 4.83), "1.17 and 4.83"),
        Claim(
            "application-2-alpha",
            "The optimal step size of Application 2",
            "Application 2",
            "0.33",
            f"{best:.6g}",
            judge(as_printed=round(best, 2) == 0.33),
            f"2/(λ_min + λ_max) needs only the eigenvalues' sum, the trace {np.trace(application.hessian):g}; the "
            f"printed pair has the sum {1.17 + 4.83:g}, so that its error cancels.",
        ),
        Claim(
            "application-2-range",
            "Step sizes from 0.3 to 0.40 converge rapidly",
            "Application 2",
            "0.3 to 0.40",
            f"stable below {limit:.5f}; by bisection over runs {critical:.4f}",
            judge(as_printed=len(good) == len(tried), corrected=0.3 in good and 1 / 3 in good),
            "; ".join(f"{rate:.3g}: {runs[rate, PAPER_START]}" for rate in tried)
            + f". Beyond 2/λ_max = {limit:.5f} nothing converges, and just below it slowly.",
        ),
    )
    figures = (_path_figure(application, runs, (0.001, 0.01, 0.1, 1 / 3, 0.38, 0.4)),)
    return Section(f"Application 2: {application.formula}", claims, (_table(application, runs, "2"),), figures)


def _hessian_claim(application: Application) -> Claim:
    printed, computed = np.array(application.printed_hessian), application.hessian
    symmetric = np.array_equal(printed, printed.T)
    # The correction is the smallest one: the upper off-diagonal entry takes the lower one's sign.
    mirrored = np.tril(printed) + np.tril(printed, -1).T
    values = np.linalg.eigvals(printed)
    return Claim(
        f"{application.key}-hessian",
        f"The Hessian of {application.title}",
        application.title,
        _matrix(printed),
        _matrix(computed),
        judge(as_printed=np.allclose(printed, computed), corrected=np.allclose(mirrored, computed)),
        f"The printed matrix is {'' if symmetric else 'not '}symmetric (its eigenvalues would be "
        f"{', '.join(f'{v:.3g}' for v in values)}); automatic differentiation gives the symmetric one.",
    )


def _eigenvalue_claim(application: Application, printed: tuple[float, float], text: str) -> Claim:
    ours = (application.spectrum.lambda_min, application.spectrum.lambda_max)
    return Claim(
        f"{application.key}-eigenvalues",
        f"Eigenvalues of {application.title}",
        application.title,
        text,
        f"{ours[0]:.6g} and {ours[1]:.6g}",
        judge(as_printed=all(abs(a - b) < 0.005 for a, b in zip(printed, ours, strict=True))),
        f"Their sum is {sum(ours):.6g} (printed: {sum(printed):.6g}), their product {ours[0] * ours[1]:.6g} (printed: "
        f"{printed[0] * printed[1]:.6g}); the determinant is {np.linalg.det(application.hessian):.6g}.",
    )


def _matrix(values: np.ndarray) -> str:
    return "[" + ", ".join("[" + ", ".join(f"{value:g}" for value in row) + "]" for row in values) + "]"


def _table(application: Application, runs: Runs, number: str) -> Table:
    rates = sorted({rate for rate, _ in runs})
    rows = tuple(
        (
            f"{rate:.4g}",
            f"{application.spectrum.rate(rate):.3f}",
            str(runs[rate, PAPER_START]),
            str(runs[rate, GENERIC_START]),
        )
        for rate in rates
    )
    missing = application.missing_directions(PAPER_START)
    note = f" (1, 1) has no part in eigenvalue {missing[0]:.3g}." if missing else " Both starts are generic."
    return Table(
        f"{application.key}-table",
        f"Table {number}: steps until ||x - x*|| <= 1e-6",
        ("step size", "worst rate", "from (1, 1)", "from (1, 0)"),
        rows,
        "Worst rate: the largest |1 - η λ|; a generic start diverges when it exceeds 1." + note,
    )


def _rate_figure() -> Figure:
    curves, marks = [], []
    for application in (APPLICATION_1, APPLICATION_2):
        spectrum = application.spectrum
        grid = np.linspace(0.005, 0.45, 180)
        rates = tuple(spectrum.rate(float(rate)) for rate in grid)
        curves.append(Curve(application.title, tuple(map(float, grid)), rates))
        marks.append(Mark(f"optimum {spectrum.alpha_opt:.3g}, {application.title}", spectrum.alpha_opt))
    marks.append(Mark("0.3, the paper's fastest for Application 1", 0.3))
    return Figure(
        "rates",
        "What one step multiplies the distance by, at worst",
        "step size",
        "max |1 - η λ|",
        tuple(curves),
        "Below 1 gradient descent converges from every start. The lowest point of each curve is the optimal step size.",
        log_x=False,
        log_y=False,
        marks=tuple(marks),
        y_limits=(0.4, 1.4),
    )


def _path_figure(application: Application, runs: Runs, rates: tuple[float, ...]) -> Figure:
    curves = []
    for rate in rates:
        distances = runs[rate, GENERIC_START].distances
        shown = [i for i in log_spaced(len(distances)) if 1e-7 < distances[i] < 1e3]
        label = f"η = {rate:.3g}: {runs[rate, GENERIC_START]}"
        curves.append(Curve(label, tuple(float(i + 1) for i in shown), thinned(distances, shown)))
    return Figure(
        f"{application.key}-paths",
        f"{application.title} from (1, 0)",
        "step",
        "||x - x*||",
        tuple(curves),
        "The same step sizes as in the table, from a generic start; "
        f"stable below {application.spectrum.stability_limit:.4f}.",
        y_limits=(1e-7, 1e3),
    )
