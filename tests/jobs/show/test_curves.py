"""The plots of a training log."""

from jobs.show.curves import MEANINGS, loss_curves
from model.config import LossWeights

LOG = [{"step": step, "total": 2.0 / (step + 1), "boxes": 0.1} for step in range(30)]


def test_curves_are_one_svg_with_a_plot_for_every_loss():
    svg = loss_curves(LOG)
    assert svg.startswith("<svg")
    assert svg.count("<svg") == 1
    assert "total" in svg
    assert "boxes" in svg
    assert svg == loss_curves(LOG)  # the same log gives the same bytes


def test_every_explained_loss_is_one_that_runs_log():
    assert set(MEANINGS) <= {*vars(LossWeights()), "total"}
