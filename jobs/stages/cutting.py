"""One shard of photos -> its patches, its packed scenes, its rows, and a receipt.

A pure function of the photos it is given: whichever worker runs it, whenever and however often,
the bytes are the same.
"""

import json
import socket
import sys
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from bank.errors import BankError
from bank.files import FileDigest, canonical_json, file_digest, json_digest
from bank.shards import map_size, write_patches
from bank.table import PATCHES, PHOTOS, SCENES, patch_rows, save_table, scene_row
from jobs.stages.attempts import CrashingPhoto, attempt, crashing_photos
from jobs.stages.receipts import WORK, Receipt, deliver, find_receipt, workspace
from pipeline import codec
from pipeline.crop import (
    PhotoError,
    Pixels,
    cut_patches,
    decode_photo,
    pixel_box,
    read_photo,
    resize_photo,
)
from pipeline.data_folder import DataFolder
from pipeline.files import writing
from pipeline.pack import SceneSample, sample_of, write_samples
from pipeline.plan import annotation_digest, read_plan
from pipeline.relations import scene_of
from pipeline.resizer import Resizer
from pipeline.scene import AnnotatedObject, AnnotatedPhoto, Box, LeftOut, Photo, Scene

# Another decoder may give other pixels: shards cut by an earlier version are cut again.
DECODERS = ("simplejpeg", "pillow", "torch", "numpy")


@dataclass(frozen=True)
class CropOptions:
    """What decides the pixels."""

    image_size: int  # px, side of a packed scene's picture
    patch_size: int  # px, side of a patch
    resizer: Resizer


@dataclass(frozen=True)
class ShardTask:
    """What a worker needs to cut a shard: a name, three paths, and what decides the pixels."""

    name: str
    plan: Path  # what to read: pipeline/plan.py
    photos: Path  # folder of the dataset: photos by their file names, or zips that hold them
    bank: Path
    options: CropOptions
    codec: Mapping[str, str]  # pipeline/codec.py's answers where the build was started
    never_there: tuple[str, ...] = ()  # folders of its photos that were missing at that time

    @property
    def stage(self) -> str:
        return f"cut-{self.name}"

    @property
    def note(self) -> Path:
        """Where an attempt writes down which photo it is cutting."""
        return self.bank / WORK / "attempts" / self.name


class CutShard(NamedTuple):
    """A shard that is there."""

    name: str
    receipt: Receipt
    fresh: bool  # False where an earlier run had left it


class CrashingShard(NamedTuple):
    """A shard with photos that crash the process that decodes them: nothing was cut."""

    name: str
    photos: tuple[CrashingPhoto, ...]


class CutScene(NamedTuple):
    """What was cut from a photo."""

    scene: Scene
    sample: SceneSample
    patches: Pixels  # (n, patch_size, patch_size, 3), by rising patch id


class UsableScene(NamedTuple):
    """A photo's scene of the objects that have pixels, if there is one; what was left out of it."""

    scene: Scene | None
    left_out: tuple[LeftOut, ...]


class Cut(NamedTuple):
    """A photo's scene, if it could be used, and what was left out of it."""

    cut_scene: CutScene | None
    left_out: tuple[LeftOut, ...]
    file: FileDigest | None = None  # of the photo, where it was read


def cut_shard(task: ShardTask) -> CutShard | CrashingShard:
    """Cut a shard, unless it has been cut from the same photos before."""
    _check_codec(task)
    _check_file_names()
    if not task.plan.is_file():
        raise BankError(
            f"a worker cannot see {task.plan}: workers on other machines need the bank and the "
            f"photos at the same paths as here"
        )
    photos = read_plan(task.plan)
    folder_of_photos = DataFolder(task.photos)
    key = shard_key(task, photos, folder_of_photos)
    if done := find_receipt(task.bank, task.stage, key):
        return CutShard(task.name, done, fresh=False)
    if crashing := crashing_photos(task.note, task.plan, task.photos, asdict(task.options)):
        task.note.write_text(str(crashing[0].image_id), "ascii")  # the next run tries it first
        return CrashingShard(task.name, crashing)
    with workspace(task.bank, task.name) as folder:
        # All scenes before all pixels: in turn, each would push the other out of the caches.
        usable = [usable_scene(p) for p in photos]
        with attempt(task.note) as begin:
            cuts = []
            for annotated, scene in zip(photos, usable, strict=True):
                begin(annotated.photo.image_id)
                cuts.append(cut_photo(scene, folder_of_photos, task.options, task.never_there))
        with writing(folder):
            counts = _write(folder, task, photos, cuts)
        partials = {path: folder / path for path in shard_files(task.name, counts["scenes"] == 0)}
        receipt = deliver(task.bank, task.stage, key, partials, counts)
    return CutShard(task.name, receipt, fresh=True)


def _check_file_names() -> None:
    """Every command runs in UTF-8 mode, but a worker that was started by hand need not: a photo
    with an accent in its name would not be there."""
    if (encoding := sys.getfilesystemencoding()) != "utf-8":
        raise BankError(
            f"the worker on {socket.gethostname()} takes file names for {encoding}: start it with "
            f"PYTHONUTF8=1"
        )


def _check_codec(task: ShardTask) -> None:
    ours = codec.answers_with(task.options.resizer)
    if differing := codec.differing(ours, task.codec):
        raise BankError(
            f"the worker on {socket.gethostname()} decodes or resizes otherwise than the machine "
            f"that started the build ({', '.join(differing)}): install the same packages on both, "
            f"those of requirements.lock"
        )


