"""A folder of pictures of scenes, `<image_id>[_draw].png`, whatever made them -> their pixels.

Image ids are decimal and may have leading zeros, as COCO's; draws count from 0; JPEGs will do. A
scene's pictures are taken by rising draw; one without a draw in its name is draw 0.
"""

import hashlib
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.checks import show
from pipeline.crop import MAX_BYTES, PhotoError, Pixels, decode_photo, photo_size
from pipeline.errors import UserError
from pipeline.progress import progress
from pipeline.wording import counted

NAME = re.compile(r"([0-9]{1,20})(?:_([0-9]{1,20}))?\.(?:png|jpg|jpeg)", re.IGNORECASE)
CREDITS = "credits.jsonl"  # of pictures that jobs.sample writes, beside them
SHOWN = 5  # missing scenes and extra files that are named

Drawn = dict[int, Path]  # draw -> its file


@dataclass(frozen=True)
class PictureFolder:
    """The pictures that a folder has of the scenes asked for: all of one size."""

    path: Path
    files: Mapping[int, tuple[Path, ...]]  # image id -> its pictures by rising draw; ids rise
    missing: tuple[int, ...]  # image ids of the scenes that have none
    extra: tuple[str, ...]  # names in the folder that are no picture of such a scene
    width: int  # px
    height: int
    sha256: str  # of the pictures: image ids, draws and bytes

    def scenes(self, draws: int) -> NDArray[np.int64]:
        """Image ids, rising, of the scenes that have at least so many draws."""
        return np.array([i for i, files in self.files.items() if len(files) >= draws], np.int64)

    @property
    def draws(self) -> int:
        """The most pictures that a scene has."""
        return max(map(len, self.files.values()))

    def read(self, image_ids: Iterable[int], draws: int) -> Pixels:
        """The first pictures of each of some of `scenes(draws)`: (n, draws, H, W, 3) RGB.

        UserError for a picture that cannot be read.
        """
        return np.stack([[self._read(f) for f in self.files[i][:draws]] for i in image_ids])

    def notes(self) -> list[str]:
        """What there is, what is missing and what is extra: a line each."""
        numbers = {len(files) for files in self.files.values()}
        draws = " to ".join(map(str, sorted({min(numbers), max(numbers)})))
        scenes = counted(len(self.files) + len(self.missing), "scene")
        lines = [
            f"{self.path}: pictures of {len(self.files):,} of {scenes}, {draws} of each, "
            f"{self.width} x {self.height} px"
        ]
        if self.missing:
            lines.append(f"missing: {counted(len(self.missing), 'scene')} ({_few(self.missing)})")
        if self.extra:
            lines.append(f"extra: {counted(len(self.extra), 'file')} ({_few(self.extra)})")
        return lines

    def _read(self, file: Path) -> Pixels:
        try:
            return decode_photo(_bytes(file), (self.width, self.height))
        except PhotoError as error:
            raise _refused(file, error) from error


def open_pictures(path: Path, image_ids: Collection[int]) -> PictureFolder:
    """The pictures of these scenes. Every file is read, for its size and the SHA-256.

    UserError where there is none, where two are of one scene and draw, and for a picture that is
    none or has another size than the others.
    """
    if not path.is_dir():
        raise UserError(f"{path}: there is no such folder of pictures")
    asked = sorted({int(image_id) for image_id in image_ids})
    found, extra = _find(path, frozenset(asked))
    if not found:
        raise UserError(
            f"{path} has no picture of any of the {counted(len(asked), 'scene')} asked for: it "
            f"should be named <image_id>.png or <image_id>_<draw>.png, draws counting from 0 "
            f"(.jpg and .jpeg will do)"
        )
    (width, height), sha256 = _look_at(found)
    return PictureFolder(
        path=path,
        files={image_id: tuple(drawn.values()) for image_id, drawn in found.items()},
        missing=tuple(i for i in asked if i not in found),
        extra=tuple(extra),
        width=width,
        height=height,
        sha256=sha256,
    )


def picture_name(image_id: int, draw: int, draws: int) -> str:
    """Of picture `draw` of `draws` of a scene."""
    return f"{image_id}.png" if draws == 1 else f"{image_id}_{draw}.png"


def write_picture(folder: Path, image_id: int, draw: int, draws: int, pixels: Pixels) -> Path:
    """Write the picture (H, W, 3) that is `draw` of `draws` of a scene, as PNG: its path.

    The file is not synced to the disk, which would take four times as long: one that a crash cut
    short is refused when it is read.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / picture_name(image_id, draw, draws)
    Image.fromarray(pixels).save(path)
    return path


def _find(path: Path, asked: Collection[int]) -> tuple[dict[int, Drawn], list[str]]:
    """The scenes' pictures, image ids and draws rising, and the names of everything else."""
    found: dict[int, Drawn] = {}
    extra = []
    for file in sorted(path.iterdir()):
        match = NAME.fullmatch(file.name)
        image_id, draw = (int(match[1]), int(match[2] or 0)) if match else (-1, 0)
        if image_id not in asked or not file.is_file():
            extra += [file.name] if file.name != CREDITS else []
            continue
        earlier = found.setdefault(image_id, {}).setdefault(draw, file)
        if earlier != file:
            raise UserError(
                f"{path}: {earlier.name} and {file.name} are both draw {draw} of scene "
                f"{image_id}; take one of them out"
            )
    return {i: dict(sorted(drawn.items())) for i, drawn in sorted(found.items())}, extra


def _look_at(found: Mapping[int, Drawn]) -> tuple[tuple[int, int], str]:
    """Width and height of all pictures, and the SHA-256."""
    pictures = [(i, draw, file) for i, drawn in found.items() for draw, file in drawn.items()]
    first = pictures[0][-1]
    size, sha256 = _size(first, _bytes(first)), hashlib.sha256()
    for image_id, draw, file in progress(pictures, "pictures", len(pictures), "picture"):
        data = _bytes(file)
        if (other := _size(file, data)) != size:
            raise UserError(
                f"{file} has {other[0]} x {other[1]} px and {first.name} has {size[0]} x "
                f"{size[1]}: the pictures of a folder must have one size"
            )
        sha256.update(f"{image_id} {draw} {hashlib.sha256(data).hexdigest()}\n".encode())
    return size, sha256.hexdigest()


def _size(file: Path, data: bytes) -> tuple[int, int]:
    try:
        return photo_size(data)
    except PhotoError as error:
        raise _refused(file, error) from error


def _bytes(file: Path) -> bytes:
    try:
        if file.stat().st_size > MAX_BYTES:
            raise UserError(f"{file} has more than {MAX_BYTES:,} bytes, too many for a picture")
        return file.read_bytes()
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error.strerror}") from error


def _refused(file: Path, error: PhotoError) -> UserError:
    return UserError(
        f"{file} cannot be read as a picture ({error.detail}): make it anew, or take it out"
    )


def _few(names: Collection[int | str]) -> str:
    """The first of them, as they are shown in a line."""
    shown = [name if isinstance(name, int) else show(name) for name in list(names)[:SHOWN]]
    return ", ".join(map(str, shown)) + (", ..." if len(names) > SHOWN else "")
