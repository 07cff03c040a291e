"""What is found by object features: index/, for graphs that are not in the bank, and
candidates.arrow.

Both are made by blocks that the plan of queries fixes: categories, and queries that cost about the
same (bank/pools.py, bank/query_plan.py).
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bank.candidates import join_candidates, search_block, write_candidates
from bank.exact_search import Pool
from bank.index import FORMAT as INDEX_FORMAT
from bank.index import join_index, plan_index, write_index_block
from bank.pools import Pools, pools_by_category
from bank.query_plan import QueryPlan, plan_queries
from bank.table import codes, read_vectors
from jobs.stages.blocks import Block, Stage, software
from jobs.stages.derivation import training_rows
from jobs.stages.receipts import WORK

PLAN = f"{WORK}/query-plan"
PART = "candidates.arrow"  # a part: those of its queries


class QueryPlanStage(Stage):
    """work/query-plan: which patches are compared with which. It takes no worker."""

    name, title, outputs = "query-plan", "", (PLAN,)

    @property
    def settings(self) -> Mapping[str, Any]:
        options = self.derivation.options
        return {"k": options.candidates, "scope": options.candidate_scope}

    @property
    def software(self) -> Mapping[str, str]:
        return {}

    def join(self, parts: Sequence[Path]) -> None:
        contents, options = self.contents, self.derivation.options
        names, of_patch = codes(contents.table, "category")
        pools = pools_by_category(contents.patch_ids, names, of_patch, training_rows(contents))
        photos, k = contents.photos_of_patches, options.candidates
        plan_queries(pools, photos, k, options.candidate_scope).save(self.bank / PLAN)


class SearchIndex(Stage):
    """index/: training patches by category."""

    name, title, outputs = "index", "search index", ("index",)
    needs = ("query-plan", "features")

    @property
    def settings(self) -> Mapping[str, Any]:
        return {"format": INDEX_FORMAT}

    @property
    def software(self) -> Mapping[str, str]:
        return software("torch", "faiss")

    def ranges(self) -> Sequence[tuple[int, int]]:
        return plan_index(Pools.open(self.bank / PLAN))

    @staticmethod
    def make(block: Block, folder: Path) -> None:
        pools, categories = Pools.open(block.bank / PLAN), (block.start, block.stop)
        write_index_block(folder, pools, _patches(block.bank), categories)

    def join(self, parts: Sequence[Path]) -> None:
        join_index(self.bank / "index", parts, self.derivation.content_digest)


class NearestCandidates(Stage):
    """candidates.arrow: for every patch its nearest training patches of other photos."""

    name, title, outputs = "candidates", "candidates", ("candidates.arrow",)
    needs = ("query-plan", "features")

    def ranges(self) -> Sequence[tuple[int, int]]:
        return QueryPlan.open(self.bank / PLAN).blocks

    @staticmethod
    def make(block: Block, folder: Path) -> None:
        plan, patches = QueryPlan.open(block.bank / PLAN), _patches(block.bank)
        found = search_block(plan, patches, block.start, block.stop)
        ids = patches.ids[plan.queries[block.start : block.stop]]
        write_candidates(folder / PART, ids, found)

    def join(self, parts: Sequence[Path]) -> None:
        ids, k = self.contents.patch_ids, self.derivation.options.candidates
        join_candidates(self.bank / self.outputs[0], ids, k, [part / PART for part in parts])


def _patches(bank: Path) -> Pool:
    """All of the bank, mapped."""
    return Pool(*read_vectors(bank / "features.arrow", "feature"))
