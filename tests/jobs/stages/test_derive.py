import random
import re
import shutil
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
import torch

from bank import index, query_plan
from bank.candidates import find_candidates, read_candidates
from bank.contents import Contents
from bank.errors import BankError
from bank.files import FileDigest, file_digest
from bank.manifest import read_manifest, write_manifest
from bank.table import column, read_table, read_vectors, write_table, write_vectors
from jobs.build_bank import BuildBank
from jobs.build_bank import main as build
from jobs.stages import blocks, networks, quality, vectors
from jobs.stages.blocks import Stage, make_part
from jobs.stages.cluster import Done, Pool
from jobs.stages.derivation import Derivation, DeriveOptions, training_rows
from jobs.stages.derive import run_stages
from jobs.stages.networks import CooccurrenceStage, GraphEncoderStage
from jobs.stages.quality import QualityStage
from jobs.stages.receipts import WORK, receipt_path
from jobs.stages.search import NearestCandidates, QueryPlanStage, SearchIndex
from jobs.stages.vectors import ObjectFeatures, PatchVectors
from model import frozen
from model.graph.frozen_encoder import LEARNING_RATE, embed_scenes
from model.retrieval.cooccurrence import CooccurrenceNetwork, embed_patches
from model.sg2im.run import load_graph_encoder
from pipeline.scene import image_of

OPTIONS = DeriveOptions("train", "train", 1, "train", "train", 1, 20, "category")
PATCH_SIZE = 64
VECTORS = (("features.arrow", "feature"), ("cooccurrence.arrow", "co_occurrence"))
NETWORKS = ("graph_encoder.safetensors", "cooccurrence.safetensors")


class Given(Stage):
    """A stage whose file is there."""

    title = ""

    def ranges(self):
        return []

    def join(self, parts):
        pass

    @staticmethod
    def make(block, folder):
        raise AssertionError


class GivenEncoder(Given):
    name, outputs = "graph-encoder", (NETWORKS[0],)


class GivenCooccurrence(Given):
    name, outputs = "cooccurrence", (NETWORKS[1],)


class GivenFeatures(Given):
    name, outputs = "features", ("features.arrow",)


def copied(folder, bank, *without):
    """A bank as it is before these files are made."""
    shutil.copytree(bank, folder)
    for name in without:
        (folder / name).unlink()
    (folder / WORK).mkdir()
    return folder


def derivation(bank, options=OPTIONS, earlier=None):
    return Derivation(Contents(bank, PATCH_SIZE), str(bank), options, earlier)


def run(derived, *stages, pool=None):
    return run_stages([stage(derived) for stage in stages], pool or Pool())


class Shuffled(Pool):
    """Makes jobs in an order of its own, each of them twice."""

    parallel = True

    def run(self, jobs):
        shuffled = random.Random(0)
        while jobs:
            jobs.rotate(shuffled.randrange(len(jobs)))
            job = jobs.popleft()
            result = job.function(job.task)
            assert job.function(job.task) == result
            yield Done(job, result, 0.0)


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(vectors, "SCENES", 9)
    monkeypatch.setattr(vectors, "PATCHES", 45)


@pytest.mark.parametrize("pool", [Pool, Shuffled])
def test_vectors_made_anew_in_blocks_are_the_same_files(tmp_path, toy_bank, small_blocks, pool):
    bank = copied(tmp_path / "bank", toy_bank, "features.arrow", "cooccurrence.arrow")
    stages = (GivenCooccurrence, GivenEncoder, ObjectFeatures, PatchVectors)
    run(derivation(bank), *stages, pool=pool())
    for name in ("features.arrow", "cooccurrence.arrow"):
        assert (bank / name).read_bytes() == (toy_bank / name).read_bytes()
    assert not list((bank / WORK / "parts").iterdir())
    left = {path.stem for path in (bank / WORK / "receipts").iterdir()}
    assert left == {stage.name for stage in stages}


