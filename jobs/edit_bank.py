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

from bank.contents import Contents, content_digest, read_vocabulary
from bank.errors import BankError
from bank.manifest import Manifest, read_manifest
from bank.table import column
from jobs.stages.assemble import assemble, remove_other_shards
from jobs.stages.complete import Origin, complete, summary
from jobs.stages.copy_shards import copy_shards, read_photos
from jobs.stages.derive import TRAIN, Derivation, DeriveOptions, derive
from jobs.stages.staging import building, next_version, swap_in, tidy
from model.graph import frozen_encoder as encoder
from model.retrieval import cooccurrence
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
        left_out = assemble(staging, list(shards), vocabulary, edited.quarantine)
        remove_other_shards(staging, list(shards))
        contents = Contents(staging, known.recipe["patch_size"])
        networks = derive_options(bank, known, contents, options.retrain)
        derivation = Derivation(contents, content_digest(staging), networks)
        manifest = complete(shards, left_out, derivation, derive(derivation), edited)
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


def derive_options(bank: Path, known: Manifest, contents: Contents, retrain: bool) -> DeriveOptions:
    """The bank's own networks, or, for those that were trained here, the steps to do it again."""
    photos = len(contents.scene_ids("train"))
    settings: dict[str, Any] = {}
    for name, steps, default in (
        ("graph_encoder", "encoder_steps", encoder.default_steps(photos)),
        ("cooccurrence", "cooccurrence_steps", cooccurrence.default_steps(photos)),
    ):
        if retrain and known.recipe.get(name, TRAIN) == TRAIN:
            asked = known.recipe.get(steps)
            settings |= {name: TRAIN, f"{name}_digest": TRAIN}
            settings[steps] = default if asked is None else asked
        else:
            file = f"{name}.safetensors"
            settings |= {name: str(bank / file), f"{name}_digest": known.files[file].sha256}
            settings[steps] = 0
    return DeriveOptions(
        **settings,
        candidates=known.recipe["candidates"],
        candidate_scope=known.recipe["candidate_scope"],
    )


if __name__ == "__main__":
    run(main, EditBank, __doc__)
