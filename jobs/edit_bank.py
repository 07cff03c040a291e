"""Take photos out of a finished bank: patches, scenes, features, index entries and candidates.

python -m jobs.edit_bank bank/coco --remove-photo 581929 9     needs neither photos nor annotations

The bank stays as it was until its next version is whole. The image ids are kept in the manifest, so
that no later build takes the photos in again.
"""

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import tyro

from bank.contents import read_vocabulary
from bank.errors import BankError
from bank.manifest import Manifest, read_manifest
from bank.recipe import TRAIN, complete_recipe
from bank.table import column
from jobs.stages.assemble import assemble
from jobs.stages.complete import Origin, complete, summary
from jobs.stages.copy_shards import copy_shards, read_photos
from jobs.stages.derive import DeriveOptions
from jobs.stages.staging import building, next_version, swap_in, tidy
from pipeline.options import option, run

STEPS = ("encoder_steps", "cooccurrence_steps")


@dataclass(frozen=True, kw_only=True)
class EditBank:
    bank: Annotated[Path, tyro.conf.Positional, option("folder of a built bank")]
    remove_photo: Annotated[tuple[int, ...], option("image ids of the photos to take out")]
    retrain: Annotated[
        bool,
        option(
            "also train the bank's networks anew without these photos, as a fresh build with "
            "--quarantine would; otherwise they stay, and with them all other features"
        ),
    ] = False

    def __post_init__(self) -> None:
        if not self.remove_photo:
            raise ValueError("--remove-photo needs at least one image id")


def main(options: EditBank) -> None:
    tidy(options.bank)
    known = read_manifest(options.bank)
    gone = set(known.recipe.get("quarantine", ()))
    wanted = set(options.remove_photo) - gone
    if already := set(options.remove_photo) & gone:
        print(f"already taken out: {' '.join(map(str, sorted(already)))}")
    if unknown := wanted - set(column(read_photos(options.bank), "image_id").tolist()):
        raise BankError(
            f"{options.bank} has no photo {min(unknown)}; patches.arrow lists those that it has, "
            f"in the column image_id"
        )
    if not wanted:
        return
    with building(options.bank) as bank:
        staging = next_version(bank)
        shards = copy_shards(bank, staging, wanted)
        edited = origin(options, known, wanted)
        vocabulary = read_vocabulary(bank / "vocabulary.json")
        assembled = assemble(staging, list(shards), vocabulary, edited.quarantine)
        networks = derive_options(bank, known, options.retrain)
        manifest = complete(staging, shards, assembled, networks, edited)
        swap_in(bank)
    print(summary(options.bank, manifest, shards))
    print(f"{len(wanted):,} photos are taken out; runs that were trained on them are not changed")


def origin(options: EditBank, known: Manifest, wanted: set[int]) -> Origin:
    """As the bank was, and what is done to it now."""
    quarantine = sorted(wanted.union(known.recipe.get("quarantine", ())))
    record = {
        "date": datetime.now(UTC).date().isoformat(),
        "edit": "removed photos",
        "photos": sorted(wanted),
        "networks": "trained anew" if options.retrain else "kept",
    }
    return Origin(
        dataset=known.dataset,
        recipe={**known.recipe, "quarantine": quarantine},
        inputs=known.inputs,
        protocol=known.protocol,
        photos=known.counts["photos"],
        quarantine=quarantine,
        edits=(*known.edits, record),
        steps={} if options.retrain else {n: known.counts[n] for n in STEPS},
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


if __name__ == "__main__":
    run(main, EditBank, __doc__)
