"""jobs.evaluate on runs whose scores are known beforehand."""

import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from bank.bank import Bank
from bank.errors import BankError
from jobs.evaluate import Evaluate, main
from jobs.sample import SampleOptions
from jobs.sample import main as sample
from jobs.show import cards
from jobs.show.cards import scenes_to_score
from model import checkpoint
from model.config import MinQuality
from model.loop import save
from model.offer import stored_offer
from model.recipes import demo, sg2im_demo
from model.retrievegan.run import bank_of, load_network
from model.scores import references, style
from model.scores import scenes as evaluation
from model.scores.picture_folder import write_picture
from model.trainers import trainer_for
from pipeline.errors import UserError
from pipeline.options import write_json

CPU = torch.device("cpu")
K = 4


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """No data/toy in sight."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture(autouse=True)
def short_training(monkeypatch):
    """The style classifier need not be good here."""
    monkeypatch.setattr(style, "STEPS", 10)


@pytest.fixture(scope="module")
def bank(toy_bank):
    return Bank.open(toy_bank)


@pytest.fixture
def styles(bank, tmp_path):
    """Writes a file of styles, style_of(image_id) for every photo of the bank."""

    def write(style_of, name="styles.json"):
        ids = np.unique(bank.patch_ids >> 16).tolist()
        write_json(tmp_path / name, {"styles": {i: style_of(i) for i in ids}})
        return tmp_path / name

    return write


@pytest.fixture
def saved(bank, tmp_path):
    """A run that was saved before its first step, after `change(model)`."""

    def write(change=lambda model: None, mode="learned", start="random", name="run", **more):
        rule = replace(demo().retrieval, mode=mode, start=start, **more)
        config = replace(demo(), retrieval=rule, seed=5)  # its networks begin from that seed
        trainer = trainer_for(config, bank, CPU)
        change(trainer.model)
        run = tmp_path / name
        run.mkdir()
        write_json(run / "config.json", {"bank": str(bank.path), "train": config})
        save(trainer, bank, run)
        return run

    return write


@pytest.fixture(scope="module")
def sg2im_run(bank, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "sg2im"
    folder.mkdir()
    write_json(folder / "config.json", {"bank": str(bank.path), "train": sg2im_demo()})
    save(trainer_for(sg2im_demo(), bank, CPU), bank, folder)
    return folder


def evaluate(run, **options):
    """Scores of retrieval by (metric, choice)."""
    before = len(lines_of(run))
    main(Evaluate(run=(run,), **{"num": 6, "candidates": K, "scores": ("retrieval",), **options}))
    return {(s["metric"], s["choice"]): s for s in lines_of(run)[before:]}


def lines_of(run):
    path = run / "metrics.jsonl"
    return [json.loads(x) for x in path.read_text().splitlines()] if path.exists() else []


def numbers(score):
    return [score[name] for name in ("value", "low", "high", "scenes", "pairs")]


def test_a_run_before_its_first_step_scores_as_the_untrained_network(saved, styles):
    scores = evaluate(saved(), styles=styles(lambda i: i % 3))
    selection, together = "ground-truth selection", "compatibility"
    assert numbers(scores[selection, "trained"]) == numbers(scores[selection, "untrained"])
    assert numbers(scores[together, "learned"]) == numbers(scores[together, "untrained"])
    assert [choice for metric, choice in scores if metric == together] == [
        "learned", "learned, noise on", "untrained", "predefined", "random",
        "start-conditioned oracle", "global oracle", "chance",
    ]  # fmt: skip
    oracle, chance = (
        scores[together, choice]["value"] for choice in ("start-conditioned oracle", "chance")
    )
    assert chance < oracle


def test_training_that_moved_the_embedding_shows(saved):
    def move(model):
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            weight = model.embedding.head.weight
            weight.copy_(torch.randn(weight.shape, generator=generator))

    scores = evaluate(saved(move), num=20)
    selection = "ground-truth selection"
    assert scores[selection, "trained"]["value"] != scores[selection, "untrained"]["value"]


def test_a_network_whose_embedding_head_is_zeroed_scores_exactly_the_chance(saved):
    def zero(model):
        torch.nn.init.zeros_(model.embedding.head.weight)
        torch.nn.init.ones_(model.embedding.head.bias)

    scores = evaluate(saved(zero))
    chance = numbers(scores["ground-truth selection", "chance"])
    assert chance[0] == pytest.approx(1 / (K + 1))
    for choice in ("trained", "constant E_p"):
        assert numbers(scores["ground-truth selection", choice]) == chance
    assert scores["ground-truth selection", "untrained"]["value"] != chance[0]


def test_noise_is_on_in_its_own_row_alone(saved, styles):
    """Without noise a network that tells no patches apart takes the first of them, the nearest."""
    run = saved(lambda model: torch.nn.init.zeros_(model.embedding.head.weight))
    scores = evaluate(run, styles=styles(lambda i: i % 3), num=20)
    rows = ("learned", "learned, noise on", "predefined")
    quiet, noisy, nearest = (numbers(scores["compatibility", row]) for row in rows)
    assert quiet == nearest != noisy


def test_where_every_photo_has_one_style_every_choice_is_compatible(saved, styles):
    scores = evaluate(saved(start="medoid"), styles=styles(lambda i: 2))
    together = [s for (metric, _), s in scores.items() if metric == "compatibility"]
    assert len(together) == 8
    assert all((s["value"], s["high"]) == (1.0, 1.0) for s in together)


def test_scores_do_not_depend_on_how_many_scenes_go_together(saved, monkeypatch):
    run = saved()
    at_once = evaluate(run)
    monkeypatch.setattr(evaluation, "SCENES_AT_ONCE", 2)
    monkeypatch.setattr(evaluation, "PATCHES_AT_ONCE", 7)
    for key, score in evaluate(run).items():
        assert numbers(score) == pytest.approx(numbers(at_once[key])), key


def test_the_protocol_stands_beside_the_numbers(saved, bank, capsys):
    run = saved()
    scores = evaluate(run, seed=3)
    for score in scores.values():
        assert (score["split"], score["num_scenes"], score["candidates"]) == ("val", 6, K)
        assert (score["seed"], score["step"], score["bank"]) == (3, 0, bank.content_digest)
    out = capsys.readouterr().out
    assert f"Split val, 6 scenes, K = {K}" in out
    assert f"seed 3, bank {bank.content_digest[:12]}" in out
    assert "| trained | " in out
    assert "the styles of this bank's photos are not known" in out


def test_scores_are_added_to_those_of_earlier_calls(saved):
    run = saved()
    first = evaluate(run)
    assert evaluate(run) == first
    assert len(lines_of(run)) == 2 * len(first)


def test_a_run_without_learned_retrieval_claims_no_trained_embedding(saved, styles, capsys):
    scores = evaluate(saved(mode="predefined"), styles=styles(lambda i: i % 3))
    assert not {"trained", "learned", "learned, noise on"} & {choice for _, choice in scores}
    assert ("compatibility", "predefined") in scores
    assert "retrieval is predefined in this run" in capsys.readouterr().out


def test_scenes_are_drawn_by_seed_from_the_split_alone(bank):
    drawn = [scenes_to_score(bank, "val", 5, seed).tolist() for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert set(drawn[0]) <= set(bank.scene_ids("val").tolist())
    every = scenes_to_score(bank, "test", None, 0)
    assert every.tolist() == bank.scene_ids("test").tolist()


def test_styles_of_another_toy_world_are_refused(saved, styles, bank, tmp_path):
    run, file = saved(), styles(lambda i: i % 3)
    name = next(n for n in bank.manifest.inputs if n.endswith(".json"))
    (tmp_path / name).parent.mkdir()
    (tmp_path / name).write_text("{}")
    with pytest.raises(UserError, match="another toy world"):
        evaluate(run, styles=file)


def test_styles_lying_in_the_default_place_are_used_only_if_they_are_the_bank_s(
    saved, styles, bank, tmp_path
):
    run = saved()
    (tmp_path / "data/toy/annotations").mkdir(parents=True)
    styles(lambda i: i % 3, "data/toy/styles.json")
    assert ("compatibility", "learned") in evaluate(run)
    name = next(n for n in bank.manifest.inputs if n.endswith(".json"))
    (tmp_path / "data/toy" / name).write_text("{}")
    assert ("compatibility", "learned") not in evaluate(run)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{"styles": {"1": 0}}', "no style for photo"),
        ('{"styles": [1, 2]}', "no file of styles"),
        ("{", "no file of styles"),
        ("[" * 20_000, "no file of styles"),
        ('{"styles": {"1": 1e999}}', "no file of styles"),
        (None, "cannot be read"),
    ],
)
def test_styles_that_cannot_be_used_are_one_clear_line(saved, tmp_path, text, says):
    file = tmp_path / "broken.json"
    if text is not None:
        file.write_text(text)
    with pytest.raises(UserError, match=says):
        evaluate(saved(), styles=file)


def test_more_candidates_than_the_bank_has_are_refused(saved):
    with pytest.raises(BankError, match="asked for are 10000"):
        evaluate(saved(), candidates=10_000)


def test_candidates_are_of_the_quality_of_the_training_unless_another_is_asked_for(
    saved, bank, capsys
):
    plain, strict = saved(), saved(name="strict", min_coverage=0.8)
    selection = ("ground-truth selection", "trained")
    scores = evaluate(strict)
    table = capsys.readouterr().out
    assert f"Split val, 6 scenes, K = {K} --min-coverage 0.8, 4 draws" in table
    ids = bank.contents.patches_of_images(scenes_to_score(bank, "val", 6, 0))
    below = stored_offer(bank, np.concatenate(ids), K, MinQuality(0.8)).below
    assert f" {below.sum()} have none of --min-coverage 0.8, and are offered one that" in table
    assert {(s["min_coverage"], s["min_side"]) for s in scores.values()} == {(0.8, 0)}
    asked = evaluate(plain, min_coverage=0.8)
    free = evaluate(strict, min_coverage=0.0)
    assert numbers(asked[selection]) == numbers(scores[selection])
    assert numbers(free[selection]) == numbers(evaluate(plain)[selection])
    assert numbers(free[selection]) != numbers(scores[selection])


def test_a_card_holds_the_quality_and_is_measured_again_by_it(saved, tmp_path, capsys):
    out, again = tmp_path / "out", tmp_path / "again"
    options = {"scores": ("retrieval",), "num": 6, "candidates": K}
    main(Evaluate(run=(saved(min_coverage=0.8),), min_side=8, out=out, **options))
    card = json.loads((out / "protocol.json").read_text())
    assert (card["min_coverage"], card["min_side"]) == (0.8, 8)
    main(Evaluate(protocol=out / "protocol.json", out=again))
    assert "each equal to the last bit" in capsys.readouterr().out
    with pytest.raises(ValueError, match="says all that is measured: leave out --min-coverage"):
        Evaluate(protocol=out / "protocol.json", min_coverage=0.8)


def test_runs_of_unlike_quality_are_compared_by_one_that_is_given(saved, sg2im_run):
    runs = (saved(), saved(name="strict", min_coverage=0.8, min_side=8), sg2im_run)
    options = {"run": runs, "scores": ("retrieval",), "num": 3, "candidates": K}
    for given in ({}, {"min_side": 8}):
        with pytest.raises(UserError, match=r"^these runs were trained .* --min-coverage and") as e:
            main(Evaluate(**options, **given))
        assert "strict with --min-coverage 0.8 --min-side 8)" in str(e.value)
    main(Evaluate(**options, min_coverage=0.5, min_side=0))
    assert {s["min_coverage"] for run in runs[:2] for s in lines_of(run)} == {0.5}


@pytest.mark.parametrize("start", ["random", "medoid", "best"])
def test_scores_from_a_start_that_is_asked_for_are_those_of_a_run_with_it(
    saved, styles, capsys, start
):
    given = {"styles": styles(lambda i: i % 3), "scores": ("retrieval",), "num": 20}
    other = "medoid" if start == "best" else "best"
    asked = evaluate(saved(start=other), start=start, **given)
    table = capsys.readouterr().out
    own = evaluate(saved(name="own", start=start), **given)
    assert f", start {start}, " in table
    assert ", start " not in capsys.readouterr().out
    assert {key: numbers(score) for key, score in asked.items()} == {
        key: numbers(score) for key, score in own.items()
    }
    assert {s["start"] for s in asked.values()} == {start}
    assert {s["start"] for s in own.values()} == {"as trained"}
    elsewhere = evaluate(saved(name="other", start=other), **given)
    learned = ("compatibility", "learned")
    assert numbers(elsewhere[learned]) != numbers(asked[learned])


def test_a_card_holds_the_start_and_is_measured_again_by_it(saved, tmp_path, capsys):
    out, again = tmp_path / "out", tmp_path / "again"
    options = {"scores": ("retrieval", "canvas"), "num": 6, "candidates": K}
    main(Evaluate(run=(saved(start="random"),), start="best", out=out, **options))
    card = json.loads((out / "protocol.json").read_text())
    assert card["start"] == "best"
    assert card["runs"][0]["noise"]  # without it both pictures of a graph would be of one set
    main(Evaluate(protocol=out / "protocol.json", out=again))
    assert "each equal to the last bit" in capsys.readouterr().out
    assert json.loads((again / "protocol.json").read_text())["start"] == "best"
    with pytest.raises(ValueError, match="says all that is measured: leave out --start"):
        Evaluate(protocol=out / "protocol.json", start="best")


def test_a_start_is_refused_by_the_run_that_cannot_have_it(saved, sg2im_run):
    options = {"scores": ("retrieval",), "num": 3, "candidates": K}
    nearest = saved(mode="predefined", name="nearest")
    fixed = saved(query="fixed", name="fixed")
    for run, says in (
        (nearest, "predefined retrieval takes"),
        (fixed, "this run was trained with"),
    ):
        with pytest.raises(UserError, match=f"^{run}: start best: {says}"):
            main(Evaluate(run=(saved(name=f"by {run.name}"), run), start="best", **options))
    with pytest.raises(UserError, match=r"^--start best: no run here retrieves patches; leave it"):
        main(Evaluate(run=(sg2im_run,), start="best", **options))
    main(Evaluate(run=(fixed, sg2im_run), start="medoid", **options))
    assert {s["start"] for s in lines_of(fixed)} == {"medoid"}


@pytest.mark.parametrize("wrong", [{"min_coverage": -0.1}, {"min_side": -1}])
def test_a_quality_that_no_patch_can_have_is_refused(wrong):
    flag = next(iter(wrong)).replace("_", "-")
    with pytest.raises(ValueError, match=f"^--{flag} is "):
        Evaluate(run=(Path("run"),), **wrong)


def test_an_embedding_that_is_not_finite_is_refused(saved):
    def spoil(model):
        torch.nn.init.constant_(model.embedding.head.bias, float("nan"))

    with pytest.raises(UserError, match="not finite"):
        evaluate(saved(spoil))


def test_a_loaded_run_has_the_weights_it_was_saved_with_and_is_in_evaluation_mode(saved, bank):
    saved_model = {}
    run = saved(lambda model: saved_model.update(model.state_dict()))
    opened = bank_of(run)
    model, state = load_network(run, opened, CPU)
    assert not model.training
    assert opened.content_digest == bank.content_digest
    assert state.step == 0
    for name, value in model.state_dict().items():
        assert torch.equal(value, saved_model[name]), name


def score_pictures(tmp_path, name="out", **options):
    """A small evaluation with pictures; its scores by (metric, choice, boxes), and its folder."""
    out = tmp_path / name
    main(Evaluate(**{"num": 5, "candidates": K, "draws": 2, "out": out, **options}))
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return {(s["metric"], s["choice"], s["boxes"]): s for s in lines}, out


FRECHET = "Fréchet distance (efficientnet-lite0)"


def test_several_runs_make_one_table_of_both_blocks(saved, sg2im_run, bank, tmp_path, capsys):
    run = saved()
    scores, out = score_pictures(tmp_path, run=(run, sg2im_run), real=True, scores=("images",))
    assert {(choice, boxes) for _, choice, boxes in scores} == {
        *((name, boxes) for name in ("run", "sg2im") for boxes in ("predicted", "gt")),
        ("real photos", ""),
    }
    assert {name for name, *_ in scores if name.startswith(("F", "K", "I", "D"))} == {FRECHET}
    assert all(scores[FRECHET, name, "gt"]["pictures"] == 10 for name in ("run", "sg2im"))
    assert scores[FRECHET, "real photos", ""]["pictures"] == 5
    assert ("layout IoU", "run", "predicted") in scores
    assert ("layout IoU", "run", "gt") not in scores
    table = (out / "table.md").read_text()
    assert table in capsys.readouterr().out + "\n"
    assert (
        table.index("predicted by each model") < table.index("True boxes") < table.index("Photos")
    )
    assert "unreliable: 10 pictures for 1,280 dimensions" in table
    card = json.loads((out / "protocol.json").read_text())
    splits = [card["split"], *(card[some]["split"] for some in ("reference", "real"))]
    assert splits == ["val", "val", "test"]
    assert len(card["image_ids"]) == 5
    assert card["settings"] == {
        "kernel_distance_subsets": 100, "kernel_distance_subset_size": 1000,
        "inception_score_splits": 10, "precision_recall_neighbours": 3, "jpeg_quality": 75,
    }  # fmt: skip
    assert card["reference"]["image_ids"] == bank.scene_ids("val").tolist()
    assert {*card["real"]["image_ids"]} <= {*bank.scene_ids("test").tolist()}


def test_a_card_measures_the_same_again_to_the_last_bit(saved, styles, tmp_path, capsys):
    run = saved()
    options = {"run": (run,), "styles": styles(lambda i: i % 3), "real": True}
    main(Evaluate(num=5, candidates=K, draws=2, **options))
    appended = lines_of(run)
    (out,) = (run / "scores").iterdir()
    capsys.readouterr()
    again = tmp_path / "again"
    main(Evaluate(protocol=out / "protocol.json", out=again))
    lines = (out / "metrics.jsonl").read_text().splitlines()
    assert f"{len(lines)} scores, each equal to the last bit" in capsys.readouterr().out
    for name in ("metrics.jsonl", "table.md", "protocol.json"):
        assert (again / name).read_bytes() == (out / name).read_bytes(), name
    assert lines_of(run) == appended  # measured again, not anew
    costs = json.loads((out / "costs.json").read_text())
    assert {"making pictures", "features, efficientnet-lite0"} < costs.keys()
    assert all(part["seconds"] >= 0 for part in costs.values())


def test_numbers_that_differ_from_the_card_s_are_an_error(saved, tmp_path):
    _, out = score_pictures(tmp_path, run=(saved(),), scores=("retrieval",))
    lines = (out / "metrics.jsonl").read_text().splitlines(keepends=True)
    other = json.loads(lines[1])
    other["value"] = np.nextafter(other["value"], 2)
    (out / "metrics.jsonl").write_text("".join([lines[0], json.dumps(other) + "\n", *lines[2:]]))
    with pytest.raises(UserError, match=f"1 score of {len(lines)} came out otherwise"):
        main(Evaluate(protocol=out / "protocol.json"))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"content_digest": "0" * 64, "image_ids": [3]}, "content_digest"),
        ({"runs": []}, "runs"),
        ({"styles_sha256": "0" * 64}, "styles_sha256"),
    ],
)
def test_a_card_whose_subject_is_another_now_is_refused(saved, styles, tmp_path, change, named):
    options = {"styles": styles(lambda i: i % 3), "scores": ("retrieval",)}
    _, out = score_pictures(tmp_path, run=(saved(),), **options)
    card = json.loads((out / "protocol.json").read_text())
    styles_of_card = (tmp_path / "styles.json").read_bytes()
    assert card["styles_sha256"] == hashlib.sha256(styles_of_card).hexdigest()
    if named == "runs":
        card["runs"][0]["sha256"] = "0" * 64
        named = rf"runs \({tmp_path}/run\)"
    else:
        card |= change
    (out / "protocol.json").write_text(json.dumps(card))
    with pytest.raises(UserError, match=f"no longer as on the card: {named}"):
        main(Evaluate(protocol=out / "protocol.json"))


def test_another_version_of_a_package_is_a_warning(saved, tmp_path, caplog):
    _, out = score_pictures(tmp_path, run=(saved(),), scores=("retrieval",))
    card = json.loads((out / "protocol.json").read_text())
    card["versions"]["torch"] = "1.0"
    (out / "protocol.json").write_text(json.dumps(card))
    main(Evaluate(protocol=out / "protocol.json"))
    assert "other versions than the card's: numbers may differ" in caplog.text


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (None, "cannot be read"),
        ("{}", "missing required field"),
        ("[" * 20_000, "give a protocol.json"),
        ('{"format": 2}', "give a protocol.json"),
    ],
)
def test_a_card_that_cannot_be_used_is_one_clear_line(tmp_path, text, says):
    path = tmp_path / "card.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UserError, match=says):
        main(Evaluate(protocol=path))


def test_a_run_s_pictures_score_the_same_from_their_files(saved, sg2im_run, bank, tmp_path):
    """What jobs.sample writes is what jobs.evaluate scores."""
    run = saved()
    folders = []
    for source in (run, sg2im_run):
        folders.append(tmp_path / f"{source.name}-files")
        sample(SampleOptions(run=source, split="val", out=folders[-1], draws=2, boxes="predicted"))
    options = {"num": None, "candidates": None, "scores": ("images",), "boxes": "predicted"}
    scores, _ = score_pictures(
        tmp_path, run=(run, sg2im_run), images=tuple(folders), bank=bank.path, **options
    )
    metrics = {metric for metric, *_ in scores} - {"layout IoU"}
    assert len(metrics) == 6
    for metric in metrics:
        for name in ("run", sg2im_run.name):
            own, read = (scores[metric, each, "predicted"] for each in (name, f"{name}-files"))
            assert own["value"] == read["value"], metric
            assert own["pairs"] == read["pairs"], metric


def test_the_best_checkpoint_is_scored_beside_sg2im_which_has_none(
    saved, sg2im_run, bank, tmp_path
):
    run = saved()
    path = checkpoint.last(run) / "state.json"
    state = json.loads(path.read_text()) | {"best": {"step": 0, "score": 0.5}}
    path.write_text(json.dumps(state))
    options = {"scores": ("images",), "boxes": "gt", "checkpoint": "best"}
    _, out = score_pictures(tmp_path, run=(run, sg2im_run), **options)
    card = json.loads((out / "protocol.json").read_text())
    assert [each["step"] for each in card["runs"]] == [0, 0]
    main(Evaluate(protocol=out / "protocol.json"))


def test_missing_and_extra_pictures_are_counted_and_named(saved, bank, tmp_path, caplog):
    folder = tmp_path / "made"
    sample(SampleOptions(run=saved(), split="val", out=folder))
    with pytest.raises(UserError, match="made with gt boxes; give --images-gt"):
        score_pictures(tmp_path, images=(folder,), bank=bank.path, scores=("images",))
    first, second, *_ = bank.scene_ids("val").tolist()
    (folder / f"{first}.png").unlink()
    (folder / f"{second}.png").rename(folder / "7.png")
    scores, _ = score_pictures(
        tmp_path, images_gt=(folder,), bank=bank.path, scores=("images",), num=None
    )
    assert f"missing: 2 scenes ({first}, {second})" in caplog.text
    assert "extra: 1 file ('7.png')" in caplog.text
    assert scores[FRECHET, "made", "gt"]["pictures"] == 18
    assert ("diversity (efficientnet-lite0)", "made", "gt") not in scores  # a picture per scene


def test_jpeg_moves_the_scores(saved, tmp_path):
    run = saved()
    options = {"run": (run,), "scores": ("images",), "boxes": "gt"}
    png, jpg = (
        score_pictures(tmp_path, name, image_format=name, **options)[0][FRECHET, "run", "gt"]
        for name in ("png", "jpg")
    )
    assert png["value"] != jpg["value"]


def test_sg2im_s_min_max_is_offered_and_no_default(sg2im_run, tmp_path):
    options = {"run": (sg2im_run,), "scores": ("images",), "boxes": "gt"}
    by_default, clipped, stretched = (
        score_pictures(tmp_path, name, **options, **given)[0][FRECHET, "sg2im", "gt"]["value"]
        for name, given in (
            ("default", {}),
            ("clip", {"deprocessing": "clip"}),
            ("min-max", {"deprocessing": "min-max"}),
        )
    )
    assert by_default == clipped != stretched


def test_scenes_like_training_photos_can_be_left_out(saved, bank, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(
        cards, "scenes_like_training", lambda bank, split: bank.scene_ids(split)[:2]
    )
    options = {"run": (saved(),), "scores": ("retrieval",), "num": None}
    _, out = score_pictures(tmp_path, leave_out_near_duplicates=True, **options)
    card = json.loads((out / "protocol.json").read_text())
    assert card["image_ids"] == bank.scene_ids("val")[2:].tolist()
    assert card["near_duplicates_left_out"] == 2
    assert "18 scenes, 2 that look like training photos left out" in capsys.readouterr().out
    options |= {"scores": ("images",), "real": True, "num": 18}
    _, out = score_pictures(tmp_path, "images", leave_out_near_duplicates=True, **options)
    card = json.loads((out / "protocol.json").read_text())
    for some in ("reference", "real"):
        left_out = bank.scene_ids(card[some]["split"])[:2].tolist()
        assert not {*card[some]["image_ids"]} & {*left_out}


def test_reference_features_are_kept_by_the_hash_of_what_they_follow_from(
    saved, tmp_path, monkeypatch
):
    run = saved()
    options = {"run": (run,), "scores": ("images",), "boxes": "gt", "per_graph": 1}
    first, _ = score_pictures(tmp_path, "first", **options)
    blank_photos = lambda _, ids, px: np.zeros((len(ids), px, px, 3), np.uint8)  # noqa: E731
    monkeypatch.setattr(references, "photos", blank_photos)
    with pytest.raises(UserError, match="no longer as on the card: reference"):
        main(Evaluate(protocol=tmp_path / "first" / "protocol.json"))
    blank, _ = score_pictures(tmp_path, "blank", **options)
    assert blank[FRECHET, "run", "gt"]["value"] != first[FRECHET, "run", "gt"]["value"]


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({}, "nothing to score"),
        ({"real": True}, "without --run, give --bank"),
        ({"run": ("r",), "extractor": ("vgg",)}, "--extractor vgg: give efficientnet-lite0"),
        ({"run": ("r",), "extractor": ("lpips", "a", "b")}, "each with at most one path"),
        ({"run": ("r",), "extractor": ("squeezenet", "a", "squeezenet")}, "give each once"),
        ({"run": ("r",), "protocol": "p"}, "leave out --run"),
        ({"run": ("r",), "extractor": ()}, "--extractor: give at least one"),
        ({"run": ("r",), "scores": ("retrieval",), "real": True}, "--real is of pictures"),
        ({"run": ("r",), "scores": ("retrieval",), "boxes": "gt"}, "--boxes is of pictures"),
        ({"run": ("r",), "per_graph": 0}, "--per-graph must be at least 1"),
    ],
)
def test_options_that_make_no_sense_together_are_refused(given, says):
    with pytest.raises(ValueError, match=says):
        Evaluate(**given)


def test_each_extractor_takes_the_path_behind_it():
    options = Evaluate(run=("r",), extractor=("squeezenet", "s.h5", "efficientnet-lite0"))
    assert options.judges == (("squeezenet", Path("s.h5")), ("efficientnet-lite0", None))


def test_the_chosen_patches_are_also_scored_on_a_canvas_beside_nearest_and_random_ones(
    saved, tmp_path
):
    options = {"run": (saved(mode="predefined"),), "draws": 3, "per_graph": 2}
    scores, out = score_pictures(tmp_path, scores=("canvas", "images"), boxes="gt", **options)
    names = {choice for metric, choice, _ in scores if metric == FRECHET}
    assert names == {"run", "canvas, run", "canvas: one of the 3 nearest", "canvas: random"}
    own, nearest = (
        scores[FRECHET, n, "gt"] for n in ("canvas, run", "canvas: one of the 3 nearest")
    )
    assert own["value"] == nearest["value"]  # the run's own way is that of predefined retrieval
    for name in names:  # with noise, or its draws would be alike
        assert scores["diversity (efficientnet-lite0)", name, "gt"]["pairs"] > 0
    assert "drawn with noise" in (out / "table.md").read_text()
    nearest, _ = score_pictures(tmp_path, "one", scores=("canvas",), **(options | {"per_graph": 1}))
    assert (FRECHET, "canvas: the nearest", "gt") in nearest


def test_draws_of_retrieval_are_not_the_pictures_of_a_graph(saved, styles, tmp_path):
    options = {"styles": styles(lambda i: i % 3), "scores": ("retrieval",)}
    scores, _ = score_pictures(tmp_path, run=(saved(),), draws=3, per_graph=2, **options)
    alike = scores["unlike choices over draws", "predefined", ""]
    assert alike["value"] == pytest.approx(1 / 3)


def test_the_classifier_s_accuracy_and_what_it_agrees_on_are_told_apart(
    saved, styles, bank, tmp_path, monkeypatch
):
    def first_style(classifier, pictures, boxes, object_image):
        return torch.zeros(pictures.shape[1], len(boxes), dtype=torch.long)

    monkeypatch.setattr(style, "classify", first_style)
    options = {"run": (saved(),), "styles": styles(lambda i: i % 3), "scores": ("images",)}
    scores, out = score_pictures(tmp_path, boxes="gt", num=None, **options)
    name = "the scenes' own photos, 64 px"
    rows = [bank.scene(int(i)).patch_ids for i in bank.scene_ids("val")]
    right = np.concatenate([np.full(len(ids), int(ids[0] >> 16) % 3 == 0) for ids in rows])
    assert scores["accuracy of the style classifier", name, ""]["value"] == pytest.approx(
        right.mean()
    )
    assert scores["style agreement", name, ""]["value"] == 1
    card = json.loads((out / "protocol.json").read_text())
    assert card["style_classifiers"].keys() == {"64"}
    monkeypatch.setattr(style, "STEPS", 11)
    with pytest.raises(UserError, match="no longer as on the card: style_classifiers"):
        main(Evaluate(protocol=out / "protocol.json"))


def test_rows_of_one_name_are_told_apart_and_none_is_given_twice(saved, bank, tmp_path):
    run = saved()
    folders = [tmp_path / each / "run" for each in ("a", "b")]
    for folder in folders:
        sample(SampleOptions(run=run, split="val", out=folder, seed=len(folder.parent.name)))
    options = {"bank": bank.path, "scores": ("images",), "boxes": "gt", "per_graph": 1}
    scores, _ = score_pictures(tmp_path, run=(run,), images_gt=tuple(folders), **options)
    names = {choice for metric, choice, _ in scores if metric == FRECHET}
    assert names == {"run", *map(str, folders)}
    with pytest.raises(UserError, match="is given twice"):
        score_pictures(tmp_path, run=(run, run), **options)
    with pytest.raises(UserError, match="is given twice"):
        score_pictures(tmp_path, images_gt=(folders[0], folders[0]), **options)


def test_a_run_s_own_scores_are_never_replaced_by_a_table(saved):
    run = saved()
    evaluate(run)
    before = lines_of(run)
    with pytest.raises(UserError, match="is a run, which has its own scores"):
        main(Evaluate(run=(run,), scores=("retrieval",), out=run))
    assert lines_of(run) == before


def test_pictures_larger_than_the_bank_s_photos_are_refused(bank, tmp_path):
    for image_id in bank.scene_ids("val"):
        write_picture(tmp_path / "large", image_id, 0, 1, np.zeros((256, 256, 3), np.uint8))
    with pytest.raises(UserError, match="256 px a side, the bank's photos 128 px"):
        score_pictures(tmp_path, images=(tmp_path / "large",), bank=bank.path, scores=("images",))


def test_one_picture_too_many_leaves_no_scene_out_and_too_few_are_refused(bank, tmp_path):
    ids = bank.scene_ids("val").tolist()
    for image_id in ids:
        write_picture(tmp_path / "made", image_id, 0, 1, np.zeros((64, 64, 3), np.uint8))
    (tmp_path / "made" / f"{ids[0]}_1.png").write_bytes(
        (tmp_path / "made" / f"{ids[1]}.png").read_bytes()
    )
    options = {
        "images": (tmp_path / "made",),
        "bank": bank.path,
        "scores": ("images",),
        "num": None,
    }
    scores, _ = score_pictures(tmp_path, **options)
    assert scores[FRECHET, "made", "predicted"]["pictures"] == len(ids)
    for image_id in ids[3:]:
        (tmp_path / "made" / f"{image_id}.png").unlink()
    with pytest.raises(UserError, match="pictures of 3 scenes; scores of sets need at least 4"):
        score_pictures(tmp_path, **options)
    with pytest.raises(UserError, match="3 test scenes: scores of pictures need at least 4"):
        score_pictures(tmp_path, real=True, bank=bank.path, num=3)


def test_a_card_is_measured_again_by_its_own_checkpoint_and_threads(saved, bank, tmp_path):
    run = saved()
    threads = torch.get_num_threads()
    _, out = score_pictures(tmp_path, run=(run,), scores=("retrieval",))
    trained = checkpoint.last(run).parent / "step-000007"
    shutil.copytree(checkpoint.last(run), trained)
    state = json.loads((trained / "state.json").read_text())
    (trained / "state.json").write_text(json.dumps(state | {"step": 7}))
    card = json.loads((out / "protocol.json").read_text())
    (out / "protocol.json").write_text(json.dumps(card | {"threads": threads + 1}))
    try:
        main(Evaluate(protocol=out / "protocol.json"))
        assert torch.get_num_threads() == threads + 1
    finally:
        torch.set_num_threads(threads)
    shutil.rmtree(trained.parent / "step-000000")
    with pytest.raises(UserError, match="no longer has its checkpoint of step 0"):
        main(Evaluate(protocol=out / "protocol.json"))
    (out / "protocol.json").write_text(json.dumps(card | {"device": "cuda:77"}))
    with pytest.raises(UserError, match="cuda:77"):
        main(Evaluate(protocol=out / "protocol.json"))


def test_a_bank_that_has_moved_is_named_for_a_card(saved, bank, tmp_path, capsys):
    _, out = score_pictures(tmp_path, run=(saved(),), scores=("retrieval",))
    card = json.loads((out / "protocol.json").read_text())
    (out / "protocol.json").write_text(json.dumps(card | {"bank": str(tmp_path / "gone")}))
    with pytest.raises(UserError, match="gone"):
        main(Evaluate(protocol=out / "protocol.json"))
    main(Evaluate(protocol=out / "protocol.json", bank=bank.path))
    assert "each equal to the last bit" in capsys.readouterr().out


def test_a_table_elsewhere_adds_nothing_to_the_run(saved, tmp_path):
    run = saved()
    score_pictures(tmp_path, run=(run,), scores=("retrieval",))
    assert not (run / "metrics.jsonl").exists()
    assert not (run / "scores").exists()


def test_a_place_that_cannot_be_written_is_refused_before_the_work(saved, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        score_pictures(tmp_path, "file", run=(saved(),), scores=("retrieval",))
    assert "Retrieval" not in capsys.readouterr().out


def test_without_a_place_for_a_cache_scores_are_the_same(
    saved, styles, tmp_path, monkeypatch, caplog
):
    options = {"run": (saved(),), "scores": ("images",), "boxes": "gt"}
    options["styles"] = styles(lambda i: i % 3)
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("RETRIEVEGAN_CACHE", str(tmp_path / "file" / "cache"))
    without, _ = score_pictures(tmp_path, "without", **options)
    assert caplog.text.count("not kept in the cache ($RETRIEVEGAN_CACHE)") == 2
    monkeypatch.setenv("RETRIEVEGAN_CACHE", str(tmp_path / "cache"))
    kept, _ = score_pictures(tmp_path, "kept", **options)
    assert kept == without


def test_a_run_that_learned_by_other_settings_is_another(saved, tmp_path):
    run = saved()
    _, out = score_pictures(tmp_path, run=(run,), scores=("retrieval",))
    config = json.loads((run / "config.json").read_text())
    config["train"]["execution"]["log_every"] = 3
    (run / "config.json").write_text(json.dumps(config))
    main(Evaluate(protocol=out / "protocol.json"))  # how it was executed plays no part
    config["train"]["seed"] += 1
    (run / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="no longer as on the card: runs"):
        main(Evaluate(protocol=out / "protocol.json"))


def test_another_bank_is_named_before_the_scenes_that_it_lacks(saved, tmp_path):
    options = {"scores": ("images",), "boxes": "gt", "per_graph": 1}
    _, out = score_pictures(tmp_path, run=(saved(),), **options)
    card = json.loads((out / "protocol.json").read_text())
    card |= {"content_digest": "0" * 64, "image_ids": [3] * 5}
    card["reference"]["image_ids"] = [3] * 5
    (out / "protocol.json").write_text(json.dumps(card))
    with pytest.raises(UserError, match="no longer as on the card: content_digest"):
        main(Evaluate(protocol=out / "protocol.json"))
