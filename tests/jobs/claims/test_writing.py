"""The words of verdicts, and the pages, from made-up numbers."""

from dataclasses import replace

import pytest

from jobs.claims.claims import Claim, Comparison, Method, Training
from jobs.claims.record import check_records, read_records, record_path
from jobs.claims.writing import judge, write_results
from pipeline.errors import UserError
from pipeline.options import write_json
from tests.jobs.claims.made_up import record_of, scores

DEMO, PAPER = Training("recipe demo"), Training("paper")
ONE = Claim(
    name="one",
    statement="Ours is better.",
    source="Figure 4.",
    methods=(Method("ours", DEMO), Method("theirs", PAPER), Method("no head", DEMO, aside=True)),
    primary=(Comparison("ours", "theirs"),),
)
TWO = Claim(
    name="two",
    statement="Either part is needed.",
    source="Figure 4.",
    methods=(Method("whole", DEMO), Method("no head", DEMO), Method("no tail", DEMO)),
    primary=(Comparison("whole", "no head"), Comparison("whole", "no tail")),
    further=(Comparison("no head", "no tail"),),
)
HIGH, LOW = (0.61, 0.60, 0.62, 0.60, 0.61), (0.50, 0.51, 0.50, 0.49, 0.52)
DOUBTFUL = (0.55, 0.51, 0.54, 0.51, 0.56)  # against LOW, p is 0.0285


@pytest.fixture(autouse=True)
def claims(monkeypatch):
    for module in ("writing", "record"):
        monkeypatch.setattr(f"jobs.claims.{module}.CLAIMS", {"one": ONE, "two": TWO})


def verdicts(**values):
    claims = {"one": ONE, "two": TWO}
    found = judge({name: record_of(claims[name], of) for name, of in values.items()})
    return {name: judged.verdict for name, judged in found.items()}


def test_a_claim_is_shown_or_contrary_or_neither():
    assert verdicts(one={"ours": HIGH, "theirs": LOW}) == {"one": "shown"}
    assert verdicts(one={"ours": LOW, "theirs": HIGH}) == {"one": "contrary"}
    assert verdicts(one={"ours": LOW, "theirs": LOW}) == {"one": "not shown"}


def test_a_claim_of_two_differences_needs_both():
    assert verdicts(two={"whole": HIGH, "no head": LOW, "no tail": LOW}) == {"two": "shown"}
    assert verdicts(two={"whole": HIGH, "no head": LOW, "no tail": HIGH}) == {"two": "not shown"}
    noisy = (0.40, 0.70, 0.45, 0.70, 0.50)
    assert verdicts(two={"whole": HIGH, "no head": LOW, "no tail": noisy}) == {"two": "not shown"}
    mixed = {"whole": DOUBTFUL, "no head": LOW, "no tail": HIGH}
    assert verdicts(two=mixed) == {"two": "not shown"}


def test_what_is_measured_of_one_claim_decides_how_much_another_needs():
    doubtful = {"ours": DOUBTFUL, "theirs": LOW}
    alone = judge({"one": record_of(ONE, doubtful)})["one"]
    assert 0.05 < alone.adjusted_p < 0.06  # twice what it would be as the only claim
    assert alone.verdict == "not shown"
    sure = {"whole": HIGH, "no head": LOW, "no tail": LOW}
    assert verdicts(one=doubtful, two=sure) == {"one": "shown", "two": "shown"}


def written(folder, **values):
    claims = {"one": ONE, "two": TWO}
    for name, of in values.items():
        write_json(record_path(folder, name), record_of(claims[name], of))
    write_results(folder, read_records(folder))
    return {path.name: path.read_text("utf-8") for path in folder.iterdir()}


def test_each_measured_claim_has_a_page_and_a_plot(tmp_path):
    files = written(tmp_path, one={"ours": HIGH, "theirs": LOW})
    assert sorted(files) == ["README.md", "claims.svg", "one.json", "one.md", "one.svg"]
    page = files["one.md"]
    assert page.startswith("# `one`: shown\n\nOurs is better.\n\nFigure 4.\n")
    assert "*ours against theirs* lies above 0." in page
    assert "| ours | recipe demo | 0.608 (0.598 to 0.618) |  | 0.750 | 2.50 |" in page
    assert "| no head | recipe demo | 0.500 (0.500 to 0.500) |" in page  # aside: not in the plot
    assert "| chance |  | 0.084 |" in page
    row = "| ours against theirs | named beforehand | +0.104 (+0.087 to +0.121) | < 0.0001 | "
    assert row + "+0.110, +0.090, +0.120, +0.110, +0.090 |" in page
    assert "5 seeds, 500 steps of recipe `demo` each" in page
    assert "0.25 hours of training and 0.10 of scoring (CPU, 2 cores)." in page
    assert "- Training *paper* is recipe `demo` with" in page
    assert "| recipe demo | 1.5, 1.5, 1.5, 1.5, 1.5 |" in page
    assert "```\npython -m jobs.reproduce --claim one\npython -m model.train" in page
    assert "![compatibility of each method](one.svg)" in page
    for name in ("ours", "theirs", "chance"):
        assert f">{name}<" in files["one.svg"]


