"""How texts count."""

import re


def counted(number: int, noun: str) -> str:
    """`1 photo`, `2,000 photos`, `0 patches`, `3 categories`: `noun` is the singular."""
    if number != 1:
        noun = re.sub("(?<![aeo])y$", "ie", noun)
        noun += "es" if noun.endswith(("ch", "sh", "x", "s")) else "s"
    return f"{number:,} {noun}"
