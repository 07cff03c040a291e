"""A bank's content -> networks, features, co-occurrence vectors, index, candidates, quality.

A stage begins when the stages that it needs are done, so several go on at the same time. One that
an earlier run has left whole is skipped, and so are the blocks of one that it has begun.
"""

import functools
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from bank.files import FileDigest
from jobs.stages.blocks import Block, Stage, make_part
from jobs.stages.cluster import Done, Job, Pool
from jobs.stages.derivation import Derivation
from jobs.stages.networks import CooccurrenceStage, GraphEncoderStage
from jobs.stages.quality import QualityStage
from jobs.stages.receipts import WORK, Receipt, find_receipt
from jobs.stages.search import NearestCandidates, QueryPlanStage, SearchIndex
from jobs.stages.vectors import ObjectFeatures, PatchVectors
from pipeline.progress import Bar

# Those that take longest first.
STAGES: tuple[type[Stage], ...] = (
    GraphEncoderStage,
    CooccurrenceStage,
    QueryPlanStage,
    QualityStage,
    ObjectFeatures,
    PatchVectors,
    SearchIndex,
    NearestCandidates,
)


def derive(derivation: Derivation, pool: Pool) -> dict[str, FileDigest]:
    """All derived files; their digests by path in the bank."""
    receipts = run_stages([stage(derivation) for stage in STAGES], pool)
    outputs = (output for receipt in receipts.values() for output in receipt.outputs.items())
    return {path: digest for path, digest in outputs if not path.startswith(f"{WORK}/")}


def run_stages(stages: Sequence[Stage], pool: Pool) -> dict[str, Receipt]:
    """Every stage's receipt, by its name."""
    schedule = _Schedule(stages, parallel=pool.parallel)
    schedule.begin()
    for done in pool.run(schedule.jobs):
        schedule.end(done)
        schedule.begin()
    return schedule.done


@dataclass
class _UnderWay:
    """A stage some of whose blocks are not made yet."""

    stage: Stage
    needs: Mapping[str, FileDigest]
    blocks: Sequence[Block]
    parts: dict[int, Receipt] = field(default_factory=dict)  # of blocks that are made, by number
    bar: Bar | None = None  # from its first block on; a stage without a title shows none


class _Schedule:
    """The stages that wait, are under way and are done."""

    def __init__(self, stages: Sequence[Stage], *, parallel: bool) -> None:
        self.parallel = parallel
        self.jobs = deque[Job]()
        self.done: dict[str, Receipt] = {}
        self._waiting = list(stages)
        self._under_way: dict[str, _UnderWay] = {}

    def begin(self) -> None:
        """Begin all stages that can; without workers, one whenever another is done."""
        while self.parallel or not self._under_way:
            ready = (s for s in self._waiting if self.done.keys() >= set(s.needs))
            if (stage := next(ready, None)) is None:
                return
            self._waiting.remove(stage)
            self._begin(stage)

    def _begin(self, stage: Stage) -> None:
        outputs = [self.done[name].outputs for name in stage.needs]
        needs = {path: digest for files in outputs for path, digest in files.items()}
        if receipt := find_receipt(stage.bank, stage.name, stage.key(needs)):
            self.done[stage.name] = receipt
            return
        blocks = stage.blocks(needs)
        if not blocks:
            self.done[stage.name] = stage.finish(blocks, needs, ())
            return
        self._under_way[stage.name] = _UnderWay(stage, needs, blocks)
        make = functools.partial(make_part, stage.make)
        self.jobs.extend(Job(make, block, threads=None) for block in blocks)

    def end(self, done: Done) -> None:
        """A block is made."""
        block: Block = done.job.task
        begun = self._under_way[block.stage]
        if begun.stage.title and not begun.bar:
            began = time.monotonic() - done.seconds
            begun.bar = Bar(begun.stage.title, len(begun.blocks), "block", began=began)
        begun.parts[block.number] = done.result
        if begun.bar:
            begun.bar.reach(len(begun.parts))
        if len(begun.parts) < len(begun.blocks):
            return
        del self._under_way[block.stage]
        parts = begun.parts.values()
        self.done[block.stage] = begun.stage.finish(begun.blocks, begun.needs, parts)
        if begun.bar:
            begun.bar.close()
