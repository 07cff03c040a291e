"""Cut every object out of a dataset's photos and keep the patches as a searchable bank.

python -m jobs.build_bank --dataset toy     nothing to download: draws its photos first
python -m jobs.build_bank --dataset coco    reads data/coco, writes bank/coco
python -m jobs.build_bank --dataset vg      reads data/vg, writes bank/vg

Run it again to go on with a build that was interrupted; a finished bank is left as it is.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

from bank.assemble import assemble, count_reasons, remove_strangers
from bank.candidates import Scope
from bank.contents import Contents, content_digest
from bank.cutting import CropRecipe, CutShard
from bank.errors import BankError
from bank.files import file_digest
from bank.manifest import (
    Manifest,
    derived_digest,
    differences,
    is_finished,
    read_manifest,
    write_manifest,
)
from bank.receipts import digests
from bank.site import building, clear_work
from jobs.cut import Workforce, content_files, cut, photos_digest, plan
from jobs.derive import SEED, TRAIN, Derivation, DeriveRecipe, check_networks, derive
from model import cooccurrence, encoder
from pipeline import codec, protocol
from pipeline.coco.reader import CocoRules
from pipeline.crop import Resizer
from pipeline.dataset import Dataset
from pipeline.datasets import (
    DatasetName,
    Rules,
    ToyFormat,
    default_folder,
    flag_of,
    read_dataset,
    rules_of,
)
from pipeline.errors import UserError
from pipeline.options import option, run, to_json
from pipeline.scene import LeftOut
from pipeline.visual_genome.rules import VisualGenomeRules

JOINED = (
    "patches.arrow",
    "scenes.index.arrow",
    "photos.arrow",
    "vocabulary.json",
    "failures.jsonl",
)


@dataclass(frozen=True, kw_only=True)
class BuildBank:
    dataset: Annotated[DatasetName, option("what to read; toy draws its own photos")]
    data: Annotated[
        Path | None, option("folder of the dataset; default data/<dataset>, or data/toy-vg")
    ] = None
    out: Annotated[
        Path | None, option("folder of the bank; default bank/<dataset>, or bank/toy-vg")
    ] = None
    workers: Annotated[int, option("processes that cut patches; 0 = this one, no Dask")] = 0
    scheduler: Annotated[str, option("address of a running Dask scheduler, instead")] = ""
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
    image_size: Annotated[int, option("side of a packed picture, in pixels")] = 128
    patch_size: Annotated[int, option("side of a patch, in pixels")] = 64
    resizer: Annotated[Resizer, option("who resizes; both antialiased bilinear")] = "torch"
    candidates: Annotated[int, option("candidates stored per object")] = 20
    candidate_scope: Annotated[
        Scope, option("category: an object's own first, others as fallback; all: any")
    ] = "category"
    coco: Annotated[CocoRules, option("", name="")] = field(default_factory=CocoRules)
    vg: Annotated[VisualGenomeRules, option("", name="")] = field(default_factory=VisualGenomeRules)
    toy_format: Annotated[
        ToyFormat, option("toy: whose files the photos come with, and which reader reads them")
    ] = "coco"
    limit: Annotated[
        int | None,
        option("take only the first so many: of each of COCO's files, of VG's train and others"),
    ] = None
    shard_photos: Annotated[int, option("photos per shard")] = 256

    def __post_init__(self) -> None:
        least = {"workers": 0, "encoder_steps": 0, "cooccurrence_steps": 0}
        for name, value in asdict(self).items():
            if isinstance(value, int) and value < least.get(name, 1):
                flag = name.replace("_", "-")
                raise ValueError(f"--{flag} is {value}; it must be at least {least.get(name, 1)}")
        if not self.image_size <= 4096 >= self.patch_size:
            raise ValueError("--image-size and --patch-size may be at most 4096 pixels")
        if self.workers and self.scheduler:
            raise ValueError("--workers starts workers here, --scheduler uses others: give one")
        if self.dataset != "toy" and self.toy_format != "coco":
            raise ValueError(f"--toy-format is for --dataset toy, not {self.dataset}")
        reads_vg = self.dataset == "vg" or (self.dataset == "toy" and self.toy_format == "vg")
        if reads_vg and self.coco != CocoRules():
            raise ValueError(f"{_changed(self.coco)} is for COCO's files, not Visual Genome's")
        if not reads_vg and self.vg != VisualGenomeRules():
            raise ValueError(f"{_changed(self.vg)} is for Visual Genome's files, not COCO's")

    @property
    def bank(self) -> Path:
        return self.out or Path("bank") / default_folder(self.dataset, self.toy_format).name


def _changed(rules: Rules) -> str:
    """The first flag that is not at its default."""
    default = type(rules)()
    changed = (name for name, value in asdict(rules).items() if value != getattr(default, name))
    name = next(changed)
    flag = flag_of(rules, name)
    return flag.replace("--", "--no-") if getattr(rules, name) is False else flag


def main(options: BuildBank) -> None:
    rules = rules_of(options.dataset, options.coco, options.vg, options.toy_format)
    recipe = recipe_of(options, rules)
    dataset = read_dataset(options.dataset, options.data, rules, options.limit)
    print("\n".join(protocol.lines(dataset.protocol)), flush=True)
    inputs = {**dataset.inputs, "photos": photos_digest(dataset)}
    if is_finished(options.bank):
        check_same(options.bank, recipe, inputs)
        clear_work(options.bank)
        print(f"{options.bank} is finished and was built from the same; nothing to do")
        return
    check_networks(options.graph_encoder, options.cooccurrence, dataset.vocabulary)
    with building(options.bank) as bank:
        crops = CropRecipe(options.image_size, options.patch_size, options.resizer)
        shards = cut(
            plan(dataset, bank, options.shard_photos, crops),
            Workforce(options.workers, options.scheduler),
        )
        left_out = assemble(bank, list(shards), dataset.vocabulary)
        remove_strangers(bank, list(shards))
        content = Contents(bank, options.patch_size)
        derivation = Derivation(content, content_digest(bank), derive_recipe(options, content))
        files = {
            **content_files(shards),
            **digests(bank, [bank / name for name in JOINED]),
            **derive(derivation),
        }
        manifest = Manifest(
            dataset=dataset.name,
            recipe=recipe,
            inputs=inputs,
            protocol=to_json(dataset.protocol),
            counts=counts_of(dataset, shards, derivation),
            left_out=dict(Counter(row.reason for row in left_out)),
            shards={name: shard.receipt.counts for name, shard in shards.items()},
            files=files,
            content_digest=derivation.content_digest,
            derived_digest=derived_digest(files),
            versions=codec.versions(),
            codec=dict(codec.answers()),
            machine=codec.machine(),
        )
        write_manifest(bank, manifest)
        clear_work(bank)
    print(summary(options.bank, manifest, shards, left_out))


def recipe_of(options: BuildBank, rules: Rules) -> dict[str, Any]:
    """Every option that shapes the bank; networks given by file are known by their digest."""
    recipe = asdict(options)
    for name in ("data", "out", "workers", "scheduler", "coco", "vg"):
        del recipe[name]
    if options.dataset != "toy":
        del recipe["toy_format"]
    for name, value in to_json(asdict(rules)).items():
        recipe[flag_of(rules, name).removeprefix("--").replace("-", "_")] = value
    for name in ("graph_encoder", "cooccurrence"):
        recipe[name] = network_digest(name, recipe[name])
    return {**recipe, "seed": SEED}


def network_digest(name: str, source: str) -> str:
    """`train`, or the SHA-256 of the file that holds the weights."""
    if source == TRAIN:
        return TRAIN
    path = encoder.graph_encoder_file(Path(source)) if name == "graph_encoder" else Path(source)
    if not path.is_file():
        raise UserError(
            f"--{name.replace('_', '-')} {source}: there is no file {path}; give a path or 'train'"
        )
    return file_digest(path).sha256


def derive_recipe(options: BuildBank, content: Contents) -> DeriveRecipe:
    """Defaults filled in; a network that is given needs no steps."""
    train_photos = len(content.scene_ids("train"))
    encoder_steps, occur_steps = options.encoder_steps, options.cooccurrence_steps
    if encoder_steps is None:
        encoder_steps = encoder.default_steps(train_photos)
    if occur_steps is None:
        occur_steps = cooccurrence.default_steps(train_photos)
    return DeriveRecipe(
        graph_encoder=options.graph_encoder,
        graph_encoder_digest=network_digest("graph_encoder", options.graph_encoder),
        encoder_steps=encoder_steps if options.graph_encoder == TRAIN else 0,
        cooccurrence=options.cooccurrence,
        cooccurrence_digest=network_digest("cooccurrence", options.cooccurrence),
        cooccurrence_steps=occur_steps if options.cooccurrence == TRAIN else 0,
        candidates=options.candidates,
        candidate_scope=options.candidate_scope,
    )


def check_same(bank: Path, recipe: Mapping[str, Any], inputs: Mapping[str, str]) -> None:
    """BankError where a finished bank is not the one that is asked for."""
    if found := differences(read_manifest(bank), recipe, inputs):
        raise BankError(
            f"{bank} is finished, but was built otherwise: {'; '.join(found)}. It was left as it "
            f"is; ask for the same, name another --out, or move it away"
        )


def counts_of(
    dataset: Dataset, shards: Mapping[str, CutShard], derivation: Derivation
) -> dict[str, int]:
    cut_counts = [shard.receipt.counts for shard in shards.values()]
    return {
        "photos": len(dataset.photos),
        "scenes": sum(c["scenes"] for c in cut_counts),
        "patches": sum(c["patches"] for c in cut_counts),
        "categories": len(set(derivation.contents.strings("category"))),
        "encoder_steps": derivation.recipe.encoder_steps,
        "cooccurrence_steps": derivation.recipe.cooccurrence_steps,
    }


def summary(
    bank: Path, manifest: Manifest, shards: Mapping[str, CutShard], left_out: list[LeftOut]
) -> str:
    counts = manifest.counts
    lines = [
        f"{counts['patches']:,} patches of {counts['categories']} categories, cut from "
        f"{counts['scenes']:,} photos, in {bank}/"
    ]
    kept = sum(not shard.fresh for shard in shards.values())
    if kept:
        lines.append(f"{kept:,} of {len(shards):,} shards were kept from an earlier run")
    if left_out:
        lines.append(f"left out: {count_reasons(left_out)}; see {bank}/failures.jsonl")
    lines.append(f"derived digest: {manifest.derived_digest}")
    lines.append(f"content digest: {manifest.content_digest}")
    return "\n".join(lines)


if __name__ == "__main__":
    run(main, BuildBank, __doc__)
