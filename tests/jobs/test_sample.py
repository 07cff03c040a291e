"""What `jobs.sample` leaves on disk, whom it credits, what it refuses."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from bank.bank import Bank
from jobs.sample import SampleOptions, main
from jobs.show.samples import CELL
from jobs.show.sampling import parse_pin
from jobs.show.sheets import GAP, LINE
from model.config import LossWeights
from model.loop import save
from model.recipes import demo, sg2im_demo
from model.sg2im.network import Sg2Im
from model.sg2im.published import save_published_sg2im
from model.sg2im.run import load_network
from model.trainers import trainer_for
from pipeline.errors import UserError
from pipeline.options import write_json
from pipeline.scene import IMAGE, IN_IMAGE, SceneGraph, Vocabulary

GRAPH = {"objects": ["sky-other", "grass", "tree", "tree"], "relationships": [[0, "above", 1]]}
SCENE = SceneGraph(tuple(GRAPH["objects"]), ())


@pytest.fixture(scope="module")
def bank(toy_bank):
    return Bank.open(toy_bank)


@pytest.fixture(scope="module")
def run(bank, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "00001-toy"
    folder.mkdir()
    write_json(folder / "config.json", {"bank": str(bank.path), "train": demo()})
    save(trainer_for(demo(), bank, torch.device("cpu")), bank, folder)
    return folder


@pytest.fixture(scope="module")
def sg2im_run(bank, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "00002-toy"
    folder.mkdir()
    write_json(folder / "config.json", {"bank": str(bank.path), "train": sg2im_demo()})
    save(trainer_for(sg2im_demo(), bank, torch.device("cpu")), bank, folder)
    return folder


@pytest.fixture
def graph(tmp_path):
    path = tmp_path / "meadow.json"
    path.write_text(json.dumps(GRAPH))
    return path


def test_draws_that_cannot_differ_are_written_once_which_is_said(
    run, graph, bank, tmp_path, capsys
):
    def images(**asked):
        out = tmp_path / f"out-{len([*tmp_path.iterdir()])}"
        main(SampleOptions(**{"run": run, "graph": (graph,), "draws": 3, "out": out, **asked}))
        said = "in the draws of 1 graph: 1 image in place of 3 that" in capsys.readouterr().err
        return len([*out.rglob("image-*.png")]), said

    network = Sg2Im(bank.vocabulary, 4, 4, 2, image_px=16, noise=0, decoder=(4, 4))
    save_published_sg2im(tmp_path / "no-noise.pt", network)
    sea = tmp_path / "sea.json"
    sea.write_text('{"objects": ["sea", "tree", "tree", "tree", "tree"]}')
    patches = bank.patch_ids.tolist()
    pins = tuple(f"{o}={patches[o]}" for o in range(4))
    assert images(retrieval="predefined") == (3, False)
    assert images(retrieval="predefined", noise=False) == (1, True)
    assert images(retrieval="predefined", noise=False, beside=("random",)) == (3, False)
    assert images(start="best", noise=False) == (1, True)
    assert images(start="medoid", noise=False) == (1, True)
    assert images(start="random", noise=False) == (3, False)
    assert images(retrieval="random") == (3, False)
    assert images(retrieval="random", candidates=1) == (1, True)
    assert images(retrieval="random", candidates=2) == (3, False)
    assert images(pin=pins[:3]) == (3, False)
    assert images(pin=pins) == (1, True)
    assert images(pin=pins, graph=(graph, sea)) == (4, True)
    assert images(run=tmp_path / "no-noise.pt") == (1, True)


def test_each_draw_leaves_image_patches_and_sources_and_all_are_credited(run, graph, bank, capsys):
    main(SampleOptions(run=run, graph=(graph,), draws=2))
    out = run / "samples" / "meadow"
    names = {path.name for path in out.iterdir()}
    kinds = ("image", "patches", "sources")
    assert names == {f"{kind}-{n}.png" for kind in kinds for n in (0, 1)} | {"credits.txt"}
    with Image.open(out / "image-1.png") as image:
        assert image.size == (64, 64)
    text = (out / "credits.txt").read_text()
    assert text in capsys.readouterr().out
    assert text.count("patch ") == 8
    some = int(text.split("patch ")[1].split()[0])
    (credit,) = bank.credits([some])
    for part in (credit["file"], credit["licence"], credit["source_url"], credit["category"]):
        assert part in text
    (out / "image-of-mine-2.png").write_text("not ours")
    main(SampleOptions(run=run, graph=(graph,)))  # leaves no picture that is not credited
    names = {path.name for path in out.iterdir()}
    assert names == {f"{kind}-0.png" for kind in kinds} | {"credits.txt", "image-of-mine-2.png"}


@pytest.mark.parametrize("start", ["random", "medoid", "best"])
def test_draws_that_would_all_be_alike_have_noise_and_a_single_one_has_none(
    run, graph, tmp_path, capsys, start
):
    def patches(name, **options):
        main(SampleOptions(run=run, graph=(graph,), start=start, out=tmp_path / name, **options))
        said.append("drawn with noise (" in capsys.readouterr().out)
        pages = sorted((tmp_path / name).glob("patches-*.png"))
        return [page.read_bytes() for page in pages]

    said = []
    several = patches("several", draws=3)
    assert len({*several}) > 1
    noisy, quiet = patches("noisy", draws=3, noise=True), patches("quiet", draws=3, noise=False)
    drawn = start == "random"  # the start
    assert said == [not drawn, False, False]
    assert several == (quiet if drawn else noisy)
    assert patches("one") == quiet[:1]
    assert not said[-1]


def test_the_start_is_the_run_s_own_unless_another_is_asked_for(run, graph, tmp_path):
    def patches(name, **options):
        options = {"run": run, "graph": (graph,), "draws": 4, "noise": False, **options}
        main(SampleOptions(out=tmp_path / name, **options))
        return [page.read_bytes() for page in sorted((tmp_path / name).glob("patches-*.png"))]

    assert demo().retrieval.start == "best"
    starts = ("random", "medoid", "best")
    asked = {start: patches(start, start=start) for start in starts}
    assert patches("own") == asked["best"] != asked["medoid"]
    assert len(asked["random"]) == 4
    beside = patches("beside", start="medoid", beside=("predefined", "random", "learned"))
    assert beside[0] == asked["medoid"][0]
    *_, learned = cells_of(tmp_path / "beside" / "comparison.png", 4)[0]
    with Image.open(tmp_path / "medoid" / "image-0.png") as image:
        own = image.resize((CELL, CELL), Image.Resampling.BICUBIC)
    assert learned == np.asarray(own).tobytes()


def test_a_run_that_no_loss_of_images_trained_says_so(run, bank, graph, tmp_path, capsys):
    def warned(name, folder):
        main(SampleOptions(run=folder, graph=(graph,), out=tmp_path / name))
        return "trained with no loss of images" in capsys.readouterr().err

    alone = tmp_path / "alone"
    shutil.copytree(run, alone)
    weights = LossWeights(adversarial_image=0, adversarial_object=0, reconstruction=0)
    config = {"bank": str(bank.path), "train": replace(demo(), losses=weights)}
    write_json(alone / "config.json", config)
    assert warned("of-alone", alone)
    assert not warned("of-run", run)


@pytest.mark.parametrize("out", [False, True])
def test_a_start_is_refused_where_nothing_starts(run, graph, tmp_path, out):
    """In a graph's folder and in plain files."""
    where = {"split": "test", "out": tmp_path / "out"} if out else {"graph": (graph,)}
    says = "^start medoid: predefined retrieval takes each object by itself .* leave the start out"
    with pytest.raises(UserError, match=says):
        main(SampleOptions(run=run, start="medoid", retrieval="predefined", **where))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("how", [{"noise": True}, {"start": "random"}])
