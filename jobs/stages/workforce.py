"""Who does the work of a command: a module that loads in no time."""

from dataclasses import dataclass
from typing import Annotated

from pipeline.options import option


@dataclass(frozen=True, kw_only=True)
class Workforce:
    """Options of every command that Dask can work for; what comes out does not depend on them."""

    workers: Annotated[int, option("processes that do the work; 0 = this one, no Dask")] = 0
    scheduler: Annotated[str, option("address of a running Dask scheduler, instead")] = ""

    def __post_init__(self) -> None:
        if self.workers < 0:
            raise ValueError(f"--workers is {self.workers}; it must be at least 0")
        if self.workers and self.scheduler:
            raise ValueError("--workers starts workers here, --scheduler uses others: give one")