def test_ground_truth_selection_is_the_mean_over_seeds_where_there_is_any(tmp_path):
    whole = record_of(ONE, {"ours": HIGH, "theirs": LOW})
    ours, *others = whole.methods
    ours = replace(ours, scores=tuple(scores(0.5, truth) for truth in (0.2, 0.3, 0.4, 0.3, 0.3)))
    write_results(tmp_path, {"one": replace(whole, methods=(ours, *others))})
    page = (tmp_path / "one.md").read_text("utf-8")
    assert (
        "| ours | recipe demo | 0.500 (0.500 to 0.500) | 0.300 (0.212 to 0.388) | 0.750 |" in page
    )


def test_the_overview_has_every_claim_with_its_verdict_or_without(tmp_path):
    text = written(tmp_path, one={"ours": LOW, "theirs": HIGH})["README.md"]
    row = next(line for line in text.splitlines() if line.startswith("| [`one`](one.md) |"))
    assert "ours against theirs: -0.104 (-0.121 to -0.087)" in row
    assert row.endswith(
        "| 0.0001 | **contrary** | 5 seeds, 500 steps, 1,500 scenes, 20 candidates, 10 draws, "
        "bank cccccccccccc |"
    )
    assert "| `two` | Either part is needed. |  |  | not measured |  |" in text


def test_the_page_of_a_claim_is_written_anew_where_another_changes_its_verdict(tmp_path):
    doubtful = {"ours": DOUBTFUL, "theirs": LOW}
    assert "# `one`: not shown" in written(tmp_path, one=doubtful)["one.md"]
    sure = {"whole": HIGH, "no head": LOW, "no tail": LOW}
    assert "# `one`: shown" in written(tmp_path, two=sure)["one.md"]


def test_the_same_numbers_give_the_same_bytes(tmp_path):
    values = {"two": {"whole": HIGH, "no head": LOW, "no tail": DOUBTFUL}}
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    assert written(tmp_path / "a", **values) == written(tmp_path / "b", **values)


def test_plots_show_every_method_that_is_not_aside_and_every_seed(tmp_path, monkeypatch):
    plots = {}
    monkeypatch.setattr(
        "jobs.claims.writing.plot_rows",
        lambda path, rows, label, mark, mark_name: plots.update({path.name: (rows, mark)}),
    )
    written(tmp_path, one={"ours": HIGH, "theirs": LOW}, two={"whole": LOW, "no tail": HIGH})
    rows, mark = plots["one.svg"]
    assert [(row.name, tuple(row.values)) for row in rows] == [("ours", HIGH), ("theirs", LOW)]
    assert [row.mean.value for row in rows] == pytest.approx([0.608, 0.504])
    assert mark == 0.084
    rows, mark = plots["claims.svg"]
    assert [row.name for row in rows] == [
        "one: shown\nours against theirs",
        "two: not shown\nwhole against no head",
        "two: not shown\nwhole against no tail",
    ]
    assert rows[0].values == pytest.approx([0.11, 0.09, 0.12, 0.11, 0.09])
    assert rows[2].values == pytest.approx([-0.11, -0.09, -0.12, -0.11, -0.09])
    assert [row.strong for row in rows] == [True, False, False]
    assert [row.mean.value for row in rows] == pytest.approx([0.104, 0.004, -0.104])
    assert mark == 0


def test_a_record_without_a_method_that_is_compared_says_what_to_do():
    record = record_of(ONE, {"ours": HIGH, "theirs": LOW})
    with pytest.raises(UserError, match=r"one.json has no scores of 'ghost'.*--claim one"):
        record.method("ghost")


def test_a_record_of_another_version_says_what_to_do(tmp_path):
    record_path(tmp_path, "one").write_text('{"claim": "one"}')
    with pytest.raises(UserError, match=r"one.json cannot be read .*remove it, and measure the"):
        read_records(tmp_path)


def test_a_reading_is_printed_of_what_was_read_alone(tmp_path, monkeypatch):
    values = {"ours": HIGH, "theirs": LOW}
    for steps, printed in ((500, True), (3, False)):
        read_of = (
            f"5 seeds, {steps} steps, 1,500 scenes, 20 candidates, 10 draws, bank cccccccccccc"
        )
        told = replace(ONE, reading="it helps.", read_of=read_of)
        for module in ("writing", "record"):
            monkeypatch.setattr(f"jobs.claims.{module}.CLAIMS", {"one": told, "two": TWO})
        page = written(tmp_path / str(steps), one=values)["one.md"]
        assert ("Read afterwards: it helps." in page) == printed


def test_a_record_without_a_method_that_its_claim_compares_is_refused(monkeypatch):
    whole = record_of(ONE, {"ours": HIGH, "theirs": LOW})
    check_records({"one": whole})
    lacking = replace(whole, methods=whole.methods[:1])
    with pytest.raises(UserError, match=r"one\.json has no scores of 'theirs'"):
        check_records({"one": lacking})
    further = replace(ONE, further=(Comparison("ours", "no head"),))
    monkeypatch.setattr("jobs.claims.record.CLAIMS", {"one": further})
    check_records({"one": whole})
    with pytest.raises(UserError, match=r"one\.json has no scores of 'no head'"):
        check_records({"one": replace(whole, methods=whole.methods[:2])})
