"""Score runs: their pictures (the paper's Table 1), and the patches that they choose (Figure 4).

python -m jobs.evaluate --run runs/00001-coco --split test --real --extractor inception lpips
python -m jobs.evaluate --run runs/demo runs/predefined runs/sg2im-demo     one table of three
python -m jobs.evaluate --images attngan --bank bank/coco --split test    pictures made elsewhere
python -m jobs.evaluate --protocol runs/demo/scores/test-5b1c0e9a/protocol.json      once more

Writes a Markdown table, a JSON line per score, a protocol card that says all that the numbers
depend on, and how long each took; adds the lines to RUN/metrics.jsonl. Settings are chosen on val,
scores are told on test.
"""

from jobs.show.options import Evaluate
from pipeline.options import run


def main(options: Evaluate) -> None:
    from jobs.show.scoring import score

    score(options)


if __name__ == "__main__":
    run(main, Evaluate, __doc__)
