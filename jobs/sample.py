"""Generate images from scene graphs; show their patches, and credit the photos of these.

python -m jobs.sample --run runs/00001-coco --graph examples/toy_meadow.json
python -m jobs.sample --run runs/demo --graph examples/toy_meadow.json --draws 6 --pin tree=1234
python -m jobs.sample --run runs/demo --split val --beside predefined runs/sg2im
python -m jobs.sample --run runs/demo --split test --out pictures --draws 2      plain files

The graph file is {"objects": ["tree", "grass"], "relationships": [[0, "above", 1]]}; it may carry
"boxes": [[x0, y0, x1, y1], ...] as fractions of the image. Without them the run predicts boxes. In
place of a file, --split takes graphs and boxes of the bank's own held-out scenes.
"""

from jobs.show.options import SampleOptions
from pipeline.options import run


def main(options: SampleOptions) -> None:
    from jobs.show.sampling import sample

    sample(options)


if __name__ == "__main__":
    run(main, SampleOptions, __doc__)
