"""Where a bank lies: in a folder of this machine, or at an address of the web."""

import re
from pathlib import Path
from typing import TypeAlias
from urllib.parse import quote, unquote, urlsplit

from pipeline.checks import UNFIT, show
from pipeline.errors import UserError

# Two letters at least: `C:/banks` is a folder. One slash will do: pathlib leaves no more of `://`.
LIKE_AN_ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/+")
SAFE = "/%~!$&'()*+,;=:@"  # in a path, as it was typed


class Address(str):
    """`http://HOST/PATH` or `https://...` of a folder on a web server, without a slash at its end.
    Made by `location`."""

    __slots__ = ()

    @property
    def name(self) -> str:
        """The last part, fit to name a folder."""
        parts = urlsplit(self)
        last = unquote(parts.path.rpartition("/")[2]) or parts.hostname or ""
        return re.sub(r"[^\w.-]", "-", last).lstrip(".") or "bank"

    def file(self, name: str) -> str:
        """The address of a file below it."""
        return f"{self}/{quote(name)}"


Location: TypeAlias = Path | Address


def location(given: str | Path) -> Location:
    """What was typed, or written into a config.json, as one or the other.

    UserError for an address that no bank can have.
    """
    if isinstance(given, Address):
        return given
    text = str(given)
    found = LIKE_AN_ADDRESS.match(text)
    return _address(text, found[1].lower(), text[found.end() :]) if found else Path(given)


def _address(text: str, scheme: str, rest: str) -> Address:
    if scheme not in ("http", "https"):
        raise UserError(
            f"{show(text)}: a bank lies in a folder, or at an address that begins with http:// or "
            f"https://, not with {scheme}:"
        )
    try:
        parts = urlsplit(f"{scheme}://{rest}")
        wrong = None if parts.hostname and parts.port != 0 else "it names no machine"
    except ValueError as error:  # of a port that is no number, or brackets that do not close
        raise UserError(f"{show(text)} is no address ({error})") from error
    if UNFIT.search(text) or "\\" in text:
        wrong = "it has characters that no address has"
    elif parts.username is not None:
        wrong = "it holds a user's name, which every run would keep"
    elif parts.query or parts.fragment or "?" in text or "#" in text:
        wrong = "a bank's files lie below it, so it has no `?` or `#`"
    if wrong:
        raise UserError(f"{show(text)}: {wrong}; the address of a bank is like https://HOST/PATH")
    path = quote(parts.path, safe=SAFE).rstrip("/").removesuffix("/manifest.json").rstrip("/")
    return Address(f"{scheme}://{parts.netloc}{path}")