@pytest.mark.parametrize("pool", [Pool, Shuffled])
def test_index_candidates_and_quality_made_anew_in_blocks_are_the_same_files(
    tmp_path, toy_bank, pool, monkeypatch
):
    monkeypatch.setattr(query_plan, "COST", 1 << 10)
    monkeypatch.setattr(query_plan, "LEAST", 1 << 4)
    monkeypatch.setattr(index, "TOGETHER", 64)
    monkeypatch.setattr(quality, "SCENES", 3)
    bank = copied(tmp_path / "bank", toy_bank, "candidates.arrow", "quality.arrow")
    shutil.rmtree(bank / "index")
    digest = read_manifest(toy_bank).content_digest
    made = replace(derivation(bank), content_digest=digest)
    made = replace(
        made, options=replace(OPTIONS, candidates=read_manifest(bank).recipe["candidates"])
    )
    run(
        made,
        GivenFeatures,
        QueryPlanStage,
        SearchIndex,
        NearestCandidates,
        QualityStage,
        pool=pool(),
    )
    for stage in (SearchIndex, NearestCandidates, QualityStage):
        assert len(stage(made).ranges()) > 2
        for name in stage.outputs:
            files = list((toy_bank / name).rglob("*")) or [toy_bank / name]
            for file in files:
                place = file.relative_to(toy_bank)
                assert (bank / place).read_bytes() == file.read_bytes()


def test_candidates_are_those_that_a_search_of_the_whole_bank_finds(
    tmp_path, toy_bank, monkeypatch
):
    monkeypatch.setattr(query_plan, "COST", 1 << 10)
    monkeypatch.setattr(query_plan, "LEAST", 1 << 4)
    bank = copied(tmp_path / "bank", toy_bank, "candidates.arrow")
    made = derivation(bank, replace(OPTIONS, candidates=5))
    run(made, GivenFeatures, QueryPlanStage, NearestCandidates)
    contents = made.contents
    ids, features = read_vectors(bank / "features.arrow", "feature")
    wanted = find_candidates(
        features,
        ids,
        contents.photos_of_patches,
        contents.strings("category"),
        training_rows(contents),
        5,
    )
    found_ids, found = read_candidates(bank / "candidates.arrow")
    np.testing.assert_array_equal(found_ids, ids)
    for name in wanted._fields:
        np.testing.assert_array_equal(getattr(found, name), getattr(wanted, name))


def test_vectors_are_those_of_each_scene_and_patch_by_itself(tmp_path, toy_bank, small_blocks):
    bank = copied(tmp_path / "bank", toy_bank, "features.arrow", "cooccurrence.arrow")
    run(derivation(bank), GivenCooccurrence, GivenEncoder, ObjectFeatures, PatchVectors)
    contents = Contents(bank, PATCH_SIZE)
    encoder = load_graph_encoder(bank / NETWORKS[0])
    f_occur = CooccurrenceNetwork.load(bank / NETWORKS[1])
    ids, features = read_vectors(bank / "features.arrow", "feature")
    _, looks = read_vectors(bank / "cooccurrence.arrow", "co_occurrence")
    for sample in contents.iterate(contents.image_ids[[0, 8, 9, -1]], image=False):
        rows = np.searchsorted(ids, sample.patch_ids)
        np.testing.assert_array_equal(features[rows], embed_scenes(encoder, [sample]))
        pixels = contents.patches.read(ids[rows])
        np.testing.assert_array_equal(looks[rows], embed_patches(f_occur, pixels))


def test_without_workers_one_stage_is_done_after_the_other(tmp_path, toy_bank, small_blocks):
    class Watched(Pool):
        queued = ()

        def run(self, jobs):
            self.queued = [job.task.stage for job in jobs]
            return super().run(jobs)

    class Parallel(Watched):
        parallel = True

        def run(self, jobs):
            self.queued = [job.task.stage for job in jobs]
            return Shuffled.run(self, jobs)

    stages = (GivenCooccurrence, GivenEncoder, ObjectFeatures, PatchVectors)
    queued = []
    for folder, pool in (("one", Watched()), ("all", Parallel())):
        bank = copied(tmp_path / folder, toy_bank, "features.arrow", "cooccurrence.arrow")
        run(derivation(bank), *stages, pool=pool)
        queued.append(set(pool.queued))
    assert queued == [{"features"}, {"features", "cooccurrence-vectors"}]


