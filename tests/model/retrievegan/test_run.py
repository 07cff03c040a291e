"""A run in use: which patches a graph is given, what pins, bans and boxes do to it."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from bank.errors import BankError
from model.config import MinQuality
from model.draws import ByPosition
from model.graph.frozen_encoder import embed_graphs
from model.loop import save
from model.recipes import demo
from model.retrieval.choice import choose
from model.retrievegan import run as run_module
from model.retrievegan.run import SMALLEST_SIDE, RetrieveGANRun, tidy_boxes
from model.retrievegan.trainer import RetrieveGANTrainer
from model.run_folder import RunError
from pipeline.errors import UserError
from pipeline.options import write_json
from pipeline.scene import Box, Relation, SceneGraph
from tests.model.small_runs import edit_state

CPU = torch.device("cpu")
GRAPH = SceneGraph(("sky-other", "grass", "tree", "tree"), (Relation(0, "above", 1),))


@pytest.fixture(scope="module")
def run(bank, tmp_path_factory):
    """A run that was saved before its first step."""
    folder = tmp_path_factory.mktemp("runs") / "00001-toy"
    folder.mkdir()
    config = demo()
    write_json(folder / "config.json", {"bank": str(bank.path), "train": config})
    save(RetrieveGANTrainer.for_bank(config, bank, CPU), bank, folder)
    return folder


@pytest.fixture(scope="module")
def opened(run):
    return RetrieveGANRun.open(run)


def nearest_ids(opened, **asked):
    return opened.retrieve(GRAPH, mode="predefined", noise=False, **asked).patch_ids.tolist()


@pytest.mark.parametrize("mode", ["learned", "predefined", "random"])
def test_every_object_gets_a_training_patch_of_its_category(opened, bank, mode):
    chosen = opened.retrieve(GRAPH, mode=mode)
    rows = bank.table.take(bank.rows(chosen.patch_ids)).to_pylist()
    assert not chosen.fallback.any()
    assert [row["category"] for row in rows] == list(GRAPH.objects)
    assert {row["split"] for row in rows} == {"train"}
    assert np.array_equal(chosen.patches, bank.patches(chosen.patch_ids))


def test_learned_retrieval_assigns_one_object_at_each_step(opened):
    assert sorted(opened.retrieve(GRAPH).step.tolist()) == [0, 1, 2, 3]


def test_a_seed_decides_the_choice_and_another_seed_makes_another(opened):
    def ids(seed):
        return opened.retrieve(GRAPH, seed=seed, noise=True).patch_ids.tolist()

    assert ids(3) == ids(3)
    assert len({tuple(ids(seed)) for seed in range(6)}) > 1


def test_two_seeds_whose_draws_are_close_are_so_for_one_graph_alone(opened, monkeypatch):
    """Seeds 1 and 2 begin within 0.001 of each other at one position."""
    positions = []

    class Watched(ByPosition):
        def __init__(self, seed, at, *others):
            positions.append((seed, *at))
            super().__init__(seed, at, *others)

    monkeypatch.setattr("model.retrievegan.run.ByPosition", Watched)
    other = SceneGraph(GRAPH.objects, (Relation(1, "above", 0),))
    for graph, seed in ((GRAPH, 1), (GRAPH, 2), (other, 2)):
        opened.retrieve(graph, seed=seed)
    (one, first), (two, again), (_, of_other) = positions
    assert (one, two) == (1, 2)
    assert first == again != of_other


@pytest.mark.parametrize("start", ["random", "medoid", "best"])
def test_a_start_that_is_asked_for_is_that_of_a_run_trained_with_it(opened, bank, start):
    rule = replace(demo().retrieval, start=start)
    model = RetrieveGANTrainer.for_bank(replace(demo(), retrieval=rule), bank, CPU).model
    trained = RetrieveGANRun(model, bank, CPU)
    for noise in (False, True):
        chosen = set()
        for seed in range(6):
            asked = opened.retrieve(GRAPH, seed=seed, start=start, noise=noise)
            own = trained.retrieve(GRAPH, seed=seed, noise=noise)
            assert np.array_equal(asked.patch_ids, own.patch_ids)
            assert np.array_equal(asked.step, own.step)
            chosen.add(tuple(asked.patch_ids.tolist()))
        for differ in (opened.draws_differ(start=start, noise=noise), start == "random" or noise):
            assert differ == (len(chosen) > 1)


def test_a_start_that_the_run_cannot_have_is_one_clear_line(opened, bank):
    for mode in ("predefined", "random"):
        with pytest.raises(UserError, match=f"^start best: {mode} retrieval takes each object by"):
            opened.retrieve(GRAPH, mode=mode, start="best")
    rule = replace(demo().retrieval, start="random", query="fixed")
    model = RetrieveGANTrainer.for_bank(replace(demo(), retrieval=rule), bank, CPU).model
    fixed = RetrieveGANRun(model, bank, CPU)
    with pytest.raises(
        UserError, match=r"^start best: this run was trained with --retrieval\.query"
    ):
        fixed.retrieve(GRAPH, start="best")
    assert fixed.rule(None, "medoid") == replace(rule, start="medoid")
    rule = replace(demo().retrieval, mode="predefined")
    model = RetrieveGANTrainer.for_bank(replace(demo(), retrieval=rule), bank, CPU).model
    with pytest.raises(
        UserError, match=r"^start medoid: predefined retrieval takes each object by"
    ):
        RetrieveGANRun(model, bank, CPU).retrieve(GRAPH, start="medoid")


def test_predefined_takes_the_nearest_unless_noise_is_asked_for(opened):
    graph = SceneGraph(("sky-other", "grass", "tree"), (Relation(0, "above", 1),))
    nearest = opened.retrieve(graph, mode="predefined", k=1).patch_ids.tolist()
    for seed in range(4):
        assert opened.retrieve(graph, mode="predefined", seed=seed).patch_ids.tolist() == nearest
    of_three = opened.retrieve(graph, mode="predefined", k=3)
    drawn = [
        opened.retrieve(graph, mode="predefined", noise=True, seed=s).patch_ids for s in range(20)
    ]
    assert of_three.patch_ids.tolist() == nearest
    assert all(len({int(ids[o]) for ids in drawn}) == 3 for o in range(len(graph.objects)))


TREES = SceneGraph(("tree",) * 4, ())


@pytest.mark.parametrize("mode", ["learned", "predefined", "random"])
@pytest.mark.parametrize("noise", [False, True])
def test_four_trees_are_four_patches(opened, mode, noise):
    for seed in range(6):
        ids = opened.retrieve(TREES, mode=mode, noise=noise, seed=seed).patch_ids
        assert len(set(ids.tolist())) == 4


def test_sampling_repeats_no_patch_of_a_run_that_was_trained_with_repeats(bank):
    rule = replace(demo().retrieval, same_patch_allowed=True)
    model = RetrieveGANTrainer.for_bank(replace(demo(), retrieval=rule), bank, CPU).model
    for seed in range(6):
        ids = RetrieveGANRun(model, bank, CPU).retrieve(TREES, seed=seed).patch_ids
        assert len(set(ids.tolist())) == 4


@pytest.mark.parametrize("mode", ["learned", "predefined", "random"])
def test_the_patch_of_a_pinned_object_is_given_to_no_other(opened, mode):
    for seed in range(6):
        free = opened.retrieve(TREES, mode=mode, seed=seed).patch_ids
        pinned = opened.retrieve(TREES, mode=mode, seed=seed, pin={3: int(free[0])}).patch_ids
        assert pinned[3] == free[0]
        assert len(set(pinned.tolist())) == 4


def test_two_objects_pinned_to_one_patch_both_get_it(opened, bank):
    patch = int(opened.retrieve(TREES, mode="predefined").patch_ids[0])
    ids = opened.retrieve(TREES, pin={0: patch, 2: patch}).patch_ids.tolist()
    assert ids[0] == ids[2] == patch
    assert len({*ids}) == 3


def test_where_bans_leave_one_patch_all_get_it(opened):
    few = opened.retrieve(TREES, mode="predefined", k=1).patch_ids
    assert len(set(few.tolist())) == 1


def test_random_takes_any_candidate(opened):
    ids = {int(opened.retrieve(GRAPH, mode="random", seed=s, k=5).patch_ids[0]) for s in range(40)}
    assert len(ids) == 5


@pytest.mark.parametrize("start", ["random", "medoid", "best"])
def test_noise_is_off_by_default(bank, monkeypatch, start):
    rule = replace(demo().retrieval, start=start)
    model = RetrieveGANTrainer.for_bank(replace(demo(), retrieval=rule), bank, CPU).model
    noises = []

    def watched(*arguments):
        noises.append(arguments[4].noise)
        return choose(*arguments)

    monkeypatch.setattr("model.retrievegan.run.choose", watched)
    RetrieveGANRun(model, bank, CPU).retrieve(GRAPH)
    assert noises == [None]


@pytest.mark.parametrize("mode", ["learned", "predefined", "random"])
def test_a_pinned_object_always_gets_its_patch(opened, bank, mode):
    anything = int(bank.patch_ids[-1])  # of whatever category and split
    for seed in range(4):
        chosen = opened.retrieve(GRAPH, seed=seed, mode=mode, pin={2: anything})
        assert chosen.patch_ids[2] == anything


def test_a_pin_of_another_category_is_marked(opened, bank):
    categories = bank.table.column("category").to_pylist()
    grass, tree = (int(bank.patch_ids[categories.index(name)]) for name in ("grass", "tree"))
    chosen = opened.retrieve(GRAPH, pin={2: grass, 3: tree})
    assert chosen.fallback.tolist() == [False, False, True, False]


def test_a_ban_moves_every_object_to_its_next_nearest_patch(opened):
    first = nearest_ids(opened, k=1)
    second = nearest_ids(opened, k=1, ban=set(first))
    third = nearest_ids(opened, k=1, ban={*first, *second})
    assert not {*first} & {*second}
    assert not {*first, *second} & {*third}
    assert first == nearest_ids(opened, k=1)


def test_what_is_banned_never_appears(opened):
    before = {i for seed in range(20) for i in opened.retrieve(GRAPH, seed=seed, k=2).patch_ids}
    seen = {i for s in range(20) for i in opened.retrieve(GRAPH, seed=s, k=2, ban=before).patch_ids}
    assert not before & seen


def shares(bank, ids):
    return bank.quality(np.array(ids)).mask_share


def test_a_patch_below_the_quality_gives_its_place_to_the_next_nearest(opened, bank):
    """The nearest that are covered so, of all that are searched through, without the banned."""
    nearest = [nearest_ids(opened, k=1)]
    while len(nearest) < 8:  # the nearest, and the next by banning it
        ban = {patch for ids in nearest for patch in ids}
        nearest.append(nearest_ids(opened, k=1, ban=ban))
    of_sky = [ids[0] for ids in nearest]
    share = shares(bank, of_sky)
    bar = float(sorted(share)[-2])  # two of them have it
    first, second = (patch for patch, s in zip(of_sky, share, strict=True) if s >= bar)
    asked = {"k": 1, "minimum": MinQuality(bar)}
    assert first != of_sky[0]
    assert nearest_ids(opened, **asked)[0] == first
    assert nearest_ids(opened, **asked, ban={first})[0] == second


@pytest.mark.parametrize("mode", ["learned", "predefined", "random"])
def test_a_graph_is_given_what_is_good_enough_or_a_marked_patch(opened, bank, mode):
    marked = []
    for seed in range(6):
        chosen = opened.retrieve(GRAPH, seed=seed, mode=mode, minimum=MinQuality(0.9))
        assert (chosen.below == (shares(bank, chosen.patch_ids) < 0.9)).all()
        marked += chosen.below.tolist()
    assert {*marked} == {True, False}
    assert not opened.retrieve(GRAPH, mode=mode).below.any()


def test_the_quality_is_by_default_that_of_the_training(bank):
    rule = replace(demo().retrieval, min_coverage=0.9)
    model = RetrieveGANTrainer.for_bank(replace(demo(), retrieval=rule), bank, CPU).model
    run = RetrieveGANRun(model, bank, CPU)
    for mode in ("learned", "predefined", "random"):
        own, asked, any_quality = (
            run.retrieve(GRAPH, mode=mode, **asked)
            for asked in ({}, {"minimum": MinQuality(0.9)}, {"minimum": MinQuality()})
        )
        assert own.patch_ids.tolist() == asked.patch_ids.tolist()
        assert own.below.any()
        assert not any_quality.below.any()


def test_a_pinned_patch_is_held_to_no_quality(opened, bank):
    least = int(bank.patch_ids[np.argmin(bank.quality(bank.patch_ids).mask_share)])
    (marked,) = np.flatnonzero(opened.retrieve(GRAPH, minimum=MinQuality(0.9)).below)[:1].tolist()
    chosen = opened.retrieve(GRAPH, minimum=MinQuality(0.9), pin={marked: least})
    assert chosen.patch_ids[marked] == least
    assert not chosen.below[marked]


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"pin": {4: 1}}, "pin 4=1: the graph has no object 4, its objects are 0 to 3"),
        ({"pin": {-1: 1}}, "no object -1"),
        ({"pin": {0: 1}}, "pin 0=1: .* has no patch 1"),
        ({"pin": {0: 10**30}}, f"has no patch {10**30}"),
        ({"ban": {1}}, "ban 1: .* has no patch 1"),
    ],
)
def test_a_pin_or_ban_that_cannot_be_is_refused_by_name(opened, asked, message):
    with pytest.raises(UserError, match=message):
        opened.retrieve(GRAPH, **asked)


def test_a_patch_cannot_be_pinned_and_banned(opened, bank):
    patch = int(bank.patch_ids[0])
    with pytest.raises(UserError, match="banned as well"):
        opened.retrieve(GRAPH, pin={0: patch}, ban=[patch])


def test_banning_every_patch_says_which_object_is_left_without(opened, bank):
    with pytest.raises(UserError, match=r"no patch is left for object 0 \(sky-other\)"):
        opened.retrieve(GRAPH, ban=bank.patch_ids.tolist())


def test_a_graph_without_objects_is_refused(opened):
    with pytest.raises(UserError, match="no objects"):
        opened.retrieve(SceneGraph((), ()))


def test_an_unknown_name_is_refused_with_the_nearest(opened):
    with pytest.raises(UserError, match="'tree'"):
        opened.retrieve(SceneGraph(("tre",), ()))


def test_learned_retrieval_of_a_run_that_never_learned_it_is_refused(bank):
    config = demo()
    config = replace(config, retrieval=replace(config.retrieval, mode="random"))
    opened = RetrieveGANRun(RetrieveGANTrainer.for_bank(config, bank, CPU).model, bank, CPU)
    assert len(opened.retrieve(GRAPH).patch_ids) == 4
    with pytest.raises(UserError, match="learned nothing"):
        opened.retrieve(GRAPH, mode="learned")


def test_asking_for_another_mode_leaves_the_run_as_it_was(opened):
    opened.retrieve(GRAPH, mode="random")
    assert opened.model.config.retrieval.mode == "learned"


def test_the_picture_is_made_of_the_patches_that_are_given(opened):
    patches = opened.retrieve(GRAPH).patches
    image = opened.generate(GRAPH, patches)
    assert image.shape == (64, 64, 3)
    assert image.dtype == np.uint8
    assert np.array_equal(image, opened.generate(GRAPH, patches))
    assert not np.array_equal(image, opened.generate(GRAPH, 255 - patches))


def test_boxes_come_from_the_call_else_the_graph_else_the_network(opened):
    patches = opened.retrieve(GRAPH).patches
    own = (Box(0, 0, 1, 0.5), Box(0, 0.5, 1, 1), Box(0, 0, 0.3, 0.3), Box(0.5, 0.5, 1, 1))
    carrying = replace(GRAPH, boxes=own)
    predicted = opened.predict_boxes(GRAPH)
    by_network = opened.generate(GRAPH, patches)
    by_graph = opened.generate(carrying, patches)
    assert np.array_equal(by_network, opened.generate(GRAPH, patches, predicted))
    assert np.array_equal(by_network, opened.generate(carrying, patches, predicted))
    assert np.array_equal(by_graph, opened.generate(GRAPH, patches, own))
    assert not np.array_equal(by_graph, by_network)


def test_a_wrong_number_of_patches_or_boxes_is_refused(opened):
    patches = opened.retrieve(GRAPH).patches
    with pytest.raises(UserError, match="3 patches given for a graph of 4 objects"):
        opened.generate(GRAPH, patches[:3])
    with pytest.raises(UserError, match="1 box given for a graph of 4 objects"):
        opened.generate(GRAPH, patches, [Box(0, 0, 1, 1)])


def test_predicted_boxes_lie_inside_the_picture_and_have_an_area():
    boxes = torch.tensor(
        [[0.8, 0.9, 0.2, 0.1], [0.5, 0.5, 0.5, 0.5], [1.3, 0.0, 1.9, 0.0], [0.0, 0.0, 0.0, 1.7]]
    )
    tidy = tidy_boxes(boxes)
    assert tidy[0].tolist() == pytest.approx([0.2, 0.1, 0.8, 0.9])
    assert ((tidy >= 0) & (tidy <= 1)).all()
    assert (tidy[:, 2:] - tidy[:, :2] >= SMALLEST_SIDE - 1e-6).all()


def test_a_run_is_refused_with_another_bank_than_its_own(run, bank, tmp_path):
    shutil.copytree(run, tmp_path, dirs_exist_ok=True)
    edit_state(tmp_path, bank="0" * 64)
    with pytest.raises(RunError, match="trained on a bank with content digest 000000000000"):
        RetrieveGANRun.open(tmp_path)


def test_a_graph_is_embedded_once_for_all_its_draws_and_not_kept_for_ever(
    opened, bank, monkeypatch
):
    embedded = []

    def watched(encoder, pairs):
        embedded.append(pairs[0][0])
        return embed_graphs(encoder, pairs)

    monkeypatch.setattr(run_module, "embed_graphs", watched)
    run = RetrieveGANRun(opened.model, bank, CPU)
    for seed in range(3):
        run.retrieve(GRAPH, mode="random", seed=seed)
    assert embedded == [GRAPH.objects]
    embedded.clear()
    monkeypatch.setattr(run_module, "GRAPHS_KEPT", 2)
    run = RetrieveGANRun(opened.model, bank, CPU)
    for name in ("grass", "grass", "tree", "grass", "sky-other", "grass", "tree"):
        run.retrieve(SceneGraph((name,), ()), mode="random")
    assert embedded == [("grass",), ("tree",), ("sky-other",), ("tree",)]


def test_a_missing_run_and_a_missing_bank_say_so(run, tmp_path):
    with pytest.raises(RunError, match="is not a run"):
        RetrieveGANRun.open(tmp_path / "nowhere")
    with pytest.raises(BankError, match="no bank at"):
        RetrieveGANRun.open(run, tmp_path / "nowhere")


def test_the_graph_of_a_training_scene_is_given_no_patch_of_its_own_photo(opened, bank):
    image_id = int(bank.scene_ids("train")[0])
    scene = bank.scene(image_id)
    graph = SceneGraph(scene.objects, scene.triples)

    def photos(**options):
        ids = opened.retrieve(graph, mode="predefined", **options).patch_ids
        return set(bank.table.take(bank.rows(ids)).column("image_id").to_pylist())

    assert image_id in photos()  # its own patch is the nearest of all
    assert image_id not in photos(exclude_images=[image_id])
    own = int(scene.patch_ids[0])
    with pytest.raises(UserError, match=rf"pin 0={own}: .* photo {image_id}, which is excluded"):
        photos(exclude_images=[image_id], pin={0: own})
    everything = bank.table.column("image_id").to_pylist()
    with pytest.raises(UserError, match=r"no patch is left for object 0 .* photos excluded"):
        photos(exclude_images=everything)
