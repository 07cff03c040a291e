import hashlib
import json
import random
import tracemalloc
import zipfile

import pytest

from pipeline import json_stream
from pipeline.data_folder import DataFolder
from pipeline.errors import DatasetError
from pipeline.json_stream import JsonList


def entries(folder, data):
    (folder / "list.json").write_bytes(data)
    return list(JsonList(DataFolder(folder), "list.json"))


@pytest.mark.parametrize("chunk_bytes", [1, 2, 3, 7, 1 << 20])
@pytest.mark.parametrize("indent", [None, 2])
def test_entries_come_whole_however_the_file_is_cut_into_chunks(
    tmp_path, monkeypatch, chunk_bytes, indent
):
    monkeypatch.setattr(json_stream, "CHUNK_BYTES", chunk_bytes)
    value = [{"é€𝄞": [1, -2.5e3, 'a,]}\\"']}, 12345, [], {}, "x", None, True, [[["]"]]], 1.5]
    data = json.dumps(value, ensure_ascii=False, indent=indent).encode("utf-8")
    for lead, trail in ((b"", b""), (b"\xef\xbb\xbf", b"\n\n"), (b" \t\r\n", b" ")):
        assert entries(tmp_path, lead + data + trail) == value
    assert entries(tmp_path, b"[]") == []
    assert entries(tmp_path, b" [ ] ") == []


def test_the_hash_is_that_of_all_bytes_also_of_those_after_the_list(tmp_path):
    data = b"\xef\xbb\xbf" + json.dumps(list(range(5000))).encode() + b"  \n" * 400_000
    (tmp_path / "list.json").write_bytes(data)
    listed = JsonList(DataFolder(tmp_path), "list.json")
    assert sum(listed) == 5000 * 4999 // 2
    assert listed.sha256 == hashlib.sha256(data).hexdigest()


def test_a_list_in_a_zip_is_the_same_list(tmp_path):
    value = [random.Random(0).random() for _ in range(9000)]
    data = json.dumps(value).encode()
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("list.json", data)
    listed = JsonList(DataFolder(tmp_path), "list.json")
    assert list(listed) == value
    assert listed.sha256 == hashlib.sha256(data).hexdigest()


def test_a_damaged_zip_is_said_to_be_so(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as packed:
        packed.writestr("list.json", b"[1, 2, 3333]")
    data = (tmp_path / "a.zip").read_bytes()
    (tmp_path / "a.zip").write_bytes(data.replace(b"3333", b"3334"))
    with pytest.raises(DatasetError, match=r"a\.zip, list\.json is damaged .*CRC"):
        list(JsonList(DataFolder(tmp_path), "list.json"))


@pytest.mark.parametrize("chunk_bytes", [1, 5, 1 << 20])
@pytest.mark.parametrize(
    ("data", "byte", "what"),
    [
        (b"", 0, "a list should begin, but there is the end of the file"),
        (b'\xef\xbb\xbf {"a": 1}', 4, "a list should begin, but there is '{'"),
        (b"<html>", 0, "but there is '<'"),
        (b"[1, 2", 5, "but there is the end of the file"),
        (b"[1, 2 3]", 6, "a comma or the list's end should be, but there is '3'"),
        (b"[1, ]", 4, "Expecting value"),
        (b"[1] [2]", 4, "more after the end"),
        ('["é", {"a" 1}]'.encode(), 12, "':'"),
        (b'["a", "b', 6, "Unterminated string"),
        (b'["a", {"b": 1', 13, "delimiter"),
        (b"[1, [NaN]]", 4, "NaN is no number"),
        (b"[1, -Infinity]", 4, "-Infinity is no number"),
        (b'["a\nb"]', 3, "control character"),
        (b"[0, " + b"[" * 100_000, 4, "nest too deeply"),
        (b"[0, " + b'{"a":' * 100_000, 4, "nest too deeply"),
        (b"[0, " + b"9" * 5000 + b"]", 4, "in the entry that begins here"),
    ],
)
def test_a_file_that_is_no_whole_list_is_refused_with_the_byte(
    tmp_path, monkeypatch, chunk_bytes, data, byte, what
):
    if len(data) > 100:
        chunk_bytes = max(chunk_bytes, 4096)
    monkeypatch.setattr(json_stream, "CHUNK_BYTES", chunk_bytes)
    with pytest.raises(DatasetError) as caught:
        entries(tmp_path, data)
    message = str(caught.value)
    assert f"list.json is not a whole JSON list at byte {byte:,} of {len(data):,}: " in message
    assert what in message
    assert "\n" not in message


@pytest.mark.parametrize("chunk_bytes", [1, 3, 1 << 20])
@pytest.mark.parametrize("lead", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("bad", [b"\xff", b"\xc3", b"\xe2\x82"])
def test_bytes_that_are_no_text_are_refused_with_the_byte(
    tmp_path, monkeypatch, chunk_bytes, lead, bad
):
    monkeypatch.setattr(json_stream, "CHUNK_BYTES", chunk_bytes)
    before = lead + '["é", "'.encode()
    for data in (before + bad + b'"]', before + bad):
        with pytest.raises(DatasetError, match=rf"not UTF-8 text at byte {len(before)} of"):
            entries(tmp_path, data)


def test_a_broken_spot_is_found_without_reading_the_whole_file(tmp_path, monkeypatch):
    monkeypatch.setattr(json_stream, "CHUNK_BYTES", 1 << 10)
    monkeypatch.setattr(json_stream, "MOST_ENTRY", 1 << 14)
    data = b'[{"a": 1}, {"b": oops}' + b', {"c": [1, 2, 3]}' * 50_000 + b"]"
    tracemalloc.start()
    with pytest.raises(DatasetError, match=r"at byte 17 of"):
        entries(tmp_path, data)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < len(data) / 4


def test_a_long_list_needs_little_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(json_stream, "CHUNK_BYTES", 1 << 12)
    (tmp_path / "list.json").write_bytes(b"[" + b'"' + b'some entry", "' * 100_000 + b'last"]')
    tracemalloc.start()
    assert sum(1 for _ in JsonList(DataFolder(tmp_path), "list.json")) == 100_001
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 200_000


def test_a_file_that_is_not_there_is_said_to_be_so(tmp_path):
    (tmp_path / "list.json").mkdir()
    with pytest.raises(DatasetError, match=r"list\.json cannot be read: "):
        list(JsonList(DataFolder(tmp_path), "list.json"))
