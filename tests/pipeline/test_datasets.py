from dataclasses import dataclass, fields, replace
from pathlib import Path
from types import SimpleNamespace
from typing import get_args

import pytest

from pipeline.coco.reader import CocoRules
from pipeline.dataset import Dataset
from pipeline.datasets import (
    FORMATS,
    DatasetName,
    DatasetRules,
    FormatName,
    default_folder,
    flag_of,
    format_of,
    read_dataset,
    rules_of,
)
from pipeline.errors import DatasetError
from pipeline.toy.coco import write_toy
from pipeline.toy.visual_genome import TOY_RULES
from pipeline.visual_genome.rules import VisualGenomeRules

COCO, VG = CocoRules(), VisualGenomeRules()
SIZED = CocoRules(test_rule="half")


def test_the_name_and_the_toy_world_s_format_say_which_rules_are_meant():
    rules = DatasetRules(coco=COCO, vg=VG)
    assert rules_of("coco", rules) is COCO
    assert rules_of("vg", rules) is VG
    assert rules_of("toy", rules) == COCO
    assert rules_of("toy", rules, "vg") is rules_of("toy", rules, "vg", 700) is TOY_RULES
    assert rules_of("toy", rules, "coco", 700) == SIZED
    assert rules_of("coco", rules, toy_photos=700) is COCO
    own = DatasetRules(vg=replace(VG, min_object_count=3))
    assert rules_of("toy", own, "vg") is own.vg


def test_every_format_has_a_name_rules_and_flags():
    assert set(get_args(FormatName)) == set(FORMATS) == {f.name for f in fields(DatasetRules)}
    assert set(get_args(DatasetName)) == {*FORMATS, "toy"}
    for name, known in FORMATS.items():
        assert getattr(DatasetRules(), name) == known.rules()
        assert format_of(known.toy_rules) is known
        for rule in fields(known.rules):
            assert flag_of(known.rules(), rule.name).startswith("--")


def test_another_dataset_is_another_entry(tmp_path, monkeypatch):
    @dataclass(frozen=True)
    class AdeRules:
        edition: str = "2016"

    def read(folder, rules, limit):
        return Dataset(f"ade of {rules.edition}", str(folder), None, (), {}, None)

    ade = FORMATS["coco"]._replace(rules=AdeRules, read=read, flag="--ade-{}".format)
    monkeypatch.setitem(FORMATS, "ade", ade)
    rules = rules_of("ade", SimpleNamespace(ade=AdeRules("2021")))
    dataset = read_dataset("ade", tmp_path, rules, None)
    assert (dataset.name, dataset.folder) == ("ade of 2021", str(tmp_path))
    assert flag_of(rules, "edition") == "--ade-edition"
    assert default_folder("ade") == Path("data/ade")


def test_each_has_a_folder_of_its_own():
    folders = [default_folder("coco"), default_folder("vg"), default_folder("toy")]
    assert folders == [Path("data/coco"), Path("data/vg"), Path("data/toy")]
    assert default_folder("toy", "vg") == Path("data/toy-vg")
    assert default_folder("toy", "coco", 7000) == Path("data/toy-7000")
    assert default_folder("toy", "vg", 7000) == Path("data/toy-vg-7000")
    assert default_folder("vg", toy_photos=7000) == Path("data/vg")


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
    for name, known in FORMATS.items():
        note = known._replace(write_toy=lambda folder, name=name: drawn.append((name, folder)))
        monkeypatch.setitem(FORMATS, name, note)
    with pytest.raises(DatasetError, match="no toy world"):  # nothing was drawn, after all
        read_dataset("toy", tmp_path / "new", rules, None)
    assert drawn == [("vg" if rules is TOY_RULES else "coco", tmp_path / "new")]


def test_a_toy_world_has_as_many_photos_as_asked_for_in_the_default_shares(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder in (None, tmp_path / "named"):
        dataset = read_dataset("toy", folder, SIZED, None, 17)
        splits = [p.photo.split for p in dataset.photos]
        assert [splits.count(s) for s in ("train", "val", "test")] == [9, 4, 4]
    assert read_dataset("toy", tmp_path / "named", COCO, None, 17).inputs == dataset.inputs
    assert len(list(Path("data/toy-17").rglob("*.jpg"))) == 17


def test_both_formats_of_the_toy_world_are_drawn_in_the_size_that_is_asked_for(
    tmp_path, monkeypatch
):
    drawn = []
    for name, known in FORMATS.items():
        note = known._replace(write_toy=lambda _, **photos: drawn.append(photos))
        monkeypatch.setitem(FORMATS, name, note)
    for rules in (COCO, TOY_RULES):
        with pytest.raises(DatasetError, match="no toy world"):
            read_dataset("toy", tmp_path / "new", rules, None, 7000)
    assert drawn == [{"train_photos": 4000, "val_photos": 3000}] * 2


def test_a_toy_world_of_another_size_is_neither_taken_nor_replaced(tmp_path):
    write_toy(tmp_path / "toy", train_photos=4, val_photos=3)
    assert len(read_dataset("toy", tmp_path / "toy", SIZED, None, 7).photos) == 7
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(DatasetError, match="another size than --toy-photos 8"):
        read_dataset("toy", tmp_path / "toy", SIZED, None, 8)
    assert sorted(tmp_path.rglob("*")) == before


def test_real_photos_are_not_taken_for_the_toy_world(tmp_path):
    write_toy(tmp_path / "toy", train_photos=2, val_photos=2)
    (tmp_path / "toy" / "styles.json").unlink()
    with pytest.raises(DatasetError, match="holds no toy world"):
        read_dataset("toy", tmp_path / "toy", COCO, None)
