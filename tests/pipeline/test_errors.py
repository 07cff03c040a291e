"""What the person at the keyboard reads."""

import pytest

from pipeline.errors import UserError, exit_code, suggestion

KNOWN = ["boat", "sky-other", "sea", "potted plant"]


@pytest.mark.parametrize(
    ("name", "meant"),
    [("boot", "boat"), ("skyy", "sky-other"), ("plants", "potted plant"), ("sae", "sea")],
)
def test_an_unknown_name_is_told_its_nearest_by_letters_or_by_word(name, meant):
    assert suggestion(name, KNOWN).startswith(f"did you mean {meant!r}")


def test_a_name_like_none_is_told_what_is_known():
    assert suggestion("xylophone", KNOWN) == "known are boat, sky-other, sea, potted plant"


def test_what_a_user_can_mend_is_one_line_and_exit_code_1(capsys):
    def job():
        raise UserError("no photos at data/coco")

    assert exit_code(job) == 1
    assert capsys.readouterr().err == "error: no photos at data/coco\n"


def test_a_bug_keeps_its_traceback():
    def job():
        raise KeyError("x")

    with pytest.raises(KeyError):
        exit_code(job)