def test_blocks_do_not_depend_on_who_makes_them(tmp_path, toy_bank, small_blocks):
    bank = copied(tmp_path / "bank", toy_bank)
    stage = ObjectFeatures(derivation(bank))
    scenes = len(stage.contents.image_ids)
    assert stage.ranges() == [(n, min(n + 9, scenes)) for n in range(0, scenes, 9)]


class Killed(Pool):
    """Ends after so many jobs, as a process that is killed."""

    def __init__(self, after):
        super().__init__()
        self.after = after

    def run(self, jobs):
        for number, done in enumerate(super().run(jobs)):
            if number == self.after:
                raise KeyboardInterrupt
            yield done


def test_blocks_that_were_made_are_kept_and_a_damaged_one_is_made_again(
    tmp_path, toy_bank, small_blocks, monkeypatch
):
    bank = copied(tmp_path / "bank", toy_bank, "features.arrow")
    with pytest.raises(KeyboardInterrupt):
        run(derivation(bank), GivenEncoder, ObjectFeatures, pool=Killed(4))
    parts = sorted((bank / WORK / "parts" / "features").iterdir())
    assert len(parts) == 5
    with (parts[1] / vectors.PART).open("r+b") as file:
        file.write(b"damage")
    made = counted_blocks(monkeypatch)
    run(derivation(bank), GivenEncoder, ObjectFeatures)
    assert (bank / "features.arrow").read_bytes() == (toy_bank / "features.arrow").read_bytes()
    assert {1, 5, 6} <= set(made)
    assert not {0, 2, 3, 4} & set(made)


def counted_blocks(monkeypatch):
    """The numbers of the blocks that are made from now on."""
    made, deliver = [], blocks.deliver

    def counting(bank, stage, *rest):
        made.append(int(stage.rpartition("-")[2]))
        return deliver(bank, stage, *rest)

    monkeypatch.setattr(blocks, "deliver", counting)
    return made


def test_parts_of_other_inputs_are_not_joined(tmp_path, toy_bank, small_blocks):
    bank = copied(tmp_path / "bank", toy_bank, "cooccurrence.arrow")
    other = replace(derivation(bank), content_digest="of other patches")
    with pytest.raises(KeyboardInterrupt):
        run(other, GivenCooccurrence, PatchVectors, pool=Killed(2))
    for part in (bank / WORK / "parts").rglob(vectors.PART):
        part.write_bytes(bytes(part.stat().st_size))
    run(derivation(bank), GivenCooccurrence, PatchVectors)
    name = "cooccurrence.arrow"
    assert (bank / name).read_bytes() == (toy_bank / name).read_bytes()


def test_two_results_for_one_block_that_are_not_the_same_end_the_build(
    tmp_path, toy_bank, small_blocks, monkeypatch
):
    bank = copied(tmp_path / "bank", toy_bank)
    encoder = run(derivation(bank), GivenEncoder)["graph-encoder"]
    block, *_ = ObjectFeatures(derivation(bank)).blocks(encoder.outputs)
    make_part(ObjectFeatures.make, block)
    monkeypatch.setattr(blocks, "find_receipt", lambda *_: None)  # made at the same time
    make_part(ObjectFeatures.make, block)
    monkeypatch.setattr(vectors, "embed_scenes", lambda _, samples: np.float32(0))
    with pytest.raises(BankError, match=r"features-00000 was made twice .* came out differently"):
        make_part(ObjectFeatures.make, block)


