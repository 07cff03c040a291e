"""Take photos out of a finished bank: patches, scenes, features, index entries and candidates.

python -m jobs.edit_bank bank/coco --remove-photo 581929 9     needs neither photos nor annotations

The bank stays as it was until its next version is whole. The image ids are kept in the manifest, so
that no later build takes the photos in again.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from jobs.stages.workforce import Workforce
from pipeline.options import option, run


@dataclass(frozen=True, kw_only=True)
class EditBank(Workforce):
    bank: Annotated[Path, tyro.conf.Positional, option("folder of a built bank")]
    remove_photo: Annotated[tuple[int, ...], option("image ids of the photos to take out")]
    retrain: Annotated[
        bool,
        option(
            "also train the bank's networks anew without these photos, as a fresh build with "
            "--quarantine would; otherwise they stay, and with them all other features"
        ),
    ] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.remove_photo:
            raise ValueError("--remove-photo needs at least one image id")


def main(options: EditBank) -> None:
    from jobs.stages.cluster import Pool
    from jobs.stages.removal import remove_photos

    pool = Pool(options.workers, options.scheduler)
    remove_photos(options.bank, set(options.remove_photo), options.retrain, pool)


if __name__ == "__main__":
    run(main, EditBank, __doc__)
