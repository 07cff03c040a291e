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


def test_what_is_logged_now_and_then_is_a_curve_too():
    log = [{"step": step, "total": 1.0} for step in range(4)]
    log[2]["score/val"] = 0.5
    assert ">score/val<" in loss_curves(log)
