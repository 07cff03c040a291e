"""Cut every object out of a dataset's photos and keep the patches as a searchable bank.

python -m jobs.build_bank --dataset toy     nothing to download: draws its photos first
python -m jobs.build_bank --dataset coco    reads data/coco, writes bank/coco
python -m jobs.build_bank --dataset vg      reads data/vg, writes bank/vg

Run it again to go on with a build that was interrupted; a finished bank is left as it is.
"""

from jobs.stages.options import BuildBank
from pipeline.options import run


def main(options: BuildBank) -> None:
    from jobs.stages.build import build

    build(options)


if __name__ == "__main__":
    run(main, BuildBank, __doc__)
