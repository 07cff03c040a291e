"""The options of `jobs.build_bank`: a module that loads in no time."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Literal

from bank.recipe import BankSettings
from jobs.stages.workforce import Workforce
from pipeline.datasets import FORMATS, FormatName, Rules, default_folder, flag_of, format_name
from pipeline.options import option
from pipeline.toy.world import shares

Mode = Literal["resume", "overwrite", "extend"]


@dataclass(frozen=True, kw_only=True)
class BuildBank(Workforce, BankSettings):
    """What shapes the bank, and how the work is done."""

    data: Annotated[
        Path | None,
        option("folder of the dataset; default data/<dataset>; toy: data/toy, toy-vg, toy-7000"),
    ] = None
    out: Annotated[
        Path | None,
        option("folder of the bank; default bank/<dataset>; toy: bank/toy, toy-vg, toy-7000"),
    ] = None
    mode: Annotated[
        Mode,
        option(
            "resume: go on, and leave a finished bank as it is; overwrite: build it anew and then "
            "replace it; extend: add photos that it lacks, as new shards"
        ),
    ] = "resume"
    retry_failed: Annotated[bool, option("try the photos in failures.jsonl again")] = False
    max_failures: Annotated[
        int | None, option("stop unfinished where more photos than this could not be used")
    ] = None
    quarantine: Annotated[
        tuple[int, ...], option("image ids to leave out untouched, as part of the recipe")
    ] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.toy_photos is not None:
            shares(self.toy_photos)  # refuses too few and too many
        least = {"workers": 0, "max_failures": 0}
        for name, value in asdict(self).items():
            if type(value) is int and value < least.get(name, 1):
                flag = name.replace("_", "-")
                raise ValueError(f"--{flag} is {value}; it must be at least {least.get(name, 1)}")
        if not self.image_size <= 4096 >= self.patch_size:
            raise ValueError("--image-size and --patch-size may be at most 4096 pixels")
        if self.retry_failed and self.mode == "overwrite":
            raise ValueError("--mode overwrite tries every photo again: leave out --retry-failed")
        for name, given in (
            ("format", self.toy_format != "coco"),
            ("photos", self.toy_photos is not None),
        ):
            if given and self.dataset != "toy":
                raise ValueError(f"--toy-{name} is for --dataset toy, not {self.dataset}")
        asked = FORMATS[self.format_name]
        for name, other in FORMATS.items():
            rules = getattr(self.rules, name)
            if name != self.format_name and rules != other.rules():
                raise ValueError(f"{_changed(rules)} is for {other.called}, not {asked.called}")

    @property
    def format_name(self) -> FormatName:
        return format_name(self.dataset, self.toy_format)

    @property
    def default_data(self) -> Path:
        return default_folder(self.dataset, self.toy_format, self.toy_photos)

    @property
    def bank(self) -> Path:
        return self.out or Path("bank") / self.default_data.name


def _changed(rules: Rules) -> str:
    """The first flag that is not at its default."""
    default = type(rules)()
    changed = (name for name, value in asdict(rules).items() if value != getattr(default, name))
    name = next(changed)
    flag = flag_of(rules, name)
    return flag.replace("--", "--no-") if getattr(rules, name) is False else flag