def test_a_draw_is_that_of_its_own_seed(run, graph, tmp_path, how):
    def patches(name, n, **options):
        main(SampleOptions(run=run, graph=(graph,), out=tmp_path / name, **how, **options))
        return (tmp_path / name / f"patches-{n}.png").read_bytes()

    second = patches("both", 1, draws=2)
    assert second == patches("second", 0, seed=1)
    assert second != patches("first", 0)


def test_pins_and_bans_are_obeyed_by_every_draw(run, graph, bank, tmp_path):
    main(SampleOptions(run=run, graph=(graph,), out=tmp_path / "free", candidates=2))
    text = (tmp_path / "free" / "credits.txt").read_text()
    sky = int(text.split("0 sky-other: patch ")[1].split()[0])
    tree = int(bank.patch_ids[-1])
    options = {"pin": (f"3={tree}",), "ban": (sky,), "draws": 2, "candidates": 2}
    main(SampleOptions(run=run, graph=(graph,), out=tmp_path / "bound", **options))
    text = (tmp_path / "bound" / "credits.txt").read_text()
    assert text.count(f"3 tree: patch {tree} ") == 2
    assert f"patch {sky} " not in text


def test_a_quality_is_asked_for_and_what_falls_short_of_it_is_marked(
    run, graph, bank, tmp_path, capsys
):
    def credits(name, **options):
        main(SampleOptions(run=run, graph=(graph,), out=tmp_path / name, **options))
        lines = (tmp_path / name / "credits.txt").read_text().splitlines()
        return [line for line in lines if ": patch " in line]

    mark = "; of less quality than asked for: no better one is there"
    lines = credits("asked", min_coverage=0.9, beside=("random",), draws=2)
    assert len(lines) == 4 * len(GRAPH["objects"])
    for line in lines:
        share = bank.quality(np.array([int(line.split("patch ")[1].split()[0])])).mask_share[0]
        assert line.endswith(mark) == (share < 0.9)
    assert 0 < sum(line.endswith(mark) for line in lines) < len(lines)
    assert not any(line.endswith(mark) for line in credits("free", beside=("random",)))
    with (
        Image.open(tmp_path / "asked" / "patches-0.png") as marked,
        Image.open(tmp_path / "free" / "patches-0.png") as plain,
    ):
        assert marked.height > plain.height  # lines of a label


