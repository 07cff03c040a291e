"""Builds a bank, from the options to the bank at its place; or adds to one."""

import shutil
from collections.abc import Collection, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bank.errors import BankError
from bank.files import file_digest
from bank.manifest import Manifest, differences, is_finished, read_manifest
from bank.recipe import TRAIN, complete_recipe, recipe_of
from jobs.stages.additions import Addition, check_addable, find_addition
from jobs.stages.assemble import assemble, remove_other_shards
from jobs.stages.cluster import Pool
from jobs.stages.complete import Origin, check_failures, complete, summary
from jobs.stages.copy_shards import copy_shards
from jobs.stages.cut import absent_folders, cut, forget_failed, photos_digest, plan
from jobs.stages.cutting import CropOptions, CutShard
from jobs.stages.derivation import DeriveOptions
from jobs.stages.networks import check_networks
from jobs.stages.options import BuildBank
from jobs.stages.staging import building, next_version, swap_in, tidy
from model.sg2im.run import graph_encoder_file
from pipeline import codec, protocol
from pipeline.dataset import Dataset
from pipeline.datasets import read_dataset, rules_of
from pipeline.errors import UserError
from pipeline.options import to_json
from pipeline.output import log
from pipeline.resizer import Resizer
from pipeline.scene import Vocabulary
from pipeline.wording import counted


def build(options: BuildBank) -> None:
    tidy(options.bank)
    known = read_known(options.bank) if is_finished(options.bank) else None
    if known is None and options.mode == "extend":
        raise BankError(f"{options.bank} is no finished bank yet: build it without --mode extend")
    toy_photos = options.toy_photos
    rules = rules_of(options.dataset, options.rules, options.toy_format, toy_photos)
    dataset = read_dataset(options.dataset, options.data, rules, options.limit, toy_photos)
    log.info("\n".join(protocol.lines(dataset.protocol)))
    print_codec(options.resizer, known)
    quarantine = quarantine_of(options, dataset, known)
    recipe = asked_recipe(options, quarantine)
    origin = Origin(
        dataset=dataset.name,
        recipe=recipe,
        inputs={**dataset.inputs, "photos": photos_digest(dataset)},
        protocol=to_json(dataset.protocol),
        photos=len(dataset.photos),
        quarantine=quarantine,
    )
    if known and options.mode == "resume" and not options.retry_failed:
        check_same(options, known, origin)
        return
    check_networks(options.graph_encoder, options.cooccurrence, dataset.vocabulary)
    absent = absent_folders(dataset)
    with building(options.bank) as bank, Pool(options.workers, options.scheduler) as pool:
        if known and options.mode != "overwrite":
            add(options, bank, known, dataset, absent, origin, pool)
            return
        staging = next_version(bank) if known else bank
        tasks = plan(
            dataset,
            staging,
            options.shard_photos,
            crops(options),
            quarantine=quarantine,
            never_there=absent,
        )
        if options.retry_failed:
            forget_failed(tasks)
        shards = cut(tasks, pool)
        finish(options, bank, staging, shards, dataset.vocabulary, origin, pool)


def finish(
    options: BuildBank,
    bank: Path,
    staging: Path,
    shards: Mapping[str, CutShard],
    vocabulary: Vocabulary,
    origin: Origin,
    pool: Pool,
    earlier: Path | None = None,
) -> None:
    """All that comes after cutting, in order; then the bank is at its place."""
    assembled = assemble(staging, list(shards), vocabulary, origin.quarantine)
    if options.max_failures is not None:
        check_failures(assembled.left_out, options.max_failures)
    remove_other_shards(staging, list(shards))
    networks = derive_options(options)
    manifest = complete(staging, shards, assembled, networks, origin, pool, earlier)
    swap_in(bank)
    print(summary(options.bank, manifest, shards))


def add(
    options: BuildBank,
    bank: Path,
    known: Manifest,
    dataset: Dataset,
    absent: Collection[str],
    origin: Origin,
    pool: Pool,
) -> None:
    """Put new photos, or those that failed, into new shards beside the old ones."""
    new = options.mode == "extend"
    check_addable(options.bank, known, origin.recipe, origin.inputs, new=new)
    addition = find_addition(
        bank, known, dataset, origin.quarantine, new=new, failed=options.retry_failed
    )
    if not addition.photos:
        log.info(f"{options.bank} has every photo that could be added; nothing to do")
        return
    log.info(describe_addition(addition))
    staging = next_version(bank)
    some = replace(dataset, photos=addition.photos)
    tasks = plan(
        some,
        staging,
        options.shard_photos,
        crops(options),
        taken=addition.taken,
        never_there=absent,
    )
    added = cut(tasks, pool)
    scenes = sum(shard.receipt.counts["scenes"] for shard in added.values())
    if not scenes and not new:
        shutil.rmtree(staging)
        tried = counted(len(addition.photos), "photo")
        log.info(f"{tried} tried again, in vain; {options.bank} is as it was")
        return
    shards = {**copy_shards(bank, staging, addition.failed | addition.changed), **added}
    edits = (*known.edits, edit_record(addition))
    edited = replace(origin, edits=edits)
    finish(options, bank, staging, shards, dataset.vocabulary, edited, pool, bank)


