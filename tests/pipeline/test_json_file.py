import json
import tracemalloc

import msgspec
import pytest

from pipeline.errors import DatasetError
from pipeline.json_file import decoded

decode_list = msgspec.json.Decoder(list[msgspec.Raw]).decode


def entries(data):
    """As a reader takes them, one by one."""
    listed = decoded(data, decode_list, "list.json")
    return [decoded(e, msgspec.json.decode, f"entry {at}") for at, e in enumerate(listed)]


VALUE = [{"é€𝄞": [1, -2.5e3, 'a,]}\\"']}, 12345, [], {}, "x", None, True, [[["]"]]], 1.5]


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("ascii", [True, False])
@pytest.mark.parametrize("lead", [b"", b"\xef\xbb\xbf", b" \t\r\n"])
def test_entries_are_those_of_the_list(indent, ascii, lead):
    data = json.dumps(VALUE, ensure_ascii=ascii, indent=indent).encode()
    assert entries(lead + data + b"\n\n") == VALUE


@pytest.mark.parametrize("odd", ['{"score": NaN}', '["\\ud800"]', "[1" + "0" * 400 + "]"])
def test_what_msgspec_declines_and_the_standard_library_reads_is_read(odd):
    assert repr(entries(f"[1, {odd}]".encode())) == repr([1, json.loads(odd)])


@pytest.mark.parametrize(
    ("data", "byte", "what"),
    [
        (b"", 0, "Expecting value"),
        (b'\xef\xbb\xbf {"a": 1', 11, "delimiter"),
        (b"<html>", 0, "Expecting value"),
        (b"[1, 2", 5, "delimiter"),
        (b"[1, 2 3]", 6, "delimiter"),
        (b"[1, ]", 4, "Expecting value"),
        (b"[1] [2]", 4, "Extra data"),
        ('["é", {"a" 1}]'.encode(), 12, "':'"),
        (b'["a", "b', 6, "Unterminated string"),
        (b'["a\nb"]', 3, "control character"),
    ],
)
def test_a_file_that_is_not_whole_is_refused_with_the_byte(data, byte, what):
    with pytest.raises(DatasetError) as caught:
        entries(data)
    message = str(caught.value)
    assert f"list.json is not JSON at byte {byte:,} of {len(data):,} (line " in message
    assert what in message
    assert "\n" not in message


@pytest.mark.parametrize("lead", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("bad", [b"\xff", b"\xc3", b"\xe2\x82"])
def test_bytes_that_are_no_text_are_refused_with_the_byte(lead, bad):
    before = lead + '["é", "'.encode()
    with pytest.raises(DatasetError, match=rf"list\.json is not UTF-8 text at byte {len(before)} "):
        entries(before + bad)


def test_of_bytes_that_are_no_text_in_an_entry_the_entry_is_named():
    with pytest.raises(DatasetError, match="entry 1 is not UTF-8 text at byte 2 of 4"):
        entries(b'[1, "a\xff"]')


@pytest.mark.parametrize("deep", [b"[", b'{"a":'])
def test_brackets_without_end_are_refused(deep):
    with pytest.raises(DatasetError, match=r"list\.json nests brackets too deeply"):
        entries(b"[0, " + deep * 100_000)


def test_a_number_of_thousands_of_digits_is_refused():
    with pytest.raises(DatasetError, match=r"entry 1 cannot be read as JSON: .*digits"):
        entries(b"[0, " + b"9" * 5000 + b"]")


def test_a_file_that_breaks_off_late_does_not_fill_the_memory():
    data = b"[" + b'{"c": [1.5, 2.5, 3.5]}, ' * 50_000
    tracemalloc.start()
    with pytest.raises(DatasetError, match=f"at byte {len(data):,} of"):
        entries(data)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 4 * len(data)
