"""A scene with its picture <-> one sample of a WebDataset tar.

A sample has the members `<image_id>.json` (objects, boxes, triples, patch ids and, where the
dataset has them, attributes), `<image_id>.npy` (the picture, uint8) and, where the dataset has
masks, `<image_id>.masks.npy`.
"""

import functools
import hashlib
import io
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from tarfile import BLOCKSIZE, RECORDSIZE, USTAR_FORMAT, TarInfo
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.scene import MASK_SIZE, Relation, Scene


class SceneSample(NamedTuple):
    """A scene as training sees it; n objects, boxes as fractions of the photo."""

    image: NDArray[np.uint8]  # (image_size, image_size, 3) RGB; (0, 0, 3) where not asked for
    image_id: int
    objects: tuple[str, ...]  # n category names
    boxes: NDArray[np.float32]  # (n, 4) x0 y0 x1 y1
    triples: tuple[Relation, ...]  # between objects; `__in_image__` is understood
    patch_ids: NDArray[np.int64]  # (n,)
    masks: NDArray[np.uint8] | None  # (n, 16, 16) in {0, 1}
    attributes: tuple[tuple[str, ...], ...] = ()  # n, or none where the dataset has none


class Member(NamedTuple):
    """Where a member's bytes lie in its tar; size -1 where the sample has no such member."""

    offset: int
    size: int


NO_MEMBER = Member(-1, -1)


class SamplePlace(NamedTuple):
    """Where a sample's members lie in its tar."""

    graph: Member
    image: Member
    masks: Member


def sample_of(scene: Scene, image: NDArray[np.uint8]) -> SceneSample:
    """A scene and its picture at training size, as one sample."""
    return SceneSample(
        image=image,
        image_id=scene.photo.image_id,
        objects=tuple(o.category for o in scene.objects),
        boxes=np.array([o.box for o in scene.objects], np.float32).reshape(-1, 4),
        triples=scene.relations,
        patch_ids=np.array(scene.patch_ids, np.int64),
        masks=_masks_of(scene),
        attributes=_attributes_of(scene),
    )


def _attributes_of(scene: Scene) -> tuple[tuple[str, ...], ...]:
    attributes = tuple(o.attributes for o in scene.objects)
    return attributes if any(attributes) else ()


def _masks_of(scene: Scene) -> NDArray[np.uint8] | None:
    if all(o.mask is None for o in scene.objects):
        return None
    # An object without a mask in a dataset with masks fills its box.
    full = np.ones((MASK_SIZE, MASK_SIZE), np.uint8)
    return np.stack([full if o.mask is None else o.mask for o in scene.objects])