def test_a_list_of_graphs_gets_a_folder_each(run, tmp_path):
    path = tmp_path / "two.json"
    path.write_text(json.dumps([GRAPH, {"objects": ["sea"]}]))
    main(SampleOptions(run=run, graph=(path,), out=tmp_path / "out"))
    assert (tmp_path / "out" / "000" / "image-0.png").is_file()
    assert "0 sea: patch" in (tmp_path / "out" / "001" / "credits.txt").read_text()


def test_an_object_can_be_pinned_by_place_or_by_a_name_that_is_there_once():
    assert parse_pin("1=7", SCENE) == (1, 7)
    assert parse_pin("sky-other=9", SCENE) == (0, 9)


@pytest.mark.parametrize(
    ("pin", "message"),
    [
        ("tree=7", "has 'tree' at 2, 3"),
        ("gras=7", "no 'gras'; did you mean 'grass'"),
        ("grass", "write object=patch_id"),
        ("grass=-7", "write object=patch_id"),
    ],
)
def test_a_pin_that_cannot_be_read_is_refused_by_name(pin, message):
    with pytest.raises(UserError, match=message):
        parse_pin(pin, SCENE)


def test_a_pin_or_ban_is_refused_as_typed_with_the_graph_that_it_does_not_fit(run, bank, tmp_path):
    meadow, sea, out = (tmp_path / name for name in ("meadow.json", "sea.json", "out"))
    meadow.write_text('{"objects": ["sky-other", "tree"]}')
    sea.write_text('{"objects": ["sea"]}')
    known, other = bank.patch_ids[:2]
    for given, said in (
        ({"pin": ("tree=7",)}, rf"--pin tree=7: .* has no patch 7 \(the graph of {out}/meadow\)"),
        ({"pin": (f"1={known}",)}, rf"--pin 1={known}: .* no object 1, .* of {out}/sea\)"),
        ({"pin": (f"1={known}",), "ban": (known,)}, rf"--pin 1={known}: .* banned as well"),
        ({"pin": (f"0={known}", f"0={other}")}, f"--pin 0={other}: .* pinned to patch {known} too"),
        ({"ban": (7,)}, "ban 7: .* has no patch 7$"),
    ):
        with pytest.raises(UserError, match=f"^{said}"):
            main(SampleOptions(run=run, graph=(meadow, sea), out=out, **given))
    assert not out.exists()


def test_an_unknown_object_of_the_graph_is_refused_with_the_nearest_names(run, tmp_path):
    path = tmp_path / "wrong.json"
    path.write_text(json.dumps({"objects": ["sheeep"]}))
    with pytest.raises(UserError, match="'sheep'"):
        main(SampleOptions(run=run, graph=(path,)))


