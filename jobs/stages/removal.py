"""Takes photos out of a finished bank: its next version is made beside it and takes its place."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bank.contents import read_vocabulary
from bank.errors import BankError
from bank.manifest import Manifest, read_manifest
from bank.recipe import TRAIN, complete_recipe
from bank.table import column
from jobs.stages.assemble import assemble
from jobs.stages.cluster import Pool
from jobs.stages.complete import Origin, complete, summary
from jobs.stages.copy_shards import copy_shards, read_photos
from jobs.stages.derivation import DeriveOptions
from jobs.stages.staging import building, next_version, swap_in, tidy
from pipeline.output import log
from pipeline.wording import counted

STEPS = ("encoder_steps", "cooccurrence_steps")


def remove_photos(path: Path, asked: set[int], retrain: bool, pool: Pool) -> None:
    """Take photos out of the bank at `path`; networks trained anew if `retrain`, else kept."""
    tidy(path)
    known = read_manifest(path)
    gone = set(known.recipe.get("quarantine", ()))
    wanted = asked - gone
    if already := asked & gone:
        log.info(f"already taken out: {' '.join(map(str, sorted(already)))}")
    if unknown := wanted - set(column(read_photos(path), "image_id").tolist()):
        raise BankError(
            f"{path} has no photo {min(unknown)}; patches.arrow lists those that it has, "
            f"in the column image_id"
        )
    if not wanted:
        return
    with building(path) as bank, pool:
        staging = next_version(bank)
        shards = copy_shards(bank, staging, wanted)
        edited = origin(known, wanted, retrain)
        vocabulary = read_vocabulary(bank / "vocabulary.json")
        assembled = assemble(staging, list(shards), vocabulary, edited.quarantine)
        networks = derive_options(bank, known, retrain)
        manifest = complete(staging, shards, assembled, networks, edited, pool, bank)
        swap_in(bank)
    print(summary(path, manifest, shards))
    gone_now = counted(len(wanted), "photo")
    log.info(
        f"taken out: {gone_now}; runs trained on the bank as it was keep what they learned, and no "
        f"longer open with it: train again"
    )


def origin(known: Manifest, wanted: set[int], retrain: bool) -> Origin:
    """As the bank was, and what is done to it now."""
    quarantine = sorted(wanted.union(known.recipe.get("quarantine", ())))
    record = {
        "date": datetime.now(UTC).date().isoformat(),
        "edit": "removed photos",
        "photos": sorted(wanted),
        "networks": "trained anew" if retrain else "kept",
    }
    return Origin(
        dataset=known.dataset,
        recipe={**known.recipe, "quarantine": quarantine},
        inputs=known.inputs,
        protocol=known.protocol,
        photos=known.counts["photos"],
        quarantine=quarantine,
        edits=(*known.edits, record),
        steps={} if retrain else {n: known.counts[n] for n in STEPS},
    )


def derive_options(bank: Path, known: Manifest, retrain: bool) -> DeriveOptions:
    """Its networks as they are; or, to train anew those that were trained here, their settings."""
    recipe = complete_recipe(known.recipe)
    networks: dict[str, Any] = {}
    for name in ("graph_encoder", "cooccurrence"):
        trained, file = retrain and recipe[name] == TRAIN, f"{name}.safetensors"
        networks[name] = TRAIN if trained else str(bank / file)
        networks[f"{name}_digest"] = TRAIN if trained else known.files[file].sha256
    same = ("encoder_steps", "cooccurrence_steps", "candidates", "candidate_scope")
    return DeriveOptions(**networks, **{name: recipe[name] for name in same})
