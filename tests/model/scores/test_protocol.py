"""A protocol card comes back as it was written, and says what is no longer so."""

import json
from dataclasses import replace

import pytest

from model.config import MinQuality
from model.scores.protocol import Judge, Photos, Protocol, ScoredRun, differences, read_protocol
from pipeline.errors import UserError
from pipeline.options import to_json, write_json

IDS = (3, 7)
RUN = ScoredRun(path="runs/demo", sha256="3" * 64, config_sha256="7" * 64, step=5, noise=False)
PHOTOS = Photos(split="test", image_ids=IDS, pixels={"64": "4" * 64})
JUDGE = Judge(name="squeezenet", weights="s.h5", described={"width": 512})
CARD = Protocol(
    scores=("retrieval", "images"), bank="bank/toy", content_digest="1" * 64,
    derived_digest="2" * 64, split="test", image_ids=IDS, near_duplicates_left_out=None,
    runs=(RUN,), folders=(), real=None, reference=PHOTOS, boxes=("gt",), per_graph=2,
    image_format="png", deprocessing="clip", judges=(JUDGE,), candidates=20, draws=4, styles=None,
    seed=0, device="cpu", threads=2, versions={"torch": "2.13.0"},
)  # fmt: skip


def test_it_comes_back_as_it_was_written(tmp_path):
    write_json(tmp_path / "card.json", CARD)
    read = read_protocol(tmp_path / "card.json")
    assert read == CARD
    assert read.digest == CARD.digest != replace(CARD, seed=1).digest
    assert differences(CARD, read) == []


def test_its_digest_does_not_follow_from_where_things_lie():
    elsewhere = replace(
        CARD, bank="https://example.org/toy", runs=(replace(RUN, path="other"),), styles="there",
        judges=(replace(JUDGE, weights=None),),
    )  # fmt: skip
    assert elsewhere.digest == CARD.digest
    assert replace(CARD, runs=(replace(RUN, sha256="5" * 64),)).digest != CARD.digest
    assert replace(CARD, styles_sha256="6" * 64).digest != CARD.digest


def test_a_card_of_before_there_was_a_quality_asked_for_none(tmp_path):
    card = to_json(CARD)
    del card["min_coverage"], card["min_side"]
    write_json(tmp_path / "card.json", card)
    assert read_protocol(tmp_path / "card.json").min_quality == MinQuality()
    strict = replace(CARD, min_coverage=0.5, min_side=32)
    assert strict.min_quality == MinQuality(0.5, 32)
    assert strict.digest != CARD.digest


def test_a_card_of_before_there_was_a_start_has_each_runs_own(tmp_path):
    card = to_json(CARD)
    del card["start"]
    write_json(tmp_path / "card.json", card)
    assert read_protocol(tmp_path / "card.json").start is None
    assert replace(CARD, start="best").digest != CARD.digest
    write_json(tmp_path / "card.json", card | {"start": "middle"})
    with pytest.raises(UserError, match="start"):
        read_protocol(tmp_path / "card.json")


def test_each_part_that_differs_is_named():
    other = replace(CARD, seed=1, versions={"torch": "2.12.0"})
    assert differences(CARD, other) == ["seed", "versions"]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"format": 2}, "is of format 2, this version reads 1"),
        ({"split": "holdout"}, "Invalid enum value"),
        ({"seed": "0"}, "seed"),
    ],
)
def test_another_card_is_refused_by_what_is_wrong_with_it(tmp_path, change, says):
    write_json(tmp_path / "card.json", CARD)
    card = json.loads((tmp_path / "card.json").read_text())
    (tmp_path / "card.json").write_text(json.dumps(card | change))
    with pytest.raises(UserError, match=says):
        read_protocol(tmp_path / "card.json")