def test_a_patch_that_no_scene_has_is_an_error_and_gets_no_vector(tmp_path, toy_bank, monkeypatch):
    bank = copied(tmp_path / "bank", toy_bank, "features.arrow")
    scene = Contents.scene

    def with_one_object_less(self, image_id, **how):
        sample = scene(self, image_id, **how)
        fewer = sample.patch_ids[:-1] if image_id == self.image_ids[1] else sample.patch_ids
        return sample._replace(patch_ids=fewer, objects=sample.objects[: len(fewer)], triples=())

    monkeypatch.setattr(Contents, "scene", with_one_object_less)
    with pytest.raises(BankError, match=r"has 1 patch in no scene"):
        run(derivation(bank), GivenEncoder, ObjectFeatures)
    assert not (bank / "features.arrow").exists()


def test_only_patches_of_training_photos_become_candidates(toy_bank):
    contents = Contents(toy_bank, PATCH_SIZE)
    splits = contents.strings("split")
    assert training_rows(contents).tolist() == [split == "train" for split in splits]
    assert 0 < training_rows(contents).sum() < len(splits)


# Networks


@pytest.mark.parametrize("stage", [GraphEncoderStage, CooccurrenceStage])
def test_a_network_whose_training_was_stopped_comes_out_as_if_it_was_not(
    tmp_path, toy_bank, stage, monkeypatch
):
    """What decides the derived digest."""
    options = replace(OPTIONS, encoder_steps=4, cooccurrence_steps=4)
    whole = derivation(copied(tmp_path / "whole", toy_bank, *NETWORKS), options)
    receipt = run(whole, stage)[stage.name]
    save = frozen.SavedTraining.save
    steps = []

    def save_and_stop(self, step, *networks):
        save(self, step, *networks)
        steps.append(step)
        if len(steps) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(frozen, "SAVE_EVERY_S", 0.0)
    monkeypatch.setattr(frozen.SavedTraining, "save", save_and_stop)
    stopped = copied(tmp_path / "stopped", toy_bank, *NETWORKS)
    # Of the same content, at another place.
    same = replace(derivation(stopped, options), content_digest=whole.content_digest)
    with pytest.raises(KeyboardInterrupt):
        run(same, stage)
    assert run(same, stage)[stage.name].outputs == receipt.outputs
    assert steps == [1, 2, 3, 4]
    left = [path.name for path in stopped.iterdir() if path.name.endswith(".safetensors")]
    assert left == list(receipt.outputs)  # the state lies in the work folder


def test_the_graph_encoder_learns_masks_and_starts_at_the_mean_box(tmp_path, toy_bank):
    made = derivation(copied(tmp_path / "bank", toy_bank, *NETWORKS))
    run(made, GraphEncoderStage)
    encoder = load_graph_encoder(made.bank / NETWORKS[0])
    assert encoder.mask_net is not None
    boxes = np.concatenate([s.boxes for s in networks.TrainingScenes(made.contents)])
    start = encoder.box_net[2].bias.numpy()  # one step of Adam moves it by its learning rate
    np.testing.assert_allclose(start, boxes.mean(0), atol=1.1 * LEARNING_RATE)


def test_a_training_that_was_saved_by_other_code_is_not_gone_on_with(
    tmp_path, toy_bank, monkeypatch
):
    bank = copied(tmp_path / "bank", toy_bank)
    (block,) = CooccurrenceStage(derivation(bank)).blocks({})
    before = networks._saved_training(block).key
    assert networks._saved_training(block).key == before
    other = replace(block, settings={**block.settings, "steps": 7})
    assert networks._saved_training(other).key != before
    newer = replace(block, code="of another version")
    assert networks._saved_training(newer).key != before
    assert networks._saved_training(newer).path != networks._saved_training(block).path


