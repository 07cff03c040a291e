"""Cut photos of a shard and keep nothing: does this process survive them? See attempts.py.

python -m jobs.stages.probe PLAN PHOTOS RECIPE < image ids

prints each id before it touches the photo.
"""

import json
import sys
from contextlib import suppress
from pathlib import Path

from jobs.stages.cutting import CropOptions, cut_photo, usable_scene
from pipeline.data_folder import DataFolder
from pipeline.plan import read_plan


def main(plan: str, photos: str, recipe: str) -> None:
    wanted = {int(image_id) for image_id in sys.stdin.read().split()}
    folder = DataFolder(Path(photos))
    for annotated in read_plan(Path(plan)):
        if annotated.photo.image_id in wanted:
            print(annotated.photo.image_id, flush=True)
            with suppress(Exception):  # an error is no death: who cuts the shard will meet it
                cut_photo(usable_scene(annotated), folder, CropOptions(**json.loads(recipe)))


if __name__ == "__main__":
    main(*sys.argv[1:])