def shard_files(name: str, empty: bool = False) -> tuple[str, ...]:
    """The files of a shard, as paths in the bank; one without a scene has its records only."""
    rows = f"{WORK}/shards/{name}"
    tables = tuple(f"{rows}.{table}.arrow" for table in ("patches", "scenes", "photos"))
    records = (*tables, f"{rows}.failures.json")
    return records if empty else (f"patches/{name}/data.mdb", f"scenes/{name}.tar", *records)


def shard_key(task: ShardTask, photos: tuple[AnnotatedPhoto, ...], folder: DataFolder) -> str:
    """What goes in: the plan, the settings, the decoders, and the photos as the disk has them."""
    stamps = [folder.stamp(p.photo.file) for p in photos]
    versions = {name: version(name) for name in DECODERS}
    parts = [
        file_digest(task.plan).sha256,
        asdict(task.options),
        versions,
        dict(task.codec),
        stamps,
    ]
    return json_digest(parts)


def usable_scene(annotated: AnnotatedPhoto) -> UsableScene:
    """The scene as its photo would give it; nothing is read."""
    usable, left_out = _usable_objects(annotated)
    if usable.objects:
        return UsableScene(scene_of(usable), left_out)
    image_id = annotated.photo.image_id
    reason = LeftOut(image_id, None, "no_objects", "no object has a box in the photo")
    return UsableScene(None, (*left_out, reason))


def cut_photo(
    usable: UsableScene,
    folder: DataFolder,
    options: CropOptions,
    never_there: Collection[str] = (),
) -> Cut:
    """Decode a photo once, and take its patches and its small picture from it."""
    scene, left_out = usable
    if scene is None:
        return Cut(None, left_out)
    photo = scene.photo
    file = None
    try:
        data = read_photo(folder, photo.file, never_there)
        file = FileDigest(sha256(data).hexdigest(), len(data))
        pixels = decode_photo(data, (photo.width, photo.height))
    except PhotoError as error:
        reason = LeftOut(photo.image_id, None, error.reason, f"{photo.file}: {error.detail}")
        return Cut(None, (*left_out, reason), file)
    # By object number, hence by patch id: the order in which LMDB takes them.
    boxes = [object_.box for object_ in scene.objects]
    patches = cut_patches(pixels, boxes, options.patch_size, options.resizer)
    small = resize_photo(pixels, options.image_size, options.resizer)
    return Cut(CutScene(scene, sample_of(scene, small), patches), left_out, file)


def _usable_objects(annotated: AnnotatedPhoto) -> tuple[AnnotatedPhoto, tuple[LeftOut, ...]]:
    """The photo with the objects that have pixels, by rising object number, and the others."""
    photo = annotated.photo
    kept, left_out = [], []
    for object_ in sorted(annotated.objects, key=lambda o: o.object_index):
        if _has_pixels(object_, photo):
            kept.append(object_)
        else:
            detail = f"box {list(object_.box_px)} of {photo.width} x {photo.height} px"
            left_out.append(LeftOut(photo.image_id, object_.object_index, "box_outside", detail))
    return replace(annotated, objects=tuple(kept)), tuple(left_out)


def _has_pixels(object_: AnnotatedObject, photo: Photo) -> bool:
    x, y, width, height = object_.box_px
    W, H = photo.width, photo.height
    box = Box(x / W, y / H, (x + width) / W, (y + height) / H)
    return width > 0 and height > 0 and pixel_box(box, W, H) is not None


def _write(
    folder: Path, task: ShardTask, photos: tuple[AnnotatedPhoto, ...], cuts: list[Cut]
) -> dict[str, int]:
    """All files of the shard, under `folder`; counts of what is in them."""
    paths = (folder / path for path in shard_files(task.name))
    lmdb, tar, patch_table, scene_table, photo_table, failures = paths
    for path in (lmdb.parent, tar, patch_table):
        path.parent.mkdir(parents=True, exist_ok=True)
    scenes = [cut.cut_scene for cut in cuts if cut.cut_scene is not None]
    rows = [row for s in scenes for row in patch_rows(s.scene, s.patches)]
    pixels = (patch.tobytes() for s in scenes for patch in s.patches)
    ids = [row["patch_id"] for row in rows]
    planned = sum(len(p.objects) for p in photos)
    size = map_size(planned, task.options.patch_size)
    write_patches(lmdb.parent, zip(ids, pixels, strict=True), size)
    places = write_samples(tar, [s.sample for s in scenes])
    index = [
        scene_row(s.sample, s.scene.photo.split, task.name, place)
        for s, place in zip(scenes, places, strict=True)
    ]
    save_table(patch_table, pa.Table.from_pylist(rows, PATCHES))
    save_table(scene_table, pa.Table.from_pylist(index, SCENES))
    sources = [_photo_row(p, task.name, cut.file) for p, cut in zip(photos, cuts, strict=True)]
    save_table(photo_table, pa.Table.from_pylist(sources, PHOTOS))
    left_out = [asdict(row) for cut in cuts for row in cut.left_out]
    failures.write_bytes(canonical_json(left_out))
    return {"photos": len(photos), "scenes": len(scenes), "patches": len(rows)}


def _photo_row(photo: AnnotatedPhoto, shard: str, file: FileDigest | None) -> dict[str, Any]:
    return {
        "image_id": photo.photo.image_id,
        "shard": shard,
        "annotation_sha256": annotation_digest(photo),
        "bytes": file and file.bytes,
        "sha256": file and bytes.fromhex(file.sha256),
    }


def read_shard_failures(bank: Path, name: str) -> list[LeftOut]:
    """What was left out of a shard that has been cut."""
    path = bank / WORK / "shards" / f"{name}.failures.json"
    return [LeftOut(**row) for row in json.loads(path.read_bytes())]