def test_training_reads_scenes_and_patches_as_they_are_asked_for(toy_bank, monkeypatch):
    contents = Contents(toy_bank, PATCH_SIZE)
    scenes = networks.TrainingScenes(contents)
    train = contents.scene_ids("train")
    assert len(scenes) == len(train)
    assert [s.image_id for s in scenes[1:3]] == train[1:3].tolist()
    boxes = np.concatenate([s.boxes for s in scenes])
    np.testing.assert_allclose(networks._mean_training_box(contents), boxes.mean(0), rtol=1e-5)
    assert networks._has_training_masks(contents)
    closed = []
    monkeypatch.setattr(networks, "close_shards", lambda: closed.append(1))
    monkeypatch.setattr(networks, "OPEN_PATCHES", 5)
    read = networks.PatchReader(contents)
    for _ in range(4):
        pixels = read(contents.patch_ids[:3])
        np.testing.assert_array_equal(pixels, contents.patches.read(contents.patch_ids[:3]))
    assert len(closed) == 1


# What makes a stage be done again


def test_a_stage_is_done_again_for_other_settings_content_files_or_versions(tmp_path, toy_bank):
    made = derivation(copied(tmp_path / "bank", toy_bank))
    needs = run(made, GivenEncoder)["graph-encoder"].outputs
    stages = [ObjectFeatures(made), ObjectFeatures(made)]
    stages.append(ObjectFeatures(replace(made, content_digest="of other patches")))
    keys = [stage.key(needs) for stage in stages]
    keys.append(stages[0].key({NETWORKS[0]: FileDigest("0" * 64, 1)}))
    fewer = replace(made, options=replace(OPTIONS, candidates=3))
    keys += [QueryPlanStage(made).key(needs), QueryPlanStage(fewer).key(needs)]
    assert keys[0] == keys[1]
    assert len(set(keys)) == 5
    block, *_ = stages[0].blocks(needs)
    changes = (
        {"start": 1},
        {"stop": 1},
        {"content_digest": "of other patches"},
        {"needs": {NETWORKS[0]: FileDigest("0" * 64, 1)}},
        {"software": {"torch": "1.0"}},
        {"code": "of another version"},
        {"settings": {"steps": 7}},
    )
    keys = {replace(block, **change).key for change in changes}
    assert len({block.key, *keys}) == 8
    assert replace(block, earlier=block.tables).key == block.key


def test_parts_of_other_ranges_and_another_network_are_not_joined(tmp_path, toy_bank, monkeypatch):
    bank = copied(tmp_path / "bank", toy_bank, "cooccurrence.arrow")
    network = (bank / NETWORKS[1]).read_bytes()
    torch.manual_seed(1)
    CooccurrenceNetwork().save(bank / NETWORKS[1])
    for size in (45, 60):
        monkeypatch.setattr(vectors, "PATCHES", size)
        with pytest.raises(KeyboardInterrupt):
            run(derivation(bank), GivenCooccurrence, PatchVectors, pool=Killed(2))
        (bank / NETWORKS[1]).write_bytes(network)
        receipt_path(bank, "cooccurrence").unlink()
    monkeypatch.setattr(vectors, "PATCHES", 45)
    run(derivation(bank), GivenCooccurrence, PatchVectors)
    name = "cooccurrence.arrow"
    assert (bank / name).read_bytes() == (toy_bank / name).read_bytes()


def test_a_part_that_is_not_as_its_worker_wrote_it_is_not_joined(tmp_path, toy_bank, small_blocks):
    class Elsewhere(Pool):
        def run(self, jobs):
            for done in super().run(jobs):
                part = bank / next(iter(done.result.outputs))
                part.write_bytes(part.read_bytes()[:-1])
                yield done

    bank = copied(tmp_path / "bank", toy_bank, "features.arrow")
    with pytest.raises(BankError, match=r"parts/features/00000-.* do all machines see the same"):
        run(derivation(bank), GivenEncoder, ObjectFeatures, pool=Elsewhere())