def test_a_data_folder_that_is_named_but_missing_is_refused(run, graph, tmp_path):
    with pytest.raises(UserError, match="there is no such folder"):
        main(SampleOptions(run=run, graph=(graph,), data=tmp_path / "nowhere"))


@pytest.mark.parametrize(
    "wrong",
    [{"draws": 0}, {"seed": -1}, {"candidates": 0}, {"min_coverage": 1.1}, {"min_side": -1}],
)
def test_options_that_make_no_sense_are_refused(run, graph, wrong):
    with pytest.raises(ValueError, match=f"^--{next(iter(wrong)).replace('_', '-')} "):
        SampleOptions(run=run, graph=(graph,), **wrong)


# Methods compared


def cells_of(path, across):
    """comparison.png's pictures, row by row."""
    with Image.open(path) as page:
        pixels = np.asarray(page)
    step = CELL + GAP
    rows = round(page.height / (step + LINE))
    return [
        [
            pixels[GAP + r * (step + LINE) :, GAP + c * step :][:CELL, :CELL].tobytes()
            for c in range(across)
        ]
        for r in range(rows)
    ]


def test_methods_are_compared_side_by_side_and_all_are_credited(run, sg2im_run, graph, tmp_path):
    out = tmp_path / "out"
    beside = ("predefined", "random", str(sg2im_run))
    main(SampleOptions(run=run, graph=(graph,), out=out, draws=2, beside=beside))

    first, second = cells_of(out / "comparison.png", 4)
    assert len(set(first)) == 4
    own, predefined, random, sg2im = (a == b for a, b in zip(first, second, strict=True))
    assert not predefined  # one of the three nearest
    assert not own
    assert not random
    assert not sg2im
    text = (out / "credits.txt").read_text()
    for seed in (0, 1):
        for method in ("predefined", "random"):
            title = f"comparison.png, {method} (seed {seed})\n"
            credit = text.split(title)[1].split("\n\n")[0]
            assert credit.count("patch ") == len(GRAPH["objects"])
        assert f"png, {sg2im_run.name}, sg2im (seed {seed})\n  made of no patch" in text


def test_bans_and_pins_hold_for_the_run_s_other_methods_too(run, graph, bank, tmp_path):
    options = {"run": run, "graph": (graph,), "beside": ("predefined", "random"), "draws": 4}
    main(SampleOptions(out=tmp_path / "free", **options))
    first = (tmp_path / "free" / "credits.txt").read_text().split("predefined (seed 0)\n")[1]
    sky = int(first.split("0 sky-other: patch ")[1].split()[0])
    pin = (f"3={int(bank.patch_ids[-1])}",)
    main(SampleOptions(out=tmp_path / "bound", ban=(sky,), pin=pin, candidates=2, **options))
    text = (tmp_path / "bound" / "credits.txt").read_text()
    assert f"patch {sky} " not in text
    assert text.count(f"3 tree: patch {int(bank.patch_ids[-1])} ") == 12


def test_a_name_that_a_compared_method_does_not_know_is_refused_before_anything_is_written(
    run, graph, tmp_path
):
    torch.manual_seed(0)
    vocabulary = Vocabulary((IMAGE, "grass", "tree"), (IN_IMAGE, "above"))
    network = Sg2Im(vocabulary, 4, 4, 2, image_px=16, noise=1, decoder=(4, 4))
    save_published_sg2im(tmp_path / "other.pt", network)
    options = SampleOptions(
        run=run, graph=(graph,), out=tmp_path / "out", beside=(str(tmp_path / "other.pt"),)
    )
    with pytest.raises(UserError, match=r"other\.pt, sg2im does not know 'sky-other'"):
        main(options)
    assert not (tmp_path / "out").exists()


def test_an_sg2im_run_alone_leaves_images_of_no_patch(sg2im_run, graph, tmp_path):
    main(SampleOptions(run=sg2im_run, graph=(graph,), out=tmp_path / "out", draws=2))
    assert {p.name for p in (tmp_path / "out").iterdir()} == {
        "image-0.png",
        "image-1.png",
        "credits.txt",
    }
    images = [(tmp_path / "out" / f"image-{n}.png").read_bytes() for n in (0, 1)]
    assert images[0] != images[1]