def describe_addition(addition: Addition) -> str:
    new = len(addition.photos) - len(addition.failed) - len(addition.changed)
    parts = [
        (new, "new"),
        (len(addition.failed), "that failed"),
        (len(addition.changed), "whose annotations or split have changed"),
    ]
    return "photos to be cut: " + ", ".join(f"{n:,} {what}" for n, what in parts if n)


def edit_record(addition: Addition) -> dict[str, Any]:
    """What the manifest keeps of an addition."""
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "edit": "added photos",
        "photos": len(addition.photos),
        "of_which_failed_before": len(addition.failed),
        "of_which_changed": len(addition.changed),
    }


def crops(options: BuildBank) -> CropOptions:
    return CropOptions(options.image_size, options.patch_size, options.resizer)


def print_codec(resizer: Resizer, known: Manifest | None) -> None:
    """Print which Pillow resizes, and where this machine's pixels differ from those of others."""
    if resizer == "pillow":
        log.info("resizer: {} {}".format(*codec.pillow()))
    ours = codec.answers_with(resizer)
    for whose, other_answers in (
        ("those that this project was tested with", codec.KNOWN_ANSWERS),
        ("those that built the bank", known.codec if known else {}),
    ):
        if differing := codec.differing(ours, other_answers):
            log.warning(
                f"note: {', '.join(differing)} of this machine answers otherwise than {whose}: "
                f"what is built here is whole, but its content digest is another",
            )


def quarantine_of(options: BuildBank, dataset: Dataset, known: Manifest | None) -> list[int]:
    """Image ids that are left out: those asked for, and those a finished bank has left out."""
    before = known.recipe.get("quarantine", []) if known else []
    asked = set(options.quarantine)
    if unknown := asked - set(before) - {p.photo.image_id for p in dataset.photos}:
        raise UserError(
            f"--quarantine {min(unknown)}: no photo of that image id is among the "
            f"{len(dataset.photos):,} that are read"
        )
    if kept := sorted(set(before) - asked):
        shown = " ".join(map(str, kept[:10])) + (" ..." if len(kept) > 10 else "")
        log.info(f"quarantine: {counted(len(kept), 'photo')} left out as before ({shown})")
    return sorted(asked.union(before))


def asked_recipe(options: BuildBank, quarantine: list[int]) -> dict[str, Any]:
    """As the manifest would have it: a network that is read from a file counts by its digest."""
    recipe = recipe_of(options, quarantine)
    for name in ("graph_encoder", "cooccurrence"):
        recipe[name] = network_digest(name, recipe[name])
    return recipe


def read_known(bank: Path) -> Manifest:
    """The finished bank's manifest, its recipe completed."""
    manifest = read_manifest(bank)
    return replace(manifest, recipe=complete_recipe(manifest.recipe))


def network_digest(name: str, source: str) -> str:
    """`train`, or the SHA-256 of the file that holds the weights."""
    if source == TRAIN:
        return TRAIN
    path = graph_encoder_file(Path(source)) if name == "graph_encoder" else Path(source)
    if not path.is_file():
        raise UserError(
            f"--{name.replace('_', '-')} {source}: there is no file {path}; give a path or 'train'"
        )
    return file_digest(path).sha256


def derive_options(options: BuildBank) -> DeriveOptions:
    return DeriveOptions(
        graph_encoder=options.graph_encoder,
        graph_encoder_digest=network_digest("graph_encoder", options.graph_encoder),
        encoder_steps=options.encoder_steps,
        cooccurrence=options.cooccurrence,
        cooccurrence_digest=network_digest("cooccurrence", options.cooccurrence),
        cooccurrence_steps=options.cooccurrence_steps,
        candidates=options.candidates,
        candidate_scope=options.candidate_scope,
    )


def check_same(options: BuildBank, known: Manifest, origin: Origin) -> None:
    """Print that there is nothing to do; BankError where the bank is not the one asked for."""
    bank = options.bank
    if changes := differences(known, origin.recipe, origin.inputs):
        raise BankError(
            f"{bank} is finished, but was built otherwise: {'; '.join(changes)}. It was left as it "
            f"is; ask for the same, name another --out, or give --mode overwrite (to add photos: "
            f"--mode extend; to try mended ones again: --retry-failed; to take photos out: "
            f"jobs.edit_bank)"
        )
    log.info(f"{bank} is finished and was built from the same; nothing to do")
    if next_version(bank).is_dir():
        log.info(
            f"a change of it is unfinished in {next_version(bank)}: give its --mode again to go on"
        )
