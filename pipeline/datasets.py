"""A dataset's name -> its reader."""

from dataclasses import replace
from pathlib import Path
from typing import Literal

from pipeline.coco.reader import CocoRules, read_coco
from pipeline.data_folder import DataFolder
from pipeline.dataset import Dataset
from pipeline.errors import DatasetError
from pipeline.toy.coco import write_toy
from pipeline.toy.visual_genome import TOY_RULES, write_toy_visual_genome
from pipeline.visual_genome.reader import read_visual_genome
from pipeline.visual_genome.rules import VisualGenomeRules
from pipeline.visual_genome.rules import flag as vg_flag

DatasetName = Literal["coco", "vg", "toy"]
ToyFormat = Literal["coco", "vg"]
Rules = CocoRules | VisualGenomeRules  # they say which reader is meant


def rules_of(
    name: DatasetName, coco: CocoRules, vg: VisualGenomeRules, toy_format: ToyFormat
) -> Rules:
    """Those that the dataset goes by. The toy world as Visual Genome has thresholds of its own."""
    if name == "vg":
        return vg
    if name == "toy" and toy_format == "vg":
        return TOY_RULES if vg == VisualGenomeRules() else vg
    return coco


def flag_of(rules: Rules, rule: str) -> str:
    """The command-line flag of a rule."""
    is_vg = isinstance(rules, VisualGenomeRules)
    return vg_flag(rule) if is_vg else "--" + rule.replace("_", "-")


def default_folder(name: str, toy_format: str = "coco") -> Path:
    """Where a dataset is looked for when no folder is named."""
    return Path("data") / ("toy-vg" if name == "toy" and toy_format == "vg" else name)


def read_dataset(name: DatasetName, data: Path | None, rules: Rules, limit: int | None) -> Dataset:
    """The dataset in `data`. The toy world is drawn first, but a folder that was named and has
    annotations is taken as it is."""
    as_vg = isinstance(rules, VisualGenomeRules)
    folder = data or default_folder(name, "vg" if as_vg else "coco")
    if name == "toy":
        there = folder / ("objects.json" if as_vg else "annotations")
        if data is None or not there.exists():
            (write_toy_visual_genome if as_vg else write_toy)(folder)
        if not (folder / "styles.json").is_file():
            raise DatasetError(
                f"{folder} holds no toy world (it has no styles.json): read real photos with "
                f"--dataset coco or vg"
            )
        return _as_toy(_read(folder, rules, limit))
    return _read(folder, rules, limit)


def _read(folder: Path, rules: Rules, limit: int | None) -> Dataset:
    if isinstance(rules, VisualGenomeRules):
        return read_visual_genome(DataFolder(folder), rules, limit)
    return read_coco(DataFolder(folder), rules, limit=limit)


def _as_toy(found: Dataset) -> Dataset:
    protocol = replace(
        found.protocol,
        title=f"toy world; its files are read as {found.protocol.title}",
        known=(),
        not_compared="its photos are drawn",
    )
    return replace(found, name="toy", protocol=protocol)
