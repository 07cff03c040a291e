"""manifest.json: what a bank was made of, every file's digest, and the two identities."""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from bank.errors import BankError
from bank.files import FileDigest, file_digest, json_digest
from bank.names import fault_of_names
from pipeline.checks import show
from pipeline.files import write_bytes

FORMAT = 1
NAME = "manifest.json"
MOST_BYTES = 1 << 44  # of a file
# Settings without which a bank cannot be read.
NEEDED = {"image_size": int, "patch_size": int, "candidates": int, "candidate_scope": str}
SMALL = (".json", ".safetensors")  # hashed whenever a bank is opened
DERIVED = (
    "graph_encoder.safetensors",
    "cooccurrence.safetensors",
    "features.arrow",
    "cooccurrence.arrow",
    "candidates.arrow",
    "index/",
)


@dataclass(frozen=True, kw_only=True)
class Manifest:
    dataset: str
    recipe: Mapping[str, Any]  # every setting that shapes the bank
    inputs: Mapping[str, str]  # annotation file -> SHA-256; "photos" -> digest of names and sizes
    protocol: Mapping[str, Any]  # what the reader kept, and by which rules
    counts: Mapping[str, int]
    left_out: Mapping[str, int]  # reason code -> how often
    shards: Mapping[str, Mapping[str, int]]  # shard -> photos, scenes, patches
    files: Mapping[str, FileDigest]  # path in the bank -> its digest
    content_digest: str
    derived_digest: str
    versions: Mapping[str, str]  # of the packages that wrote the bank
    codec: Mapping[str, str] = field(default_factory=dict)  # pipeline/codec.py's answers there
    machine: Mapping[str, str] = field(default_factory=dict)  # what else decides last bits
    edits: tuple[Mapping[str, Any], ...] = ()  # what was done to the bank once it was finished
    content_rule: int = 1  # by which the content digest was computed: bank/contents.py
    format: int = FORMAT
    manifest_digest: str = ""  # SHA-256 of manifest.json as it would be without these 64 digits


def derived_digest(files: Mapping[str, FileDigest]) -> str:
    """The root over networks, features, index and candidates."""
    derived = {p: d.sha256 for p, d in files.items() if is_derived(p)}
    return json_digest(["retrievegan bank derived 1", derived])


def is_derived(path: str) -> bool:
    return path.startswith(DERIVED)


def write_manifest(bank: Path, manifest: Manifest) -> None:
    value = asdict(manifest)
    value["files"] = {p: d._asdict() for p, d in sorted(manifest.files.items())}
    value["manifest_digest"] = hashlib.sha256(_text({**value, "manifest_digest": ""})).hexdigest()
    write_bytes(bank / NAME, _text(value))


def _text(value: Mapping[str, Any]) -> bytes:
    return (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode()


def _check_itself(data: bytes, digest: str) -> None:
    """ValueError where one byte is not as it was written."""
    without = data.replace(f'"manifest_digest": "{digest}"'.encode(), b'"manifest_digest": ""')
    if hashlib.sha256(without).hexdigest() != digest:
        raise ValueError("it is not as it was written: its SHA-256 differs")


def is_finished(bank: Path) -> bool:
    return (bank / NAME).is_file()


def read_manifest(bank: Path) -> Manifest:
    """BankError where there is no finished bank, or one of another format."""
    path = bank / NAME
    if not path.is_file():
        raise BankError(_what_is_there(bank))
    return parse_manifest(path.read_bytes(), path)


def parse_manifest(data: bytes, where: object) -> Manifest:
    """BankError, which names `where` the bytes come from, for one that is damaged or of another
    format, or that names files as no bank does (bank/names.py)."""
    try:
        value = json.loads(data)
        if value["format"] != FORMAT:
            raise BankError(
                f"{where} says format {show(value['format'])}, and this version reads format "
                f"{FORMAT}; build the bank again"
            )
        for name, kind in NEEDED.items():
            if not isinstance(value["recipe"].get(name), kind):
                raise ValueError(f"its recipe has no usable {name}")
        for name in ("content_digest", "derived_digest"):
            if not isinstance(value[name], str):
                raise ValueError(f"its {name} is no text")
        value["files"] = {p: FileDigest(**d) for p, d in value["files"].items()}
        if fault := fault_of_names((NAME, *value["files"])):
            raise ValueError(fault)
        for name, digest in value["files"].items():
            if type(digest.bytes) is not int or not 0 <= digest.bytes <= MOST_BYTES:
                raise ValueError(f"it does not say how many bytes {name} has")
            if not (isinstance(digest.sha256, str) and re.fullmatch("[0-9a-f]{64}", digest.sha256)):
                raise ValueError(f"it does not say which SHA-256 {name} has")
        value["edits"] = tuple(value.get("edits", ()))
        if digest := value.get("manifest_digest"):  # banks of earlier versions have none
            _check_itself(data, digest)
        return Manifest(**value)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise BankError(
            f"{where} is damaged ({error}); copy it anew, or build the bank again"
        ) from error


def check_sizes(bank: Path, manifest: Manifest) -> None:
    """BankError for a file that is gone or cut short: mapping it would crash on reading."""
    for path, digest in manifest.files.items():
        try:
            size = (bank / path).stat().st_size
        except OSError as error:
            raise BankError(
                f"{bank / path} cannot be read ({error.strerror}); copy it from where the bank "
                f"came from, or build the bank again (--mode overwrite)"
            ) from error
        if size != digest.bytes:
            raise BankError(
                f"{bank / path} has {size:,} bytes, but was written with {digest.bytes:,}; "
                f"`python -m jobs.verify_bank {bank}` names all that is damaged"
            )


def check_small(bank: Path, manifest: Manifest) -> None:
    """BankError for a small file that is not as it was written: names, networks, places in index/.

    Nothing else would show that one of these is wrong; all of them are hashed in some 20 ms.
    """
    for path, digest in manifest.files.items():
        if path.endswith(SMALL) and file_digest(bank / path) != digest:
            raise BankError(
                f"{bank / path} is not as it was written: its SHA-256 differs; "
                f"`python -m jobs.verify_bank {bank}` names all that is damaged"
            )


def _what_is_there(bank: Path) -> str:
    build = "`python -m jobs.build_bank`"
    if not bank.is_dir():
        return f"there is no bank at {bank}; build one with {build}, e.g. --dataset toy"
    if (bank / "work").is_dir():
        return f"{bank} has no {NAME}, so its build did not finish; run {build} again to go on"
    return f"{bank} is not a bank (it has no {NAME}); build one with {build}"


def differences(
    manifest: Manifest, recipe: Mapping[str, Any], inputs: Mapping[str, str]
) -> list[str]:
    """In which settings and inputs a finished bank differs from what is asked for now."""
    changes = []
    for name in sorted(manifest.recipe.keys() | recipe.keys()):
        has, asked = manifest.recipe.get(name), recipe.get(name)
        if has != asked:
            changes.append(f"--{name.replace('_', '-')} was {has}, asked for is {asked}")
    for name in sorted(manifest.inputs.keys() | inputs.keys()):
        has, asked = manifest.inputs.get(name), inputs.get(name)
        if has != asked:
            what = "is new" if has is None else "is gone" if asked is None else "has changed"
            changes.append(f"{name} {what} since")
    return changes
