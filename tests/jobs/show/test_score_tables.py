"""What the tables of scores say, and what they never call by a published name."""

import pytest

from jobs.show.score_tables import PAPER, cell, group_of, offer, picture_tables, retrieval_tables
from model.config import MinQuality
from model.scores.intervals import Score
from model.scores.retrieval import Offered


def score(metric, choice="ours", value=0.5, **more):
    return Score(**{"metric": metric, "choice": choice, "value": value, "scenes": 9, **more})


def rows_of(table):
    return [
        [part.strip() for part in line.strip("|").split("|")]
        for line in table.splitlines()
        if line.startswith("|")
    ]


def test_the_paper_s_rows_stand_below_ours_in_their_blocks():
    scores = [
        score("FID", boxes="predicted", value=51.23, pictures=100),
        score("IS", boxes="predicted", value=9.5, spread=0.25, pictures=100),
        score("FID", boxes="gt", value=44.0, pictures=100),
    ]
    rows = rows_of(picture_tables(scores, "coco"))
    assert rows[0] == ["", "DS ↑", "FID ↓", "IS ↑", "scenes", "pictures"]
    names = [row[0] for row in rows[2:]]
    assert names == [
        "*Boxes predicted by each model*", "ours",
        *(f"*{name}, the paper*" for name in ("sg2im", "AttnGAN", "PasteGAN", "RetrieveGAN")),
        "*True boxes given*", "ours",
        *(f"*{name}, the paper*" for name in ("sg2im", "layout2im", "PasteGAN", "RetrieveGAN")),
        "*Photos*", "*real data, the paper*",
    ]  # fmt: skip
    assert rows[3] == ["ours", "-", "51.2", "9.500 ± 0.250", "9", "100"]
    assert rows[7] == ["*RetrieveGAN, the paper*", "0.34 ± 0.1", "43.2", "10.6 ± 0.6", "", ""]


def test_the_paper_s_rows_are_there_where_only_a_stand_in_has_looked():
    scores = [score("Fréchet distance (squeezenet)", boxes="gt", value=88.8, pictures=10)]
    text = picture_tables(scores, "vg")
    published, stand_in = text.split("**Pictures, by squeezenet")
    assert "70.3" in published
    assert "88.8" not in published
    assert "a stand-in, so no FID, KID, IS, DS" in stand_in
    assert "the paper" not in stand_in
    assert "the paper" not in picture_tables(scores, "toy")


def test_the_paper_s_table_is_the_printed_one():
    """Table 1: FID, IS and DS of both datasets, row by row."""
    printed = {
        ("predicted", "sg2im"): "136.8 4.1 0.02 126.9 5.1 0.11",
        ("predicted", "AttnGAN"): "72.8 8.4 0.14 114.6 10.4 0.27",
        ("predicted", "PasteGAN"): "59.8 8.8 0.43 81.8 6.7 0.30",
        ("predicted", "RetrieveGAN"): "43.2 10.6 0.34 70.3 7.7 0.24",
        ("gt", "sg2im"): "79.9 8.5 0.02 111.9 5.8 0.13",
        ("gt", "layout2im"): "45.3 10.2 0.29 44.0 9.3 0.29",
        ("gt", "PasteGAN"): "54.9 9.6 0.38 68.1 6.7 0.28",
        ("gt", "RetrieveGAN"): "42.7 10.7 0.21 46.3 9.1 0.23",
        ("", "real data"): "6.8 24.3 - 6.9 24.1 -",
    }
    found = {
        (block, row.model): [row.fid, row.inception.split()[0], row.diversity.split()[0]]
        for block, rows in PAPER["coco"].items()
        for row in rows
    }
    for block, rows in PAPER["vg"].items():
        for row in rows:
            values = [row.fid, row.inception.split()[0], row.diversity.split()[0]]
            found[block, row.model] += values
    assert {place: " ".join(values) for place, values in found.items()} == printed


@pytest.mark.parametrize(
    ("metric", "group"),
    [
        ("FID", "published"), ("DS", "published"), ("FD-DINOv2", "published"),
        ("recall (squeezenet)", "squeezenet"), ("layout IoU", "objects"),
        ("kernel distance (inception, weights 01234567)", "inception, weights 01234567"),
    ],
)  # fmt: skip
def test_each_extractor_has_a_table_of_its_own(metric, group):
    assert group_of(metric) == group


def test_what_is_unreliable_is_marked_and_says_why():
    marked = score("FID", boxes="gt", note="9 pictures for 2,048 dimensions", pictures=9)
    text = picture_tables([marked], "toy")
    assert "| 0.500* |" in text
    assert "\\* unreliable: 9 pictures for 2,048 dimensions" in text


def test_a_value_carries_its_deviation_or_its_interval():
    assert cell(score("m", value=12.345)) == "12.3"
    assert cell(score("m", value=0.1234, low=0.1, high=0.2)) == "0.123 (0.100 to 0.200)"
    assert cell(score("m", value=0.5, spread=0.1, low=0.4, high=0.6)) == "0.500 ± 0.100"


def test_retrieval_has_a_row_for_each_embedding_and_each_way_of_choosing():
    scores = [
        score("ground-truth selection", "trained", pairs=20.0),
        score("compatibility", "learned", value=0.6, pairs=12.0),
        score("compatibility", "chance", value=0.1, pairs=13.7),
        score("repeated crop", "learned", value=0.0, pairs=9.0),
    ]
    rows = rows_of(retrieval_tables("demo", scores))
    assert rows == [
        ["embedding", "ground-truth selection ↑", "pairs"], ["---", "---:", "---:"],
        ["trained", "0.500", "20"],
        ["way of choosing", "compatibility ↑", "pairs", "repeated crop ↓", "scenes"],
        ["---", "---:", "---:", "---:", "---:"],
        ["learned", "0.600", "12", "0.000", "9"], ["chance", "0.100", "14", "-", ""],
    ]  # fmt: skip


def test_the_header_says_what_was_offered_and_left_out():
    offered = Offered(40, 7.25, 3.0, 5, 60, 11, 0.196, 2)
    text = offer(offered, MinQuality())
    for part in ("7.2 candidates", "3 the median", "5 of 40 objects", "0.196", "11 of 60 pairs"):
        assert part in text
    short = (
        " 2 have none of --min-coverage 0.5 --min-side 32, and are offered one that falls short."
    )
    assert short.strip() not in text
    assert offer(offered, MinQuality(0.5, 32)).replace(short, "") == text
