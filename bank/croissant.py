"""A finished bank -> croissant.json: what it holds, for search engines and dataset hubs.

Croissant is JSON-LD over schema.org (https://docs.mlcommons.org/croissant). The file is a function
of the bank alone: no date of the clock, no path of the machine. Whoever publishes a bank adds `url`
and `datePublished`; the file is in neither digest.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from bank.files import FileDigest
from bank.manifest import FORMAT, Manifest
from bank.quality import QUALITY, QUALITY_FILE
from bank.table import PATCHES, read_table
from pipeline.files import write_bytes
from pipeline.wording import counted

NAME = "croissant.json"
CONFORMS_TO = "http://mlcommons.org/croissant/1.0"
CITATION = (
    "@inproceedings{tseng2020retrievegan, title={RetrieveGAN: Image Synthesis via Differentiable "
    "Patch Retrieval}, author={Tseng, Hung-Yu and Lee, Hsin-Ying and Jiang, Lu and Yang, "
    "Ming-Hsuan and Yang, Weilong}, booktitle={European Conference on Computer Vision (ECCV)}, "
    "year={2020}, url={https://arxiv.org/abs/2007.08513}}"
)
# The terms that the specification asks for, in its own spelling.
CONTEXT: dict[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "equivalentProperty": "cr:equivalentProperty",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileObject": "cr:fileObject",
    "fileProperty": "cr:fileProperty",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "parentField": "cr:parentField",
    "path": "cr:path",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "samplingRate": "cr:samplingRate",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}
ENCODINGS = {
    ".arrow": "application/vnd.apache.arrow.file",
    ".faiss": "application/octet-stream",
    ".json": "application/json",
    ".jsonl": "application/jsonl",
    ".mdb": "application/octet-stream",
    ".npy": "application/octet-stream",
    ".safetensors": "application/octet-stream",
    ".tar": "application/x-tar",
}
COLUMNS = {
    "patch_id": "image_id * 65536 + object_index; the key under which LMDB holds the pixels.",
    "image_id": "The photo, by its dataset's number.",
    "object_index": "Place of the object among all annotations of its photo, from 0.",
    "category": "The object's name in vocabulary.json.",
    "x0": "Left side of the box, as a share of the photo's width.",
    "y0": "Upper side of the box, as a share of the photo's height; y grows downwards.",
    "x1": "Right side of the box, as a share of the photo's width.",
    "y1": "Lower side of the box, as a share of the photo's height.",
    "source_width": "Width of the photo, in pixels.",
    "source_height": "Height of the photo, in pixels.",
    "split": "train, val or test; only train is offered as a candidate.",
    "licence": "Licence of the photo, by address or name; empty where none is stated.",
    "source_url": "Where the photo can be seen; empty where that is not known.",
    "photo_file": "The photo's file, relative to the folder of the dataset.",
    "pixels_sha256": "SHA-256 of the patch's raw pixels, 32 bytes.",
}
QUALITY_COLUMNS = {
    "patch_id": "The patch, as in patches.arrow.",
    "mask_share": "Share of the box that the object's mask covers; null where that is not known.",
    "width_px": "Width of the box, in pixels of the photo.",
    "height_px": "Height of the box, in pixels of the photo.",
}
TABLES = (
    ("patches.arrow", PATCHES, COLUMNS),
    (QUALITY_FILE, QUALITY, QUALITY_COLUMNS),  # optional
)


def write_croissant(bank: Path, manifest: Manifest) -> None:
    """Write BANK/croissant.json anew."""
    value = describe(manifest, _licences(bank))
    text = json.dumps(value, indent=1, ensure_ascii=False) + "\n"
    write_bytes(bank / NAME, text.encode())


def describe(manifest: Manifest, licences: list[str]) -> dict[str, Any]:
    """The JSON-LD of a bank whose photos are under these licences."""
    counts, patch_size = manifest.counts, manifest.recipe["patch_size"]
    photos = sum(shard["scenes"] for shard in manifest.shards.values())
    return {
        "@context": CONTEXT,
        "@type": "Dataset",
        "conformsTo": CONFORMS_TO,
        "name": f"RetrieveGAN patch bank of {manifest.dataset}",
        "description": (
            f"{counted(counts['patches'], 'object patch')}, {patch_size}x{patch_size} pixels, of "
            f"{counted(counts['categories'], 'category')}, cut from {counted(photos, 'photo')} of "
            f"{manifest.dataset}; with the photos' scene graphs, and for every patch the nearest "
            f"training patches of other photos. Every photo keeps its own licence: see the column "
            f"licence. Content digest {manifest.content_digest}, derived digest "
            f"{manifest.derived_digest}. The tables are Arrow IPC files: pyarrow, pandas and "
            f"duckdb open them, the mlcroissant library itself has no reader for them."
        ),
        "citeAs": CITATION,
        "license": licences,
        "identifier": f"sha256:{manifest.content_digest}",
        "version": f"{FORMAT}.0.0+{manifest.content_digest[:12]}",
        "distribution": [
            *(
                _file_object(path, digest)
                for path, digest in sorted(manifest.files.items())
                if path != NAME  # it cannot hold its own digest
            ),
            *_file_sets(manifest),
        ],
        "recordSet": [
            _record_set(file, schema, descriptions)
            for file, schema, descriptions in TABLES
            if file in manifest.files
        ],
    }


def _licences(bank: Path) -> list[str]:
    """Each licence once, in order."""
    stated = pc.unique(read_table(bank / "patches.arrow", PATCHES.names).column("licence"))
    return sorted(name or "not stated" for name in stated.to_pylist())


def _file_object(path: str, digest: FileDigest) -> dict[str, Any]:
    return {
        "@type": "cr:FileObject",
        "@id": path,
        "name": path,
        "contentUrl": path,
        "contentSize": f"{digest.bytes} B",
        "encodingFormat": _encoding(path),
        "sha256": digest.sha256,
    }


def _encoding(path: str) -> str:
    return ENCODINGS.get(PurePosixPath(path).suffix, "application/octet-stream")


def _file_sets(manifest: Manifest) -> Iterator[dict[str, Any]]:
    """The shards as two wholes, besides each file."""
    patch_size = manifest.recipe["patch_size"]
    for name, includes, what in (
        (
            "patches",
            "patches/*/data.mdb",
            f"LMDB: 8-byte big-endian patch id -> raw RGB, {patch_size}x{patch_size}x3 uint8.",
        ),
        (
            "scenes",
            "scenes/*.tar",
            "WebDataset: <image_id>.npy (picture), .json (objects, boxes, triples, patch ids) "
            "and, where the dataset has masks, .masks.npy.",
        ),
    ):
        yield {
            "@type": "cr:FileSet",
            "@id": name,
            "name": name,
            "description": what,
            "encodingFormat": _encoding(includes),
            "includes": includes,
        }


def _record_set(file: str, schema: pa.Schema, descriptions: Mapping[str, str]) -> dict[str, Any]:
    """A table with a row per patch."""
    name = f"{PurePosixPath(file).stem}_table"
    return {
        "@type": "cr:RecordSet",
        "@id": name,
        "name": name,
        "description": "A row per patch, by rising patch_id.",
        "key": {"@id": f"{name}/patch_id"},
        "field": [_field(name, file, column, descriptions[column.name]) for column in schema],
    }


def _field(table: str, file: str, column: pa.Field, description: str) -> dict[str, Any]:
    return {
        "@type": "cr:Field",
        "@id": f"{table}/{column.name}",
        "name": column.name,
        "description": description,
        "dataType": _data_type(column.type),
        "source": {
            "fileObject": {"@id": file},
            "extract": {"column": column.name},
        },
    }


def _data_type(kind: pa.DataType) -> str:
    if pa.types.is_integer(kind):
        return "sc:Integer"
    return "sc:Float" if pa.types.is_floating(kind) else "sc:Text"
