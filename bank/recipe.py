"""The settings that shape a bank; its manifest keeps them as its `recipe`."""

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, Literal

from pipeline.datasets import (
    FORMATS,
    DatasetName,
    DatasetRules,
    FormatName,
    Rules,
    default_folder,
    flag_of,
    format_name,
    rules_of,
)
from pipeline.options import option, to_json
from pipeline.resizer import Resizer

Scope = Literal["category", "all"]  # whose patches are candidates

TRAIN = "train"  # in place of a network's file: train it here
SEED = 0  # of the networks that are trained here


@dataclass(frozen=True, kw_only=True)
class BankSettings:
    """Options of `jobs.build_bank` that shape the bank: by another value it is another bank.

    The default of a new one is what all banks before it were built by (`complete_recipe`).
    """

    dataset: Annotated[DatasetName, option("what to read; toy draws its own photos")]
    graph_encoder: Annotated[
        str,
        option(
            "'train', a file (.safetensors, or sg2im's published .pt), or an sg2im run's folder"
        ),
    ] = TRAIN
    encoder_steps: Annotated[
        int | None, option("training steps of the graph encoder; default: by number of scenes")
    ] = None
    cooccurrence: Annotated[str, option("'train', or a .safetensors file")] = TRAIN
    cooccurrence_steps: Annotated[
        int | None, option("training steps of F_occur; default: by number of photos")
    ] = None
    image_size: Annotated[int, option("side of a packed image, in pixels")] = 128
    patch_size: Annotated[int, option("side of a patch, in pixels")] = 64
    resizer: Annotated[Resizer, option("which library resizes; both antialiased bilinear")] = (
        "torch"
    )
    candidates: Annotated[int, option("candidates stored per object")] = 20
    candidate_scope: Annotated[
        Scope, option("category: an object's own first, others as fallback; all: any")
    ] = "category"
    rules: Annotated[DatasetRules, option("", name="")] = field(default_factory=DatasetRules)
    toy_format: Annotated[
        FormatName, option("toy: whose files the photos come with, and which reader reads them")
    ] = "coco"
    toy_photos: Annotated[
        int | None,
        option("toy: so many photos in all, 4/7 of them for training; default 2,800"),
    ] = None
    limit: Annotated[
        int | None,
        option("so many photos at most: of each of COCO's files, of VG's train and of its others"),
    ] = None
    shard_photos: Annotated[int, option("photos per shard")] = 256


def recipe_of(settings: BankSettings, quarantine: Sequence[int] = ()) -> dict[str, Any]:
    """What the manifest says of these settings, where networks are trained.

    quarantine    image ids that are left out
    """
    recipe = {f.name: getattr(settings, f.name) for f in fields(BankSettings) if f.name != "rules"}
    if settings.dataset != "toy":
        del recipe["toy_format"], recipe["toy_photos"]
    recipe |= _by_flag(
        rules_of(settings.dataset, settings.rules, settings.toy_format, settings.toy_photos)
    )
    if quarantine:
        recipe["quarantine"] = list(quarantine)
    return {**recipe, "seed": SEED}


def complete_recipe(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """A bank's recipe with every setting: one that is newer than the bank has its default.

    The rules are those of the bank's dataset, which every bank names.
    """
    dataset: Any = recipe.get("dataset")
    toy_format, toy_photos = recipe.get("toy_format", "coco"), recipe.get("toy_photos")
    defaults = {f.name: f.default for f in fields(BankSettings) if f.default is not MISSING}
    if dataset != "toy":
        del defaults["toy_format"], defaults["toy_photos"]
    if format_name(dataset, toy_format) in FORMATS:
        defaults |= _by_flag(rules_of(dataset, DatasetRules(), toy_format, toy_photos))
    return {**defaults, "seed": SEED, **recipe}


def folder_of(recipe: Mapping[str, Any]) -> Path:
    """Where the photos of a bank of this recipe lie when no folder is named.

    Not by the manifest's `dataset`: in older toy banks that says coco.
    """
    toy_format, toy_photos = recipe.get("toy_format", "coco"), recipe.get("toy_photos")
    return default_folder(recipe.get("dataset", ""), toy_format, toy_photos)


def _by_flag(rules: Rules) -> dict[str, Any]:
    """A dataset's rules, each by its flag's name."""
    return {
        flag_of(rules, name).removeprefix("--").replace("-", "_"): value
        for name, value in to_json(asdict(rules)).items()
    }
