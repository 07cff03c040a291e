"""The loss curves of a training log, as SVG."""

import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure

ACROSS = 4
MOST_POINTS = 400  # a longer log is thinned: the page should stay small
SMOOTH = 25  # the strong line is a running mean over 1/SMOOTH of the log

MEANINGS = {
    "gt_selection": "-log probability of the true patch",
    "cooccurrence": "distance of selected patches in F_occur",
    "reconstruction": "l1 of the image from true patches",
    "boxes": "predicted against true boxes",
    "total": "weighted sum, eq. 5",
}


def loss_curves(log: Sequence[Mapping[str, Any]]) -> Markup:
    """One small plot per loss: a faint line for the logged values, a strong one for their running
    mean."""
    names = list(dict.fromkeys(name for row in log for name in row if name != "step"))
    down = -(-len(names) // ACROSS)
    settings = {"svg.hashsalt": "curves", "svg.fonttype": "none", "font.size": 8}
    with matplotlib.rc_context(settings):  # type: ignore[arg-type]
        figure = Figure(figsize=(2.6 * ACROSS, 1.9 * down), layout="constrained")
        for n, name in enumerate(names):
            axes = figure.add_subplot(down, ACROSS, n + 1)
            steps = np.array([row["step"] for row in log if name in row])
            values = np.array([row[name] for row in log if name in row], np.float64)
            every = max(1, len(steps) // MOST_POINTS)
            axes.plot(steps[::every], values[::every], color="#b8c4d0", linewidth=0.7)
            axes.plot(steps[::every], _running_mean(values)[::every], color="#1f5f8b")
            axes.set_title(name.replace("_", " "), fontsize=9)
            axes.set_xlabel(MEANINGS.get(name, ""), fontsize=7, color="#555555")
            axes.spines[["top", "right"]].set_visible(False)
        file = io.StringIO()
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
    svg = file.getvalue()
    start = svg.index("<svg")
    # matplotlib's size in points would overflow a narrow window; the page's style sheet sets it.
    head = re.sub(r' (width|height)="[^"]*"', "", svg[start : svg.index(">", start)])
    return Markup(head + svg[svg.index(">", start) :])


def _running_mean(values: np.ndarray[Any, np.dtype[np.float64]]) -> Any:
    """At each step the mean of the last values, as many as 1/SMOOTH of the log."""
    span = max(1, len(values) // SMOOTH)
    total = np.concatenate([[0.0], np.cumsum(values)])
    last = np.arange(1, len(values) + 1)
    first = np.maximum(0, last - span)
    return (total[last] - total[first]) / (last - first)
