import io
import sys

import pytest

from pipeline import progress as module
from pipeline.output import show_log
from pipeline.progress import Bar, Report, progress, reporting

BLOCKS = [range(1_000), range(1_500)]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_without_a_terminal_a_line_says_how_much_there_was(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert list(progress(BLOCKS, "reading", 2_500, "patch", size=len)) == BLOCKS
    assert capsys.readouterr().err.startswith("reading: 2,500 patches in 0.0 s")
    assert list(progress([1, 2, 3], "counting", 3, "photo")) == [1, 2, 3]
    assert capsys.readouterr().err.startswith("counting: 3 photos in 0.0 s")
    assert list(progress([1], "counting", 1, "photo")) == [1]
    assert capsys.readouterr().err.startswith("counting: 1 photo in 0.0 s")


def test_lines_in_between_say_how_far_it_is(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LINE_EVERY_S", 0.0)
    list(progress(BLOCKS, "reading", 2_500, "patch", size=len))
    assert capsys.readouterr().err.splitlines()[0] == "reading: 1,000/2,500 patches, 0 s"


def test_in_a_terminal_a_bar_counts_items_or_what_they_hold(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "stderr", Terminal())
    assert list(progress(BLOCKS, "reading", 2_500, "patch", size=len)) == BLOCKS
    assert "reading: 100%" in sys.stderr.getvalue()  # type: ignore[attr-defined]
    assert "2500/2500" in sys.stderr.getvalue()  # type: ignore[attr-defined]
    monkeypatch.setattr(sys, "stderr", Terminal())
    assert list(progress([1, 2, 3], "counting", 3, "photo")) == [1, 2, 3]
    assert "3/3" in sys.stderr.getvalue()  # type: ignore[attr-defined]


def test_what_was_done_before_counts_and_a_note_is_shown(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LINE_EVERY_S", 0.0)
    list(progress([1, 2], "training", 9, "step", done=7, note=lambda: "total 0.5"))
    assert capsys.readouterr().err.splitlines() == [
        "training: 8/9 steps, 0 s, total 0.5",
        "training: 9 steps, the last 2 in 0.0 s, total 0.5",
    ]
    monkeypatch.setattr(sys, "stderr", Terminal())
    list(progress([1, 2], "training", 9, "step", done=7, note=lambda: "total 0.5"))
    bar = sys.stderr.getvalue()  # type: ignore[attr-defined]
    assert "7/9" in bar
    assert "9/9" in bar
    assert "total 0.5" in bar


def test_where_information_is_not_shown_there_is_no_progress_either(
    capsys: pytest.CaptureFixture[str],
) -> None:
    show_log(quiet=True)
    assert list(progress([1, 2], "counting", 2)) == [1, 2]
    show_log()
    assert capsys.readouterr() == ("", "")


def test_a_line_says_how_long_the_rest_will_take(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    times = iter([0.0, 20.0, 40.0, 41.0])
    monkeypatch.setattr(module.time, "monotonic", lambda: next(times))
    bar = Bar("training", 100, "step", done=10)
    bar.advance(30)
    bar.reach(70)
    bar.close()
    assert capsys.readouterr().err.splitlines() == [
        "training: 40/100 steps, 20 s, about 40 s left",
        "training: 70/100 steps, 40 s, about 20 s left",
        "training: 70 steps, the last 60 in 41.0 s",
    ]


def test_work_that_fails_has_no_last_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ZeroDivisionError), Bar("dividing", 2):
        raise ZeroDivisionError
    assert capsys.readouterr().err == ""


def test_where_it_is_reported_nothing_is_shown(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    reports: list[Report] = []
    with reporting(reports.append):
        assert list(progress(BLOCKS, "reading", 2_500, "patch", size=len)) == BLOCKS
    assert reports == [
        Report("reading", 0, 2_500, "patch"),
        Report("reading", 2_500, 2_500, "patch"),
    ]
    monkeypatch.setattr(module, "REPORT_EVERY_S", 0.0)
    with reporting(reports.append):
        list(progress(BLOCKS, "reading", 3_000, "patch", size=len, done=500))
    assert [report.done for report in reports[2:]] == [500, 1_500, 3_000]
    assert capsys.readouterr().err == ""
    list(progress(BLOCKS, "reading", 2_500, "patch", size=len))
    assert capsys.readouterr().err != ""
