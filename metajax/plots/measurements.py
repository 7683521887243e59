"""Plots of what was measured, with its 95 % intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np

from metajax._checked import checked

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from metajax.diagnostics import Reliability

MARKED = 15
"""Lines of fewer points than this have a marker at each point."""

STYLE: Mapping[str, object] = MappingProxyType(
    {
        "figure.constrained_layout.use": True,
        "figure.dpi": 110,
        "savefig.dpi": 110,
        "font.size": 10,
        "axes.titlesize": 10.5,
        "axes.labelsize": 9.5,
        "xtick.labelsize": 9,
        "ytick.labelsize": 9,
        "legend.fontsize": 9,
        "legend.frameon": False,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "grid.alpha": 0.3,
        "lines.markersize": 5,
    }
)
"""The style of all pictures of metajax: `with plt.rc_context(dict(metajax.plots.STYLE)):`."""


@checked
def curves(
    axes: Axes,
    lines: Mapping[str, tuple[Sequence[float], Sequence[float], Sequence[float] | None]],
    *,
    xlabel: str,
    ylabel: str,
    title: str = "",
) -> None:
    """Draws lines, such as learning curves, with their 95 % intervals as bands.

    Lines of few points have markers, with error bars in place of bands, which would blend. The axes
    get a light grid and a legend, and lose their frame at the top and on the right.

    Args:
        axes: where to draw.
        lines: {name: (x, mean, half the width of the interval or None)}.
        xlabel: what x is, with its unit.
        ylabel: what y is, with its unit.
        title: written above the picture.
    """
    for name, (x, mean, interval) in lines.items():
        is_short = len(x) < MARKED
        marker = "o" if is_short else None
        (line,) = axes.plot(x, mean, marker=marker, markersize=4, label=name)
        if interval is None:
            continue
        color = line.get_color()
        if is_short:
            axes.errorbar(x, mean, yerr=interval, fmt="none", ecolor=color)
        else:
            low, high = np.subtract(mean, interval), np.add(mean, interval)
            axes.fill_between(x, low, high, color=color, alpha=0.2, linewidth=0)
    axes.set(xlabel=xlabel, ylabel=ylabel, title=title)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)


@checked
def dot_plot(
    axes: Axes,
    measured: Mapping[str, Mapping[str, tuple[float, float]]],
    *,
    xlabel: str,
    reference: float | None = None,
    limits: tuple[float, float] = (-np.inf, np.inf),
    title: str = "",
) -> None:
    """Draws values as points with 95 % intervals, to compare methods in several settings.

    Each method is a row, and each setting a colour. The legend is below the axes, where it covers
    no point.

    Args:
        axes: where to draw.
        measured: {setting: {row: (mean, half the width of the interval)}}. The rows are those of
            the first setting; another setting may lack some of them.
        xlabel: what is measured, with its unit.
        reference: a value to compare with, such as chance or no difference: a grey line.
        limits: the least and the greatest value that is possible. No interval goes beyond.
        title: written above the picture.
    """
    rows = list(next(iter(measured.values())))
    distance = min(0.22, 0.66 / len(measured))
    for number, (setting, values) in enumerate(measured.items()):
        places = np.array([rows.index(row) for row in values], float)
        # The settings of a row are drawn one below the other, around its line.
        places += distance * (number - (len(measured) - 1) / 2)
        mean, half = np.array(list(values.values()), float).reshape(-1, 2).T
        below = mean - np.maximum(mean - half, limits[0])
        above = np.minimum(mean + half, limits[1]) - mean
        axes.errorbar(mean, places, xerr=[below, above], fmt="o", markersize=5, label=setting)
    if reference is not None:
        axes.axvline(reference, color="0.6", linewidth=1, zorder=0)
    axes.set(yticks=range(len(rows)), yticklabels=rows, xlabel=xlabel, title=title)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.grid(alpha=0.3, axis="x")
    axes.spines[["top", "right"]].set_visible(False)
    if len(measured) > 1:
        axes.legend(
            frameon=False,
            fontsize="small",
            loc="upper center",
            bbox_to_anchor=(0.5, -0.16),
            ncols=len(measured),
        )


@checked
def accuracies(
    axes: Axes,
    measured: Mapping[str, Mapping[str, tuple[float, float]]],
    *,
    chance: float | None = None,
    title: str = "",
) -> None:
    """Draws accuracies in percent as points with 95 % intervals: a `dot_plot`.

    If one of the rows is "learned", a thin line of the colour of each setting, at its accuracy,
    goes through all rows.

    Args:
        axes: where to draw.
        measured: {setting: {row: (mean, half the width of the interval)}}, as fractions, such as
            `{f"{k} shots": {"MAML": (summary.mean, summary.interval)}}`.
        chance: the accuracy of a guess, as a fraction: a grey line.
        title: written above the picture.
    """
    percents = {
        setting: {row: (100 * mean, 100 * half) for row, (mean, half) in values.items()}
        for setting, values in measured.items()
    }
    reference = None if chance is None else 100 * chance
    xlabel = "accuracy, %" if chance is None else "accuracy, % (grey line: chance)"
    dot_plot(axes, percents, xlabel=xlabel, reference=reference, limits=(0.0, 100.0), title=title)
    for number, values in enumerate(percents.values()):
        if "learned" in values:
            learned, _ = values["learned"]
            axes.axvline(learned, color=f"C{number}", alpha=0.3, linewidth=1, zorder=0)


@checked
def reliability_diagram(
    axes: Axes, measured: Mapping[str, Reliability], *, title: str = ""
) -> None:
    """Draws accuracy against confidence, a line for each kind of answers; the diagonal is right.

    The area of a point is in proportion to the share of the answers in its bin.

    Args:
        axes: where to draw.
        measured: {name: of `diagnostics.reliability`}.
        title: written above the picture.
    """
    axes.plot([0, 1], [0, 1], color="0.6", linewidth=1, zorder=0)
    for name, found in measured.items():
        share = np.asarray(found.share)
        kept = share > 0
        x, y = np.asarray(found.confidence)[kept], np.asarray(found.accuracy)[kept]
        (line,) = axes.plot(x, y, linewidth=1, label=f"{name} (error {float(found.error):.3f})")
        axes.scatter(x, y, s=400 * share[kept] + 4, color=line.get_color(), alpha=0.6)
    axes.set(xlabel="confidence", ylabel="accuracy", title=title, xlim=(0, 1), ylim=(0, 1))
    axes.set_aspect("equal")
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="upper left")
