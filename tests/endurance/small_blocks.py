"""A tiny bank is made as a large one is: in several blocks a stage, and its networks' trainings are
saved after every step."""

from bank import index, query_plan
from jobs.stages import cluster, quality, vectors
from model import frozen

SIZES = (
    (vectors, "SCENES", 8),
    (vectors, "PATCHES", 48),
    (quality, "SCENES", 8),
    (query_plan, "COST", 1 << 10),
    (query_plan, "LEAST", 1 << 4),
    (query_plan, "FOUND", 1 << 8),
    (index, "TOGETHER", 32),
)
# As `--preload` of a worker: Dask takes text with a space in it for code.
SAVE_OFTEN = "import model.frozen; model.frozen.SAVE_EVERY_S = 0.0"


def make_blocks_small() -> None:
    """In this process, which says what a block is, and in the workers that it will start."""
    for module, name, size in SIZES:
        setattr(module, name, size)
    frozen.SAVE_EVERY_S = 0.0
    cluster.LEAVE_INTERRUPTS += f"; {SAVE_OFTEN}"
