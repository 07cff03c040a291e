import io
import sys

import pytest

from pipeline import progress as module
from pipeline.progress import progress

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
