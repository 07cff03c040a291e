"""What the person at the keyboard can mend: one clear line, exit code 1, no traceback."""

import re
import sys
from collections.abc import Callable
from difflib import get_close_matches


class UserError(Exception):
    """Says what is wrong (with the value), where, and what to do."""


class DatasetError(UserError):
    """Annotations or photos that cannot be used as they are."""


def suggestion(name: str, known: list[str]) -> str:
    """A hint for an unknown name: `did you mean 'boat' or 'boot'?`, or some of the known ones.

    A name's words count too: 'skyy' is near 'sky-other'.
    """
    words = {word: full for full in reversed(known) for word in re.split(r"[ _-]", full)}
    close = get_close_matches(name, known, n=3, cutoff=0.6)
    close += [words[word] for word in get_close_matches(name, list(words), n=3, cutoff=0.6)]
    if close:
        return "did you mean " + " or ".join(repr(c) for c in list(dict.fromkeys(close))[:3]) + "?"
    shown = ", ".join(known[:20])
    return f"known are {shown}{', ...' if len(known) > 20 else ''}"


def exit_code(job: Callable[[], None]) -> int:
    """Run a command: 0 when it ends well, 1 with one line where the user can mend it."""
    try:
        job()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(
            "interrupted; what was finished is kept: run the command again (a training goes on "
            "from its last checkpoint: --resume)",
            file=sys.stderr,
        )
        return 130
    return 0
