"""Shards that are cut or carried -> a finished bank: tables, networks, index, candidates, manifest.

The last part of every build and of every edit.
"""

from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from bank import croissant
from bank.contents import Contents, content_digest
from bank.errors import BankError
from bank.files import file_digest
from bank.manifest import Manifest, derived_digest, write_manifest
from jobs.stages.assemble import QUARANTINED, assemble, count_reasons, remove_strangers
from jobs.stages.cut import content_files
from jobs.stages.cutting import CutShard
from jobs.stages.derive import Derivation, DeriveRecipe, derive
from jobs.stages.receipts import digests
from pipeline import codec
from pipeline.scene import LeftOut, Vocabulary

JOINED = (
    "patches.arrow",
    "scenes.index.arrow",
    "photos.arrow",
    "vocabulary.json",
    "failures.jsonl",
)


@dataclass(frozen=True, kw_only=True)
class Origin:
    """What only the command knows of the bank that it makes."""

    dataset: str
    recipe: Mapping[str, Any]
    inputs: Mapping[str, str]
    protocol: Mapping[str, Any]
    photos: int  # that the protocol keeps
    quarantine: Collection[int]
    edits: tuple[Mapping[str, Any], ...] = ()
    steps: Mapping[str, int] = field(default_factory=dict)  # of networks that are kept


def complete(
    site: Path,
    shards: Mapping[str, CutShard],
    vocabulary: Vocabulary,
    origin: Origin,
    derive_recipe: Callable[[Contents], DeriveRecipe],
    max_failures: int | None = None,
) -> Manifest:
    """Everything behind the cutting, the manifest last; BankError for too many failures."""
    left_out = assemble(site, list(shards), vocabulary, origin.quarantine)
    _check_failures(left_out, max_failures)
    remove_strangers(site, list(shards))
    contents = Contents(site, origin.recipe["patch_size"])
    derivation = Derivation(contents, content_digest(site), derive_recipe(contents))
    files = {
        **content_files(shards),
        **digests(site, [site / name for name in JOINED]),
        **derive(derivation),
    }
    manifest = Manifest(
        dataset=origin.dataset,
        recipe=origin.recipe,
        inputs=origin.inputs,
        protocol=origin.protocol,
        counts=_counts(origin, shards, derivation),
        left_out=dict(sorted(Counter(row.reason for row in left_out).items())),
        shards={name: shard.receipt.counts for name, shard in shards.items()},
        files=files,
        content_digest=derivation.content_digest,
        derived_digest=derived_digest(files),
        versions=codec.versions(),
        codec=dict(codec.answers()),
        machine=codec.machine(),
        edits=origin.edits,
    )
    croissant.write_croissant(site, manifest)
    described = {croissant.NAME: file_digest(site / croissant.NAME)}
    manifest = replace(manifest, files={**files, **described})
    write_manifest(site, manifest)
    return manifest


def _check_failures(left_out: list[LeftOut], most: int | None) -> None:
    photos = [r for r in left_out if r.object_index is None and r.reason != QUARANTINED]
    if most is not None and len(photos) > most:
        raise BankError(
            f"{len(photos):,} photos could not be used ({count_reasons(photos)}), and "
            f"--max-failures allows {most:,}; the bank stays unfinished: mend the photos and run "
            f"the command again with --retry-failed, or allow more"
        )


def _counts(
    origin: Origin, shards: Mapping[str, CutShard], derivation: Derivation
) -> dict[str, int]:
    cut = [shard.receipt.counts for shard in shards.values()]
    return {
        "photos": origin.photos,
        "scenes": sum(c["scenes"] for c in cut),
        "patches": sum(c["patches"] for c in cut),
        "categories": len(set(derivation.contents.strings("category"))),
        "encoder_steps": derivation.recipe.encoder_steps,
        "cooccurrence_steps": derivation.recipe.cooccurrence_steps,
        **origin.steps,
    }


def summary(bank: Path, manifest: Manifest, shards: Mapping[str, CutShard]) -> str:
    counts = manifest.counts
    lines = [
        f"{counts['patches']:,} patches of {counts['categories']} categories, cut from "
        f"{counts['scenes']:,} photos, in {bank}/"
    ]
    kept = sum(not shard.fresh for shard in shards.values())
    if kept:
        lines.append(f"{kept:,} of {len(shards):,} shards were kept from an earlier run")
    if manifest.left_out:
        reasons = ", ".join(f"{n:,} {reason}" for reason, n in manifest.left_out.items())
        lines.append(f"left out: {reasons}; see {bank}/failures.jsonl")
    lines.append(f"derived digest: {manifest.derived_digest}")
    lines.append(f"content digest: {manifest.content_digest}")
    return "\n".join(lines)
