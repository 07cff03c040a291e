"""Which photos may be used under the licences that a user accepts."""

import re
import shlex
from collections import Counter
from collections.abc import Iterable, Sequence

from pipeline.errors import UserError
from pipeline.wording import counted

UNKNOWN = "unknown"  # stands for photos whose licence is not stated

CREATIVE_COMMONS = re.compile(r"creativecommons\.org/(licenses|publicdomain)/([a-z-]+)")
PUBLIC_DOMAIN = {"zero": "cc0", "mark": "pdm"}


def short_name(licence: str) -> str:
    """`cc-by-nc-sa`, `cc0` or `pdm` of a Creative Commons address; else the text itself."""
    if not licence.strip():
        return UNKNOWN
    if match := CREATIVE_COMMONS.search(licence.lower()):
        return PUBLIC_DOMAIN.get(match[2], f"cc-{match[2]}")
    return licence


class Accepted:
    """Licences by short name (`cc-by`), or as a photo states them: by address, by name where the
    dataset has none. An empty list accepts all."""

    def __init__(self, licences: Sequence[str]) -> None:
        self._names = {_plain(name) for name in licences}

    def __contains__(self, licence: str) -> bool:
        return not self._names or not self._names.isdisjoint(_names_of(licence))

    def check(self, licences: Iterable[str]) -> None:
        """UserError for one that no photo has: it may be a slip, and would silently do nothing."""
        stated = Counter(licences)
        known = {name for licence in stated for name in _names_of(licence)}
        if unknown := sorted(self._names - known):
            counts = Counter[str]()
            for licence, count in stated.items():
                counts[short_name(licence)] += count
            listed = ", ".join(
                f"{shlex.quote(_spaced(name))} ({counted(count, 'photo')})"
                for name, count in counts.most_common()
            )
            raise UserError(
                f"--licences {unknown[0]}: no photo has it; give one or more of these, with "
                f"spaces between: {listed}"
            )


def _names_of(licence: str) -> set[str]:
    return {_plain(licence), _plain(short_name(licence))} - {""}


def _plain(name: str) -> str:
    return _spaced(name).lower()


def _spaced(name: str) -> str:
    return " ".join(name.split())
