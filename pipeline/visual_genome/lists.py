"""Visual Genome's small files: which names mean the same, and which photo is in which split."""

import re
from collections.abc import Mapping
from typing import Literal

from pipeline.checks import BROKEN
from pipeline.data_folder import DataFolder
from pipeline.errors import DatasetError
from pipeline.json_file import json_value
from pipeline.scene import SPLITS, Split
from pipeline.visual_genome.layout import alias_file, splits_file
from pipeline.visual_genome.shapes import SplitLists, shaped

Inputs = dict[str, str]  # file -> SHA-256
MOST_BYTES = 64_000_000  # of these files; the published ones have at most a million


def read_aliases(
    folder: DataFolder, kind: Literal["objects", "relationships"], inputs: Inputs
) -> Mapping[str, str]:
    """Name -> the name it stands for: the first of its line, a later line overruling."""
    file = alias_file(folder, kind)
    data = folder.read_input(file, inputs, MOST_BYTES)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DatasetError(
            f"{folder.where(file)} is not UTF-8 text at byte {error.start:,}; {BROKEN}"
        ) from error
    rows = [[name.strip() for name in line.split(",")] for line in re.split("\r\n|\r|\n", text)]
    return {name: row[0] for row in rows for name in row}


def read_splits(folder: DataFolder, inputs: Inputs) -> dict[int, Split]:
    """Photo's id -> split, split by split in file order."""
    file = splits_file(folder)
    where = folder.where(file)
    lists = shaped(
        json_value(folder.read_input(file, inputs, MOST_BYTES), where, BROKEN), SplitLists, where
    )
    split_of: dict[int, Split] = {}
    for split in SPLITS:
        for place, image_id in enumerate(getattr(lists, split)):
            if image_id in split_of:
                raise DatasetError(
                    f"{where}, {split}[{place}]: photo {image_id} is in {split_of[image_id]!r} "
                    f"already; a photo must be listed once"
                )
            split_of[image_id] = split
    return split_of
