"""Plots of what was measured, as SVG files whose bytes follow from the numbers alone."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
from matplotlib.figure import Figure

from jobs.claims.statistics import Mean
from pipeline.files import written

STRONG, FAINT, GREY = "#1f5f8b", "#b8c4d0", "#555555"
SEEDS: dict[str, Any] = {
    "marker": "o",
    "markersize": 4,
    "color": FAINT,
    "linestyle": "",
    "zorder": 3,
    "markeredgecolor": GREY,
    "markeredgewidth": 0.6,
}
SETTINGS = {"svg.hashsalt": "claims", "svg.fonttype": "none", "font.size": 9}


class Row(NamedTuple):
    """A line of a plot: a mean with its interval, and the values of the seeds."""

    name: str
    mean: Mean
    values: Sequence[float]
    strong: bool = True


def plot_rows(path: Path, rows: Sequence[Row], label: str, mark: float, mark_name: str) -> None:
    """The first row on top.

    mark  where a dashed line stands: the chance, or no difference
    """
    lines = [row.name.count("\n") + 1 for row in rows]
    with matplotlib.rc_context(SETTINGS):  # type: ignore[arg-type]
        figure = Figure(figsize=(7.2, 0.8 + 0.28 * max(lines) * len(rows)), layout="constrained")
        axes = figure.add_subplot()
        axes.axvline(mark, color=GREY, linewidth=0.8, linestyle="--")
        for place, row in enumerate(rows):
            colour = STRONG if row.strong else GREY
            axes.plot([row.mean.low, row.mean.high], [place, place], color=colour, linewidth=2)
            axes.plot(row.mean.value, place, "|", color=colour, markersize=12, markeredgewidth=2)
            axes.plot(row.values, [place] * len(row.values), **SEEDS)
        axes.annotate(
            mark_name, (mark, 1), (3, -2), xycoords=("data", "axes fraction"),
            textcoords="offset points", fontsize=8, color=GREY, va="top",
        )  # fmt: skip
        axes.set_yticks(range(len(rows)), [row.name for row in rows])
        axes.set_ylim(len(rows) - 0.4, -0.9)
        axes.set_xlabel(label)
        axes.spines[["top", "right"]].set_visible(False)
        with written(path) as partial:
            figure.savefig(partial, format="svg", metadata={"Date": None, "Creator": None})
