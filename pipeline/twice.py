"""Photos that are listed twice, under ids of their own: found, and named where it matters most."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Collection, Sequence
from contextlib import suppress
from pathlib import PurePosixPath

from pipeline.checks import clip
from pipeline.data_folder import DataFolder
from pipeline.errors import DatasetError
from pipeline.scene import AnnotatedPhoto
from pipeline.wording import counted


def listed_twice_note(photos: Sequence[AnnotatedPhoto], folder: DataFolder) -> list[str]:
    """A line where photos have the same file, or files of one name with the same bytes."""
    key = _keys({p.photo.file for p in photos}, folder)
    same: dict[str, list[AnnotatedPhoto]] = defaultdict(list)
    for photo in photos:
        same[key[photo.photo.file]].append(photo)
    again = [group for group in same.values() if len(group) > 1]
    if not again:
        return []
    photos_again = counted(len(again), "photo")
    note = f"{photos_again} listed more than once under other ids, e.g. {_who(again[0])}"
    across = [group for group in again if len({p.photo.split == "train" for p in group}) > 1]
    if across:
        note += (
            f"; {len(across):,} of them both for training and held out, e.g. "
            f"{_who(across[0])}: numbers on these say nothing about new photos"
        )
    return [f"{note}; list each photo once"]


def _keys(files: Collection[str], folder: DataFolder) -> dict[str, str]:
    """Equal for files of the same name and bytes; only those of one name and size are read."""
    key = {file: file for file in files}
    by_name = defaultdict(list)
    for file in files:
        by_name[PurePosixPath(file).name].append(file)
    for named in by_name.values():
        if len(named) > 1:
            stamps = {file: folder.stamp(file) for file in named}
            sizes = Counter(stamp[0] for stamp in stamps.values() if stamp)
            key |= {f: _digest(f, folder) for f, s in stamps.items() if s and sizes[s[0]] > 1}
    return key


def _digest(file: str, folder: DataFolder) -> str:
    """Of its bytes; the path itself of a file that cannot be read, which is told of when it is
    cut."""
    with suppress(OSError, DatasetError):
        return hashlib.sha256(folder.read(file)).hexdigest()
    return file


def _who(group: Sequence[AnnotatedPhoto]) -> str:
    first, last = group[0].photo, group[-1].photo
    one, other = (f"{photo.image_id} ({photo.split})" for photo in (first, last))
    return f"{clip(first.file)} as {one} and {other}"