def _graph_json(sample: SceneSample) -> bytes:
    graph = {
        "image_id": sample.image_id,
        "objects": sample.objects,
        "boxes": sample.boxes.tolist(),
        "triples": sample.triples,
        "patch_ids": sample.patch_ids.tolist(),
    }
    if sample.attributes:
        graph["attributes"] = sample.attributes
    return json.dumps(graph, ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode()


def _npy(array: NDArray[Any]) -> bytes:
    out = io.BytesIO()
    np.save(out, np.ascontiguousarray(array), allow_pickle=False)
    return out.getvalue()


def sample_digest(sample: SceneSample) -> bytes:
    """SHA-256 of what the sample says, whatever tar it lies in."""
    digest = hashlib.sha256(_graph_json(sample))
    for array in (sample.image, sample.masks):
        digest.update(b"none" if array is None else repr(array.shape).encode())
        if array is not None:
            digest.update(np.ascontiguousarray(array).tobytes())
    return digest.digest()


def write_samples(path: Path, samples: Iterable[SceneSample]) -> list[SamplePlace]:
    """Write a tar whose bytes depend on the samples alone; say where each one's members lie.

    Byte for byte what webdataset's own writer makes of them, in a third of its time.
    """
    places = []
    end = 0  # of what has been written
    with path.open("wb") as file:
        for sample in samples:
            members = {"json": _graph_json(sample), "npy": _npy(sample.image)}
            if sample.masks is not None:
                members["masks.npy"] = _npy(sample.masks)
            lies = {}
            for extension, content in sorted(members.items()):
                size = len(content)
                padding = bytes(-size % BLOCKSIZE)
                file.write(_tar_header(f"{sample.image_id}.{extension}", size))
                file.write(content + padding)
                lies[extension] = Member(end + BLOCKSIZE, size)
                end += BLOCKSIZE + size + len(padding)
            places.append(SamplePlace(lies["json"], lies["npy"], lies.get("masks.npy", NO_MEMBER)))
        ending = 2 * BLOCKSIZE
        file.write(bytes(ending + -(end + ending) % RECORDSIZE))
    return places


@functools.cache
def _nameless_header() -> bytes:
    """A tar header with a fixed time, owner and mode, of no name, size or checksum."""
    info = TarInfo()
    info.mode, info.mtime, info.uname, info.gname = 0o444, 0, "bigdata", "bigdata"
    return info.tobuf(USTAR_FORMAT)


def _tar_header(name: str, size: int) -> bytes:
    header = bytearray(_nameless_header())
    header[: len(name)] = name.encode("ascii")
    header[124:136] = b"%011o\0" % size
    header[148:156] = b" " * 8  # the checksum counts itself as blanks
    header[148:155] = b"%06o\0" % sum(header)
    return bytes(header)


def sample_from(members: Mapping[str, bytes]) -> SceneSample:
    """A sample from its members by extension (`json`, `npy`, `masks.npy`), as a tar holds them.

    `pipeline.files.UNREADABLE` where they are not as they were written.
    """
    graph = json.loads(members["json"])
    image, masks = members.get("npy"), members.get("masks.npy")
    return SceneSample(
        image=np.zeros((0, 0, 3), np.uint8) if image is None else _array(image),
        image_id=graph["image_id"],
        objects=tuple(graph["objects"]),
        boxes=np.array(graph["boxes"], np.float32).reshape(-1, 4),
        triples=tuple(Relation(*triple) for triple in graph["triples"]),
        patch_ids=np.array(graph["patch_ids"], np.int64),
        masks=None if masks is None else _array(masks),
        attributes=tuple(tuple(names) for names in graph.get("attributes", ())),
    )


def _array(data: bytes) -> NDArray[np.uint8]:
    """As np.load, read-only; ValueError for pickled objects."""
    end = data.find(b"\n") + 1  # of the header
    dtype, shape = _parse_header(data[:end])
    count = math.prod(shape)
    return np.frombuffer(data, dtype, count, end).reshape(shape)


@functools.lru_cache(maxsize=64)
def _parse_header(header: bytes) -> tuple[np.dtype[Any], tuple[int, ...]]:
    """Parsing takes longer than reading the array, and all pictures have one header."""
    file = io.BytesIO(header)
    version = np.lib.format.read_magic(file)
    if version != (1, 0):
        raise ValueError(f"an array in version {version} of numpy's format")
    shape, fortran_order, dtype = np.lib.format.read_array_header_1_0(file)
    if dtype.hasobject or fortran_order:
        raise ValueError("an array of objects or in Fortran's order is not read")
    return dtype, shape


def read_sample(path: Path, place: SamplePlace, *, image: bool = True) -> SceneSample:
    """One sample out of the middle of a local tar; `image=False` leaves the picture unread.

    `pipeline.files.UNREADABLE` where it is not as it was written.
    """
    wanted = {"json": place.graph, "masks.npy": place.masks}
    if image:
        wanted["npy"] = place.image
    members = {}
    with path.open("rb") as file:
        for extension, member in wanted.items():
            if member.size >= 0:
                file.seek(member.offset)
                members[extension] = file.read(member.size)
    return sample_from(members)


def iterate_samples(path: Path) -> Iterator[SceneSample]:
    """All samples of a local tar, in order, read by webdataset.

    It is handed an open file: of a name it might make a shell's command or an address. Where the
    tar is not as it was written: `pipeline.files.UNREADABLE` or tarfile.TarError.
    """
    from webdataset.tariterators import group_by_keys, tar_file_expander

    with path.open("rb") as file:
        for members in group_by_keys(tar_file_expander([{"url": path.name, "stream": file}])):
            yield sample_from(members)