def test_the_same_content_in_other_shards_at_a_path_is_opened_anew(tmp_path, toy_bank, toy_data):
    """As a worker meets it that lives longer than a build."""
    bank = copied(tmp_path / "bank", toy_bank, "features.arrow")
    run(derivation(bank), GivenEncoder, ObjectFeatures)
    shutil.rmtree(bank)
    made = BuildBank(
        dataset="toy",
        data=toy_data,
        out=bank,
        shard_photos=7,
        graph_encoder=str(toy_bank / NETWORKS[0]),
        cooccurrence=str(toy_bank / NETWORKS[1]),
    )
    build(made)
    assert read_manifest(bank).content_digest == read_manifest(toy_bank).content_digest
    assert (bank / "features.arrow").read_bytes() == (toy_bank / "features.arrow").read_bytes()


def test_who_goes_on_when_a_build_has_ended_makes_no_folders(a_block):
    shutil.rmtree(a_block.bank / WORK)
    with pytest.raises(FileNotFoundError):
        make_part(ObjectFeatures.make, a_block)
    assert not (a_block.bank / WORK).exists()
    training = networks._saved_training(a_block)
    with pytest.raises(FileNotFoundError):
        training.save(1, torch.nn.Linear(1, 1), None)
    assert not (a_block.bank / WORK).exists()


# What a worker refuses


@pytest.fixture
def a_block(tmp_path, toy_bank):
    bank = copied(tmp_path / "bank", toy_bank)
    encoder = run(derivation(bank), GivenEncoder)["graph-encoder"]
    block, *_ = ObjectFeatures(derivation(bank)).blocks(encoder.outputs)
    return block


def test_a_worker_with_another_torch_is_refused(a_block):
    other = replace(a_block, software={"torch": "1.0"})
    mine = re.escape(blocks.software("torch")["torch"])
    with pytest.raises(
        BankError, match=rf"worker's torch is {mine} where .* leads the build is 1\.0"
    ):
        make_part(ObjectFeatures.make, other)


def test_only_trainings_need_the_same_instructions(tmp_path, toy_bank, monkeypatch):
    made = derivation(copied(tmp_path / "bank", toy_bank, *NETWORKS))
    (block,) = GraphEncoderStage(made).blocks({})
    monkeypatch.setattr(blocks, "_version", lambda name: "another")
    assert "instructions" not in ObjectFeatures(made).software
    other = replace(block, software={**block.software, "torch": "another"})
    with pytest.raises(BankError, match="with the same instructions everywhere"):
        make_part(GraphEncoderStage.make, other)


def test_a_worker_without_the_network_is_refused_by_its_path(a_block):
    (a_block.bank / NETWORKS[0]).unlink()
    with pytest.raises(BankError, match=f"{a_block.bank}/{NETWORKS[0]} cannot be seen here"):
        make_part(ObjectFeatures.make, a_block)


def test_a_worker_with_another_network_is_refused(a_block):
    shutil.copy(a_block.bank / NETWORKS[1], a_block.bank / NETWORKS[0])
    with pytest.raises(BankError, match=f"{NETWORKS[0]} is not here as"):
        make_part(ObjectFeatures.make, a_block)


def test_a_worker_that_does_not_see_the_bank_is_refused(a_block, tmp_path):
    with pytest.raises(BankError, match="workers on other machines need the bank at the same path"):
        make_part(ObjectFeatures.make, replace(a_block, bank=tmp_path / "elsewhere"))


# The next version of a finished bank


@pytest.fixture
def seen(monkeypatch):
    """How many scenes and patches pass through networks."""
    seen = {"scenes": 0, "patches": 0}
    embed_scenes, embed_patches = vectors.embed_scenes, vectors.embed_patches

    def scenes(network, samples):
        seen["scenes"] += len(samples)
        return embed_scenes(network, samples)

    def patches(network, pixels):
        seen["patches"] += len(pixels)
        return embed_patches(network, pixels)

    monkeypatch.setattr(vectors, "embed_scenes", scenes)
    monkeypatch.setattr(vectors, "embed_patches", patches)
    return seen


STAGES = (GivenCooccurrence, GivenEncoder, ObjectFeatures, PatchVectors)


