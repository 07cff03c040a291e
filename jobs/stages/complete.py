"""A bank's content -> its derived files, croissant.json and manifest.json: then it is finished."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from bank import croissant
from bank.contents import CONTENT_RULE, Contents, content_digest
from bank.errors import BankError
from bank.files import file_digest
from bank.manifest import Manifest, derived_digest, write_manifest
from jobs.stages.assemble import QUARANTINED, Assembled, count_reasons
from jobs.stages.cluster import Pool
from jobs.stages.cut import content_files
from jobs.stages.cutting import CutShard
from jobs.stages.derivation import Derivation, DeriveOptions
from jobs.stages.derive import derive
from jobs.stages.receipts import digests
from pipeline import codec
from pipeline.scene import LeftOut
from pipeline.wording import counted


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


def check_failures(left_out: Sequence[LeftOut], most: int) -> None:
    """BankError where more than `most` photos could not be used."""
    photos = [r for r in left_out if r.object_index is None and r.reason != QUARANTINED]
    if len(photos) > most:
        raise BankError(
            f"{counted(len(photos), 'photo')} could not be used ({count_reasons(photos)}), and "
            f"--max-failures allows {most:,}; the bank stays unfinished: mend the photos and run "
            f"the command again with --retry-failed, or allow more"
        )


def complete(
    staging: Path,
    shards: Mapping[str, CutShard],
    assembled: Assembled,
    options: DeriveOptions,
    origin: Origin,
    pool: Pool,
    earlier: Path | None = None,
) -> Manifest:
    """Derive what is derived, then write what says that the bank is whole, the manifest last.

    earlier    the finished bank whose next version this is
    """
    contents = Contents(staging, origin.recipe["patch_size"])
    derivation = Derivation(contents, content_digest(staging), options, earlier)
    derived = derive(derivation, pool)
    files = {**content_files(shards), **digests(staging, assembled.files), **derived}
    manifest = Manifest(
        dataset=origin.dataset,
        recipe=origin.recipe,
        inputs=origin.inputs,
        protocol=origin.protocol,
        counts=_counts(origin, shards, derivation),
        left_out=dict(sorted(Counter(row.reason for row in assembled.left_out).items())),
        shards={name: shard.receipt.counts for name, shard in shards.items()},
        files=files,
        content_digest=derivation.content_digest,
        derived_digest=derived_digest(files),
        versions=codec.versions(),
        codec=dict(codec.answers()),
        machine=codec.machine(),
        edits=origin.edits,
        content_rule=CONTENT_RULE,
    )
    croissant.write_croissant(staging, manifest)
    described = {croissant.NAME: file_digest(staging / croissant.NAME)}
    manifest = replace(manifest, files={**files, **described})
    write_manifest(staging, manifest)
    return manifest


def _counts(
    origin: Origin, shards: Mapping[str, CutShard], derivation: Derivation
) -> dict[str, int]:
    cut = [shard.receipt.counts for shard in shards.values()]
    equal_files, in_and_out_of_train = derivation.contents.equal_files()
    return {
        "photos": origin.photos,
        "scenes": sum(c["scenes"] for c in cut),
        "patches": sum(c["patches"] for c in cut),
        "categories": len(set(derivation.contents.strings("category"))),
        "equal_files": equal_files,
        "equal_files_in_and_out_of_train": in_and_out_of_train,
        "encoder_steps": derivation.encoder_steps,
        "cooccurrence_steps": derivation.cooccurrence_steps,
        **origin.steps,
    }


def summary(bank: Path, manifest: Manifest, shards: Mapping[str, CutShard]) -> str:
    counts = manifest.counts
    lines = [
        f"{counted(counts['patches'], 'patch')} of {counted(counts['categories'], 'category')}, "
        f"cut from {counted(counts['scenes'], 'photo')}, in {bank}/"
    ]
    kept = sum(not shard.fresh for shard in shards.values())
    if kept:
        lines.append(f"kept from an earlier run: {kept:,} of {counted(len(shards), 'shard')}")
    if manifest.left_out:
        reasons = ", ".join(f"{n:,} {reason}" for reason, n in manifest.left_out.items())
        lines.append(f"left out: {reasons}; see {bank}/failures.jsonl")
    if counts["equal_files"]:
        lines.append(
            f"files listed under several ids: {counts['equal_files']:,}, of which both for "
            f"training and held out: {counts['equal_files_in_and_out_of_train']:,}; their patches "
            f"are no candidates for one another"
        )
    lines.append(f"derived digest: {manifest.derived_digest}")
    lines.append(f"content digest: {manifest.content_digest}")
    return "\n".join(lines)
