"""Score a run's retrieval: does it find the true patches, do the patches it chooses go together?

python -m jobs.evaluate --run runs/00001-coco             the run's own bank, its val scenes
python -m jobs.evaluate --run runs/demo --split test      the toy world: compatibility as well

Prints a Markdown table and adds one JSON line per score to RUN/metrics.jsonl.
"""

from jobs.show.options import Evaluate
from pipeline.options import run


def main(options: Evaluate) -> None:
    from jobs.show.scoring import score

    score(options)


if __name__ == "__main__":
    run(main, Evaluate, __doc__)
