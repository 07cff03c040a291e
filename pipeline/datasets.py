"""A dataset's name -> its rules, its flags, its folder and its reader.

All that a dataset brings stands in `FORMATS`. Another one needs a name in `FormatName`, its rules
in `Rules`, an entry in `FORMATS` (the toy world written in its form included, for tests), and a
field of the same name in `DatasetRules`, which gives the command line its flags; its reader is a
folder beside coco/, which pyproject.toml lists. The toy world has files of every format, and goes
through the reader of the one that is asked for.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pipeline.coco.reader import CocoRules, read_coco
from pipeline.data_folder import DataFolder
from pipeline.dataset import Dataset
from pipeline.errors import DatasetError
from pipeline.options import option
from pipeline.toy.coco import write_toy
from pipeline.toy.visual_genome import TOY_RULES, write_toy_visual_genome
from pipeline.toy.world import check_photos, shares
from pipeline.visual_genome.reader import read_visual_genome
from pipeline.visual_genome.rules import VisualGenomeRules
from pipeline.visual_genome.rules import flag as vg_flag

FormatName = Literal["coco", "vg"]
DatasetName = Literal[FormatName, "toy"]
Rules = CocoRules | VisualGenomeRules


class Format(NamedTuple):
    """What reads a dataset's files, and how the toy world is written as such."""

    called: str  # what its files are called in messages
    rules: type[Rules]  # its fields are flags
    flag: Callable[[str], str]  # name of a rule -> its flag
    read: Callable[[DataFolder, Any, int | None], Dataset]  # folder, rules, limit
    toy_folder: str  # default, under data/
    toy_file: str  # whose presence says that the toy folder is written
    toy_rules: Rules
    sized_toy_rules: Rules  # where the number of toy photos is given: half the others are for test
    write_toy: Callable[..., None]  # folder, and how many photos of each kind


FORMATS: Mapping[FormatName, Format] = {
    "coco": Format(
        called="COCO's files",
        rules=CocoRules,
        flag=lambda rule: "--" + rule.replace("_", "-"),
        read=lambda folder, rules, limit: read_coco(folder, rules, limit=limit),
        toy_folder="toy",
        toy_file="annotations",
        toy_rules=CocoRules(),
        sized_toy_rules=CocoRules(test_rule="half"),
        write_toy=write_toy,
    ),
    "vg": Format(
        called="Visual Genome's files",
        rules=VisualGenomeRules,
        flag=vg_flag,
        read=read_visual_genome,
        toy_folder="toy-vg",
        toy_file="objects.json",
        toy_rules=TOY_RULES,  # sg2im's thresholds are for a hundred times as many photos
        sized_toy_rules=TOY_RULES,  # its file of splits says who is for test
        write_toy=write_toy_visual_genome,
    ),
}


@dataclass(frozen=True, kw_only=True)
class DatasetRules:
    """The rules of every format: each has flags of its own."""

    coco: Annotated[CocoRules, option("", name="")] = field(default_factory=CocoRules)
    vg: Annotated[VisualGenomeRules, option("", name="")] = field(default_factory=VisualGenomeRules)


def format_name(dataset: DatasetName, toy_format: FormatName = "coco") -> FormatName:
    """Whose files a dataset has."""
    return toy_format if dataset == "toy" else dataset


def rules_of(
    dataset: DatasetName,
    rules: DatasetRules,
    toy_format: FormatName = "coco",
    toy_photos: int | None = None,
) -> Rules:
    """Those that the dataset goes by: the toy world's own where none is changed."""
    name = format_name(dataset, toy_format)
    form = FORMATS[name]
    asked: Rules = getattr(rules, name)
    if dataset != "toy" or asked != form.rules():
        return asked
    return form.toy_rules if toy_photos is None else form.sized_toy_rules


def format_of(rules: Rules) -> Format:
    """The format that has such rules."""
    return next(known for known in FORMATS.values() if isinstance(rules, known.rules))


def flag_of(rules: Rules, rule: str) -> str:
    """The command-line flag of a rule."""
    return format_of(rules).flag(rule)


def default_folder(
    dataset: str, toy_format: FormatName = "coco", toy_photos: int | None = None
) -> Path:
    """Where a dataset is looked for when no folder is named: toy worlds of other sizes than the
    default stand beside it."""
    if dataset == "toy":
        return _toy_folder(FORMATS[toy_format], toy_photos)
    return Path("data") / dataset


def _toy_folder(form: Format, toy_photos: int | None) -> Path:
    size = "" if toy_photos is None else f"-{toy_photos}"
    return Path("data") / f"{form.toy_folder}{size}"


def read_dataset(
    dataset: DatasetName,
    data: Path | None,
    rules: Rules,
    limit: int | None,
    toy_photos: int | None = None,
) -> Dataset:
    """The dataset in `data`. The toy world is drawn first, but a folder that was named and has
    annotations is taken as it is: DatasetError if it has not the `toy_photos` asked for."""
    form = format_of(rules)
    if dataset != "toy":
        return form.read(DataFolder(data or default_folder(dataset)), rules, limit)
    folder = data or _toy_folder(form, toy_photos)
    if data is None or not (folder / form.toy_file).exists():
        form.write_toy(folder, **({} if toy_photos is None else shares(toy_photos)))
    elif toy_photos is not None:
        check_photos(folder, toy_photos)
    if not (folder / "styles.json").is_file():
        raise DatasetError(
            f"{folder} holds no toy world (it has no styles.json): read real photos with "
            f"--dataset coco or vg"
        )
    return _as_toy(form.read(DataFolder(folder), rules, limit))


def _as_toy(dataset: Dataset) -> Dataset:
    protocol = replace(
        dataset.protocol,
        title=f"toy world; its files are read as {dataset.protocol.title}",
        known=(),
        not_compared="its photos are drawn",
    )
    return replace(dataset, name="toy", protocol=protocol)
