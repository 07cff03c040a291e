"""A frozen dataclass <-> a command line and a config.json.

Fields carry their help, units included, in `option(...)` inside `Annotated`, or in a comment on
or above their line; choices are `Literal`; what makes no sense together is refused with ValueError
in `__post_init__`.
"""

import dataclasses
import json
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, TypeVar

import tyro

from pipeline.address import Location, location
from pipeline.arithmetic import fix_products
from pipeline.errors import exit_code
from pipeline.files import write_bytes
from pipeline.output import lost_output, prepare_streams, show_log, use_utf_8
from pipeline.version import NAME, __version__
from pipeline.waiting import wait_passively

Options = TypeVar("Options")

REQUIRED: Any = tyro.MISSING  # the default of what must be given
DIGEST_HELP = (
    "64 hex digits that the bank must have: its content digest, or its manifest's manifest_digest"
)
# The type of an option for a bank: a folder or an address.
BankLocation = Annotated[
    Location,
    tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar="FOLDER|URL",
        instance_from_str=lambda given: location(given[0]),
        is_instance=lambda value: isinstance(value, Location),
        str_from_instance=lambda value: [str(value)],
    ),
]
QUIET = "--quiet"
ADDRESS = re.compile(r"(?:--[^\s=]+=)?(https?://.*)", re.IGNORECASE)
EVERYWHERE = (
    f"{QUIET} leaves out how the work goes: results, warnings and errors are printed. --version, "
    f"alone, prints the version."
)


def option(help: str, name: str | None = None, also: str | None = None) -> Any:
    """What stands inside `Annotated[type, option("...")]`.

    help  "": the comment on the field's line
    name  of the flag, in place of the field's; a dataclass with name "" has its own fields as flags
    also  another flag for the same
    """
    return tyro.conf.arg(
        help=help or None,
        name=name,
        aliases=(also,) if also else None,
        help_behavior_hint=lambda value: "" if value in ("", "None") else f"(default: {value})",
    )


Prepare = Callable[[list[str]], Options]


def run(
    main: Callable[[Options], None],
    options: type[Options],
    description: str | None,
    prepare: Prepare[Options] | None = None,
) -> None:
    """Parse the command line, call `main`, exit with 0, 1 (mendable) or 2 (wrong usage).

    A command's module imports nothing that takes long to load: torch, and all that builds on it,
    is imported by `main`, after the process has been told how to wait.
    """

    def job() -> None:
        try:
            parsed = parse(options, arguments, description, prepare)
        except ValueError as error:
            print(f"error: {error}", file=sys.stderr)
            sys.exit(2)
        fix_products()
        main(parsed)

    use_utf_8()
    prepare_streams()
    if sys.argv[1:] == ["--version"]:
        print(f"{NAME} {__version__}")
        return
    arguments = [argument for argument in sys.argv[1:] if argument != QUIET]
    show_log(quiet=QUIET in sys.argv)
    wait_passively()
    code = exit_code(job)
    if (lost := lost_output()) and not code:
        print(f"error: the work is done, but not all it printed: {lost.strerror}", file=sys.stderr)
        code = 1
    sys.exit(code)


def parse(
    options: type[Options],
    arguments: list[str],
    description: str | None = None,
    prepare: Prepare[Options] | None = None,
) -> Options:
    """The arguments of a command line as options. Wrong usage: ValueError, or a message and exit 2.

    prepare   the arguments -> the defaults
    """
    for before, argument in pairwise(["", *arguments]):
        if ADDRESS.match(argument) and "--scheduler" in (before, argument.partition("=")[0]):
            raise ValueError(
                f"{argument} is a dashboard's address; that of a scheduler begins with tcp://"
            )
    defaults: Any = prepare(arguments) if prepare else None
    # A paragraph for each example: lines would be run together.
    shown = re.sub(r"\n(?=python -m)", "\n\n", description or "")
    parsed: Options = tyro.cli(
        options,
        prog=_command(),
        description=f"{shown}\n{EVERYWHERE}",
        args=arguments,
        default=defaults,
        config=(tyro.conf.DisallowNone,),
    )
    paths = {str(path) for path in _paths(parsed)}
    for argument in arguments:
        if (address := ADDRESS.match(argument)) and str(Path(address[1])) in paths:
            raise ValueError(f"{argument} is an address; download it, and give the path here")
    lists = set(_flags_of_lists(parsed))
    typed = [argument.split("=")[0] for argument in arguments if argument.startswith("--")]
    for flag in typed:
        if flag.rpartition(".")[2].strip("-") in lists and typed.count(flag) > 1:
            raise ValueError(f"{flag} is given twice: give it once, with all its values after it")
    return parsed


def _flags_of_lists(options: Any) -> Iterator[str]:
    """The names of flags that take several values; given twice, the last would win in silence."""
    for field in dataclasses.fields(options):
        value = getattr(options, field.name)
        if dataclasses.is_dataclass(value):
            yield from _flags_of_lists(value)
        elif isinstance(value, tuple | list | Mapping):
            yield field.name.replace("_", "-")


def _paths(options: Any) -> Iterator[Path]:
    """All that name a folder or a file."""
    for field in dataclasses.fields(options):
        value = getattr(options, field.name)
        if dataclasses.is_dataclass(value):
            yield from _paths(value)
        values = value if isinstance(value, tuple) else (value,)
        yield from (path for path in values if isinstance(path, Path))


def _command() -> str | None:
    """What the user typed, and can type again: `python -m jobs.sample`."""
    spec = sys.modules["__main__"].__spec__
    name = spec.name.removesuffix(".__main__") if spec else "__main__"  # of a folder's
    return f"python -m {name}" if name != "__main__" else None


def to_json(value: Any) -> Any:
    """A dataclass as plain JSON values; paths become strings, tuples lists."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_json(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return {str(k): to_json(v) for k, v in value.items()}
    if isinstance(value, tuple | list):
        return [to_json(v) for v in value]
    return value


def write_json(path: Path, value: Any) -> None:
    text = json.dumps(to_json(value), indent=1, ensure_ascii=False) + "\n"
    write_bytes(path, text.encode())
