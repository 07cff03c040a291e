from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.coco.reader import CocoRules
from pipeline.datasets import default_folder, flag_of, read_dataset, rules_of
from pipeline.errors import DatasetError
from pipeline.toy.coco import write_toy
from pipeline.toy.visual_genome import TOY_RULES
from pipeline.visual_genome.rules import VisualGenomeRules

COCO, VG = CocoRules(), VisualGenomeRules()


def test_the_name_and_the_toy_world_s_format_say_which_rules_are_meant():
    assert rules_of("coco", COCO, VG, "coco") is COCO
    assert rules_of("vg", COCO, VG, "coco") is VG
    assert rules_of("toy", COCO, VG, "coco") is COCO
    assert rules_of("toy", COCO, VG, "vg") is TOY_RULES
    own = replace(VG, min_object_count=3)
    assert rules_of("toy", COCO, own, "vg") is own


def test_each_has_a_folder_of_its_own():
    folders = [default_folder("coco"), default_folder("vg"), default_folder("toy")]
    assert folders == [Path("data/coco"), Path("data/vg"), Path("data/toy")]
    assert default_folder("toy", "vg") == Path("data/toy-vg")


def test_a_flag_says_whose_threshold_it_is():
    assert flag_of(COCO, "test_rule") == "--test-rule"
    assert flag_of(VG, "object_cap") == "--vg-object-cap"
    assert flag_of(VG, "splits") == "--splits"


def test_a_toy_world_that_is_there_is_read_as_it_is(tmp_path):
    write_toy(tmp_path / "toy", train_photos=6, val_photos=4)
    before = sorted(tmp_path.rglob("*"))
    dataset = read_dataset("toy", tmp_path / "toy", COCO, None)
    assert sorted(tmp_path.rglob("*")) == before
    assert dataset.name == "toy"
    assert len(dataset.photos) == 10
    assert dataset.protocol.not_compared == "its photos are drawn"


@pytest.mark.parametrize("rules", [COCO, TOY_RULES], ids=["coco", "vg"])
def test_a_toy_world_that_is_not_there_is_drawn_as_the_rules_reader_wants_it(
    tmp_path, monkeypatch, rules
):
    drawn = []
    monkeypatch.setattr("pipeline.datasets.write_toy", lambda f: drawn.append(("coco", f)))
    monkeypatch.setattr(
        "pipeline.datasets.write_toy_visual_genome", lambda f: drawn.append(("vg", f))
    )
    with pytest.raises(DatasetError, match="no toy world"):  # nothing was drawn, after all
        read_dataset("toy", tmp_path / "new", rules, None)
    assert drawn == [("vg" if rules is TOY_RULES else "coco", tmp_path / "new")]


def test_real_photos_are_not_taken_for_the_toy_world(tmp_path):
    write_toy(tmp_path / "toy", train_photos=2, val_photos=2)
    (tmp_path / "toy" / "styles.json").unlink()
    with pytest.raises(DatasetError, match="holds no toy world"):
        read_dataset("toy", tmp_path / "toy", COCO, None)
