"""Which scores a run's page shows, and how its logs are read."""

import pytest

from jobs.show.run_page import last_scores, read_json_lines
from pipeline.errors import UserError


def test_only_the_last_evaluation_is_shown():
    def row(value, split, choice="trained"):
        return {"metric": "m", "choice": choice, "value": value, "split": split}

    lines = [
        row(0.1, "val"),
        row(0.2, "test", "untrained"),
        row(0.3, "val"),
        row(0.4, "val", "chance"),
    ]
    scores = last_scores(lines)
    assert [(choice, value) for _, choice, value, _ in scores.rows] == [
        ("trained", "0.300"),
        ("chance", "0.400"),
    ]
    assert scores.protocol == "split val"


def test_a_log_cut_short_is_read_up_to_there_and_a_damaged_one_is_refused(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_text('{"step": 0}\n{"step": 1, "to')
    assert read_json_lines(path) == [{"step": 0}]
    path.write_text('{"step": 0}\nnonsense\n{"step": 2}\n')
    with pytest.raises(UserError, match="line 2: not valid JSON"):
        read_json_lines(path)
    assert read_json_lines(tmp_path / "nothing.jsonl") == []


def test_what_is_unreliable_or_has_a_deviation_says_so_on_the_page():
    lines = [
        {"metric": "FID", "choice": "r", "boxes": "gt", "value": 9.0, "note": "9 pictures"},
        {"metric": "IS", "choice": "r", "boxes": "gt", "value": 2.0, "spread": 0.25},
    ]
    assert last_scores(lines).rows == (
        ("FID", "r, gt boxes", "9.000", "unreliable: 9 pictures"),
        ("IS", "r, gt boxes", "2.000", "± 0.250"),
    )
