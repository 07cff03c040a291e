"""What may make a patch a poor one: quality.arrow."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from bank.quality import QUALITY_FILE, join_quality, quality_rows
from bank.table import save_table
from jobs.stages.blocks import Block, Stage, even_ranges

SCENES = 4096  # of a block


class QualityStage(Stage):
    """quality.arrow: blocks of consecutive scenes."""

    name, title, outputs = "quality", "quality", (QUALITY_FILE,)

    @property
    def software(self) -> Mapping[str, str]:
        return {}

    def ranges(self) -> Sequence[tuple[int, int]]:
        return even_ranges(len(self.contents.image_ids), SCENES)

    @staticmethod
    def make(block: Block, folder: Path) -> None:
        images = block.contents.image_ids[block.start : block.stop]
        save_table(folder / QUALITY_FILE, quality_rows(block.contents, images))

    def join(self, parts: Sequence[Path]) -> None:
        join_quality(self.bank / QUALITY_FILE, [part / QUALITY_FILE for part in parts])