def test_a_published_checkpoint_is_sampled_as_a_run_is(sg2im_run, graph, tmp_path, capsys):
    network = load_network(sg2im_run, torch.device("cpu"))
    save_published_sg2im(tmp_path / "toy64.pt", network)
    checkpoint = torch.load(tmp_path / "toy64.pt", weights_only=True)
    checkpoint["model_kwargs"]["vec_noise_dim"] = 0
    torch.save(checkpoint, tmp_path / "toy64.pt")
    main(SampleOptions(run=sg2im_run, graph=(graph,), out=tmp_path / "a"))
    main(SampleOptions(run=tmp_path / "toy64.pt", graph=(graph,), out=tmp_path / "b"))
    a, b = ((tmp_path / name / "image-0.png").read_bytes() for name in "ab")
    assert a == b
    assert "ignored 'model_kwargs.vec_noise_dim'" in capsys.readouterr().err


def test_held_out_scenes_keep_their_boxes_and_are_shown_beside_their_photo(run, bank, tmp_path):
    out = tmp_path / "out"
    main(SampleOptions(run=run, split="val", scenes=2, out=out, beside=("predefined",)))
    image_ids = [int(i) for i in bank.scene_ids("val")[:2]]
    assert sorted(p.name for p in out.iterdir()) == sorted(str(i) for i in image_ids)
    ((photo, *_),) = cells_of(out / str(image_ids[0]) / "comparison.png", 3)
    scene = bank.scene(image_ids[0])
    shown = Image.fromarray(scene.image).resize((CELL, CELL), Image.Resampling.BICUBIC)
    assert photo == np.asarray(shown).tobytes()
    (credit,) = bank.credits([int(scene.patch_ids[0])])
    text = (out / str(image_ids[0]) / "credits.txt").read_text()
    assert f"comparison.png, photo: {credit['file']}" in text


def test_as_text_prints_graphs_and_writes_nothing(run, graph, bank, capsys):
    before = sorted(run.rglob("*"))
    main(SampleOptions(run=run, graph=(graph,), as_text=True))
    assert capsys.readouterr().out == "sky-other above grass and tree and tree\n"
    main(SampleOptions(run=run, split="val", scenes=3, as_text=True))
    lines = capsys.readouterr().out.splitlines()
    assert [int(line.split("\t")[0]) for line in lines] == bank.scene_ids("val")[:3].tolist()
    scene = bank.scene(int(bank.scene_ids("val")[0]))
    relation = scene.triples[0]
    first_relation = f"{scene.objects[relation.subject]} {relation.predicate} "
    assert lines[0].split("\t")[1].startswith(first_relation)
    assert sorted(run.rglob("*")) == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"retrieval": "random"}, "--retrieval: .* is of sg2im"),
        ({"pin": ("0=1",)}, "--pin: .* is of sg2im"),
        ({"min_side": 0}, "--min-side: .* is of sg2im"),
        ({"start": "best"}, "--start: .* is of sg2im"),
        ({"beside": ("predefined",)}, "one of sg2im, which retrieves nothing"),
        ({"beside": ("runs/none",)}, "neither learned, predefined, random nor a run"),
    ],
)
def test_what_sg2im_cannot_do_is_refused(sg2im_run, graph, options, message):
    with pytest.raises(UserError, match=message):
        main(SampleOptions(run=sg2im_run, graph=(graph,), **options))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"as_text": True, "beside": ("random",)}, "--as-text only prints"),
        ({"draws": 21, "beside": ("random",)}, "at most 20 draws, not 21"),
    ],
)
def test_what_would_be_passed_over_in_silence_is_refused(run, graph, options, message):
    with pytest.raises(ValueError, match=message):
        SampleOptions(run=run, graph=(graph,), **options)


def test_a_file_or_a_split_is_wanted_and_not_both(run, graph):
    for options in ({}, {"graph": graph, "split": "val"}):
        with pytest.raises(ValueError, match="one of the two"):
            SampleOptions(run=run, **options)


def test_several_graph_files_each_get_a_folder_of_their_name(run, graph, tmp_path):
    other = tmp_path / "other.json"
    other.write_text(json.dumps([{"objects": ["tree"]}, {"objects": ["grass", "tree"]}]))
    main(SampleOptions(run=run, graph=(graph, other), out=tmp_path / "out"))
    images = {p.relative_to(tmp_path / "out").as_posix() for p in tmp_path.rglob("image-0.png")}
    assert images == {f"{graph.stem}/image-0.png", "other/000/image-0.png", "other/001/image-0.png"}


