"""Plots of what was measured, with its 95 % intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from metajax._checked import checked

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MARKED = 15
"""Lines of fewer points than this have a marker at each point."""


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

    Lines of few points have markers. The axes get a light grid and a legend, and lose their frame
    at the top and on the right.

    Args:
        axes: where to draw.
        lines: {name: (x, mean, half the width of the interval or None)}.
        xlabel: what x is, with its unit.
        ylabel: what y is, with its unit.
        title: written above the picture.
    """
    for name, (x, mean, interval) in lines.items():
        marker = "o" if len(x) < MARKED else None
        (line,) = axes.plot(x, mean, marker=marker, markersize=4, label=name)
        if interval is not None:
            low, high = np.subtract(mean, interval), np.add(mean, interval)
            axes.fill_between(x, low, high, color=line.get_color(), alpha=0.2, linewidth=0)
    axes.set(xlabel=xlabel, ylabel=ylabel, title=title)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)


@checked
def accuracies(
    axes: Axes, measured: Mapping[str, Mapping[str, tuple[float, float]]], *, title: str = ""
) -> None:
    """Draws accuracies as points with 95 % intervals, to compare methods in several settings.

    Each method is a row, and each setting a colour. If one of the rows is "learned", a thin line
    of the colour of each setting, at its accuracy, goes through all rows.

    Args:
        axes: where to draw.
        measured: {setting: {row: (mean, half the width of the interval)}}, as fractions, such as
            `{f"{k} shots": {"MAML": (summary.mean, summary.interval)}}`. The rows are those of the
            first setting.
        title: written above the picture.
    """
    rows = list(next(iter(measured.values())))
    for number, (setting, values) in enumerate(measured.items()):
        mean, interval = 100 * np.array([values[row] for row in rows], float).T
        # The settings of a row are drawn one below the other, around its line.
        place = np.arange(len(rows)) + 0.16 * (number - (len(measured) - 1) / 2)
        axes.errorbar(mean, place, xerr=interval, fmt="o", markersize=5, capsize=2, label=setting)
        if "learned" in rows:
            learned = mean[rows.index("learned")]
            axes.axvline(learned, color=f"C{number}", alpha=0.3, linewidth=1, zorder=0)
    axes.set(yticks=range(len(rows)), yticklabels=rows, xlabel="accuracy, %", title=title)
    axes.invert_yaxis()
    axes.grid(alpha=0.3, axis="x")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize="small")
