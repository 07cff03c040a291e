import json
import pickle
import re
from pathlib import Path

import pytest

from pipeline.address import Address, location
from pipeline.cache import cache_folder
from pipeline.errors import UserError
from pipeline.options import to_json


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("http://h/banks/coco", "http://h/banks/coco"),
        ("https://h:8000/coco/", "https://h:8000/coco"),
        ("https://h/coco/manifest.json", "https://h/coco"),
        ("HTTP://h", "http://h"),
        ("http://h//", "http://h"),
        ("http:/h/coco", "http://h/coco"),  # as pathlib leaves it
        (Path("http://h/coco"), "http://h/coco"),
        ("http://h/a bank/é%20", "http://h/a%20bank/%C3%A9%20"),
        ("http://[::1]:80/x", "http://[::1]:80/x"),
    ],
)
def test_an_address_has_one_spelling(typed, meant):
    address = location(typed)
    assert isinstance(address, Address)
    assert address == meant
    assert location(address) is address
    assert location(str(address)) == address


@pytest.mark.parametrize("typed", ["bank/coco", "/banks/coco", "C:/banks", "a:b/c", "."])
def test_all_else_is_a_folder(typed):
    assert location(typed) == Path(typed)
    assert location(Path(typed)) == Path(typed)


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("s3://bucket/bank", "begins with http:// or https://, not with s3:"),
        ("file:///etc", "not with file:"),
        ("pipe:/cat", "not with pipe:"),
        ("https://user:word@h/bank", "it holds a user's name"),
        ("https://h/bank?key=1", "it has no `?` or `#`"),
        ("https://h/bank#x", "it has no `?` or `#`"),
        ("https://h/ba\\nk", "characters that no address has"),
        ("https://h/ba\nk", "characters that no address has"),
        ("https://h:port/bank", "is no address (Port could not be cast"),
        ("https://h:99999/bank", "is no address (Port out of range"),
        ("https://[::1/bank", "is no address (Invalid IPv6 URL"),
        ("https://", "it names no machine"),
    ],
)
def test_what_can_be_no_banks_address_is_refused_in_a_line(typed, said):
    with pytest.raises(UserError, match=re.escape(said)) as caught:
        location(typed)
    assert "\n" not in str(caught.value)


def test_the_last_part_names_a_folder():
    for address, name in (
        ("http://h/banks/coco", "coco"),
        ("http://h:80", "h"),
        ("http://h/..%2f..%2fx", "-..-x"),
        ("http://h/...", "bank"),
        ("http://h/a%20b", "a-b"),
    ):
        assert location(address).name == name


def test_files_lie_below_it_by_their_quoted_names():
    assert location("http://h/b").file("a b/ü#?%.x") == "http://h/b/a%20b/%C3%BC%23%3F%25.x"


def test_it_is_stored_as_text():
    address = location("http://h/b")
    assert json.dumps(to_json({"bank": address})) == '{"bank": "http://h/b"}'
    assert type(pickle.loads(pickle.dumps(address))) is Address


def test_the_cache_lies_where_the_environment_says(monkeypatch, tmp_path):
    for name in ("RETRIEVEGAN_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache/retrievegan"
    monkeypatch.setenv("XDG_CACHE_HOME", "/caches")
    assert cache_folder() == Path("/caches/retrievegan")
    monkeypatch.setenv("RETRIEVEGAN_CACHE", "~/mine")
    assert cache_folder() == tmp_path / "mine"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RETRIEVEGAN_CACHE", "here")
    assert cache_folder() == tmp_path / "here"