def test_a_split_is_written_as_plain_files_with_their_credits(run, sg2im_run, bank, tmp_path):
    out = tmp_path / "out"

    def names():
        return {path.name for path in out.iterdir()} - {"credits.jsonl"}

    main(SampleOptions(run=run, split="test", out=out, draws=2, start="random"))
    ids = bank.scene_ids("test").tolist()
    assert names() == {f"{image_id}_{draw}.png" for image_id in ids for draw in (0, 1)}
    credits = [json.loads(line) for line in (out / "credits.jsonl").read_text().splitlines()]
    assert [line["picture"] for line in credits] == [
        f"{i}_{draw}.png" for i in ids for draw in (0, 1)
    ]
    first = credits[0]["patches"]
    assert len(first) == len(bank.scene(ids[0]).objects)
    assert {"patch_id", "file", "licence", "source_url"} <= first[0].keys()
    some = (out / f"{ids[0]}_0.png").read_bytes()
    options = {"split": "test", "out": out, "scenes": 3}
    main(SampleOptions(run=run, start="random", **options))  # leaves none of the earlier ones
    assert names() == {f"{image_id}.png" for image_id in ids[:3]}
    assert (out / f"{ids[0]}.png").read_bytes() == some
    main(SampleOptions(run=sg2im_run, **options))
    assert names() == {f"{image_id}.png" for image_id in ids[:3]}
    assert (out / f"{ids[0]}.png").read_bytes() != some
    line = json.loads((out / "credits.jsonl").read_text().splitlines()[0])
    assert line == {"picture": f"{ids[0]}.png", "boxes": "gt", "patches": []}


def test_plain_files_of_draws_that_would_be_alike_have_noise_which_is_said(run, tmp_path, capsys):
    def pictures(name, **options):
        out = tmp_path / name
        main(SampleOptions(run=run, split="test", scenes=3, out=out, **options))
        said.append("drawn with noise (" in capsys.readouterr().out)
        return {path.name: path.read_bytes() for path in out.glob("*.png")}

    said = []
    both, noisy = pictures("both", draws=2), pictures("noisy", draws=2, noise=True)
    assert both == noisy
    assert len({*both.values()}) > 3
    medoid = pictures("medoid", start="medoid")
    assert medoid != pictures("one")
    assert said == [True, False, False, False]


def test_plain_files_are_of_the_quality_asked_for_and_say_what_falls_short(
    run, sg2im_run, bank, tmp_path, capsys
):
    out = tmp_path / "out"
    main(SampleOptions(run=run, split="test", out=out, draws=2, min_coverage=0.9))
    patches = [
        patch
        for line in (out / "credits.jsonl").read_text().splitlines()
        for patch in json.loads(line)["patches"]
    ]
    share = bank.quality(np.array([patch["patch_id"] for patch in patches])).mask_share
    below = [patch.get("below_quality", False) for patch in patches]
    assert below == (share < 0.9).tolist()
    assert 0 < sum(below) < len(below)
    objects, short = len(below) // 2, sum(below) // 2
    said = f"--min-coverage 0.9: {short} of {objects} objects are given a patch that falls short"
    assert said in capsys.readouterr().out
    with pytest.raises(UserError, match=r"^--min-coverage: .* is of sg2im, which retrieves no"):
        main(SampleOptions(run=sg2im_run, split="test", out=out, min_coverage=0.9))


def test_pictures_that_something_else_made_are_not_taken_away(run, tmp_path):
    (tmp_path / "7.png").write_bytes(b"not ours")
    with pytest.raises(UserError, match=r"holds pictures already, 7\.png: name another"):
        main(SampleOptions(run=run, split="test", out=tmp_path))
    assert (tmp_path / "7.png").read_bytes() == b"not ours"


@pytest.mark.parametrize(
    "given",
    [{"boxes": "predicted"}, {"deprocessing": "min-max"}, {"out": "out", "pin": ("0=1",)}],
)
def test_options_of_plain_files_are_refused_elsewhere_and_pins_with_them(given):
    with pytest.raises(ValueError, match="--split with --out"):
        SampleOptions(run="run", split="val", **given)
