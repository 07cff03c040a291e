"""Cut photos of a shard and keep nothing, to see which one crashes this process: attempts.py.

python -m jobs.stages.probe PLAN PHOTOS OPTIONS < image ids

prints each id before it reads the photo; OPTIONS are CropOptions as JSON.
"""

import json
import sys
from contextlib import suppress
from pathlib import Path

from jobs.stages.cutting import CropOptions, cut_photo, usable_scene
from pipeline.data_folder import DataFolder
from pipeline.plan import read_plan


def main(plan: str, photos: str, options: str) -> None:
    wanted = {int(image_id) for image_id in sys.stdin.read().split()}
    folder = DataFolder(Path(photos))
    for annotated in read_plan(Path(plan)):
        if annotated.photo.image_id in wanted:
            print(annotated.photo.image_id, flush=True)
            # An error is no crash: it is raised again when the shard is cut.
            with suppress(Exception):
                cut_photo(usable_scene(annotated), folder, CropOptions(**json.loads(options)))


if __name__ == "__main__":
    main(*sys.argv[1:])
