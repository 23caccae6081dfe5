"""Figures as PNG bytes. Data comes in, bytes go out; no file is touched and no global style changed."""

from __future__ import annotations

import io

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure as Canvas

from .claims import Figure

# Okabe and Ito's colours: told apart with any kind of colour vision.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_WIDTH, _HEIGHT, _DPI = 7.6, 4.4, 150


def render(figure: Figure) -> bytes:
    """Draw a figure; the same data gives the same picture.

    Returns:
        A PNG of 1140 x 660 pixels on white.
    """
    canvas = Canvas(figsize=(_WIDTH, _HEIGHT), dpi=_DPI, layout="constrained")
    FigureCanvasAgg(canvas)
    axes = canvas.add_subplot()
    colour_of: dict[int, str] = {}
    solid = 0
    for index, curve in enumerate(figure.curves):
        if not curve.dashed:
            colour_of[index] = _COLOURS[solid % len(_COLOURS)]
            solid += 1
    few = all(len(curve.x) <= 12 for curve in figure.curves)
    dashed = [curve for curve in figure.curves if curve.dashed]
    for index, curve in enumerate(figure.curves):
        if curve.dashed:
            # Where every run has a theory of its own right after it, the two share a colour; otherwise theory is grey.
            paired = len(dashed) == solid and not figure.curves[index - 1].dashed
            colour = colour_of[index - 1] if paired else ("#333333", "#888888")[dashed.index(curve) % 2]
            axes.plot(curve.x, curve.y, linestyle="--", linewidth=1.3, color=colour, label=curve.label, zorder=3)
        else:
            marker = "o" if few else ""
            # Each line thinner than the one under it: runs that coincide stay visible.
            width = max(3.0 - 0.35 * index, 1.2)
            axes.plot(
                curve.x,
                curve.y,
                color=colour_of[index],
                linewidth=width,
                marker=marker,
                markersize=4,
                label=curve.label,
            )
    for index, mark in enumerate(figure.marks):
        axes.axvline(mark.x, color=_COLOURS[index % len(_COLOURS)], linewidth=1, linestyle=":", label=mark.label)
    if figure.log_x:
        axes.set_xscale("log")
    if figure.log_y:
        axes.set_yscale("log")
    if figure.y_limits is not None:
        axes.set_ylim(*figure.y_limits)
    axes.set_xlabel(figure.x_label)
    axes.set_ylabel(figure.y_label)
    axes.set_title(figure.title, fontsize=11, loc="left")
    axes.grid(True, which="major", linewidth=0.4, color="#DDDDDD")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    canvas.legend(loc="outside right upper", fontsize=8, frameon=False)
    buffer = io.BytesIO()
    canvas.savefig(buffer, format="png", facecolor="white", metadata={"Software": None})
    return buffer.getvalue()