def test_of_a_next_version_only_what_is_new_passes_through_networks_that_are_the_same(
    tmp_path, toy_bank, small_blocks, seen
):
    """An earlier bank with other vectors tells whose are taken."""
    bank = copied(tmp_path / "bank", toy_bank, "features.arrow", "cooccurrence.arrow")
    earlier = bank_without_first_scenes(tmp_path / "earlier", toy_bank, 5)
    run(derivation(bank, earlier=earlier), *STAGES)
    contents = Contents(toy_bank, PATCH_SIZE)
    num_new = len(np.concatenate(contents.patches_of_images(contents.image_ids[:5])))
    assert seen == {"scenes": 5, "patches": num_new}
    for name, what in VECTORS:
        ids, made = read_vectors(bank / name, what)
        _, whole = read_vectors(toy_bank / name, what)
        new = np.isin(image_of(ids), contents.image_ids[:5])
        np.testing.assert_array_equal(made[new], whole[new])
        np.testing.assert_array_equal(made[~new], -whole[~new])


def bank_without_first_scenes(folder, bank, count):
    """A finished bank whose vectors have the other sign."""
    shutil.copytree(bank, folder)
    gone = Contents(bank, PATCH_SIZE).image_ids[:count]
    for name, ids_of in (("patches", "image_id"), ("scenes.index", "image_id")):
        table = read_table(bank / f"{name}.arrow")
        kept = ~np.isin(column(table, ids_of), gone)
        write_table(folder / f"{name}.arrow", table.filter(pa.array(kept)))
    for name, what in VECTORS:
        ids, values = read_vectors(bank / name, what)
        kept = ~np.isin(image_of(ids), gone)
        write_vectors(folder / name, ids[kept], -values[kept], what)
    manifest = read_manifest(bank)
    files = {**manifest.files, **{name: file_digest(folder / name) for name, _ in VECTORS}}
    write_manifest(folder, replace(manifest, files=files))
    return folder


@pytest.mark.parametrize("unlike", ["network", "torch", "damaged"])
def test_nothing_is_taken_over_from_another_network_or_torch_or_a_damaged_file(
    tmp_path, toy_bank, unlike
):
    bank = copied(tmp_path / "bank", toy_bank)
    earlier = bank_without_first_scenes(tmp_path / "earlier", toy_bank, 5)
    needs = run(derivation(bank), GivenEncoder)["graph-encoder"].outputs
    stage = ObjectFeatures(derivation(bank, earlier=earlier))
    assert stage.take_over(needs).bank == earlier
    manifest = read_manifest(earlier)
    if unlike == "network":
        needs = {NETWORKS[0]: FileDigest("0" * 64, 1)}
    elif unlike == "torch":
        write_manifest(earlier, replace(manifest, versions={"torch": "1.0"}))
    else:
        with (earlier / "features.arrow").open("r+b") as file:
            file.seek(-1000, 2)
            file.write(b"damage")
    assert stage.take_over(needs) is None


def test_scenes_and_patches_that_have_changed_are_new(
    tmp_path, toy_bank, small_blocks, seen, monkeypatch
):
    bank = copied(tmp_path / "bank", toy_bank, "features.arrow", "cooccurrence.arrow")
    earlier = bank_without_first_scenes(tmp_path / "earlier", toy_bank, 5)
    for name, what in (("scenes.index", "sample_sha256"), ("patches", "pixels_sha256")):
        table = read_table(earlier / f"{name}.arrow")
        digests = column(table, what)
        digests[1] = bytes(32)
        place = table.column_names.index(what)
        changed = pa.array(digests.tolist(), table.schema.field(what).type)
        write_table(earlier / f"{name}.arrow", table.set_column(place, what, changed))
    run(derivation(bank, earlier=earlier), *STAGES)
    contents = Contents(toy_bank, PATCH_SIZE)
    num_new = len(np.concatenate(contents.patches_of_images(contents.image_ids[:5])))
    assert seen == {"scenes": 6, "patches": num_new + 1}
