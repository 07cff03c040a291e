import hashlib
import os
import pickle
import struct
import unicodedata
import zipfile
import zlib

import pytest

from pipeline.crop import PhotoError, read_photo
from pipeline.data_folder import (
    DamagedMemberError,
    DataFolder,
    NoPlainFileError,
    open_archive,
)
from pipeline.errors import DatasetError


def pack(path, members, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in members.items():
            archive.writestr(name, data)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "1.jpg").write_bytes(b"unpacked")
    members = {"a/1.jpg": b"packed", "a/2.jpg": b"two", "b/c/3.json": b"{}"}
    pack(tmp_path / "some.zip", members, zipfile.ZIP_DEFLATED)
    return DataFolder(tmp_path)


def test_a_file_is_read_unpacked_or_else_from_the_zip_that_has_it(folder):
    assert folder.read("a/1.jpg") == b"unpacked"
    assert folder.read("a/2.jpg") == b"two"
    with folder.open("b/c/3.json") as opened:
        assert opened.read(1) == b"{"
    with pytest.raises(FileNotFoundError):
        folder.read("a/4.jpg")


def test_folders_and_names_are_those_of_disk_and_zips_together(folder):
    assert folder.has("a/2.jpg")
    assert not folder.has("a")
    (folder.path / "empty").mkdir()
    names = ("a", "b", "b/c", "c", "empty")
    assert [folder.has_folder(name) for name in names] == [True, True, True, False, True]
    assert [folder.has_entries(name) for name in names] == [True, True, True, False, False]
    assert folder.names("a", ".jpg") == ["1.jpg", "2.jpg"]
    assert folder.names("b", ".json") == []


def test_a_message_names_the_zip_only_where_the_file_is_in_one(folder):
    assert folder.where("a/1.jpg") == f"{folder}/a/1.jpg"
    assert folder.where("a/2.jpg") == f"{folder}/some.zip, a/2.jpg"
    assert folder.where("none") == f"{folder}/none"


def test_a_stamp_changes_with_the_file_wherever_it_lies(folder, tmp_path):
    assert folder.stamp("none") is None
    before = folder.stamp("a/1.jpg"), folder.stamp("a/2.jpg")
    assert before[1][0] == folder.size("a/2.jpg") == 3
    os.utime(tmp_path / "a" / "1.jpg", ns=(1, 1))
    pack(tmp_path / "some.zip", {"a/2.jpg": b"owt"})
    os.utime(tmp_path / "some.zip", ns=(1, 1))
    again = DataFolder(tmp_path)
    assert again.stamp("a/1.jpg") != before[0]
    assert again.stamp("a/2.jpg") != before[1]
    assert again.read("a/2.jpg") == b"owt"


def test_it_may_be_sent_to_a_worker(folder):
    sent = pickle.loads(pickle.dumps(folder))
    assert sent.read("a/2.jpg") == b"two"


def test_a_forked_child_opens_the_zip_anew(folder):
    folder.read("a/2.jpg")
    assert open_archive.cache_info().currsize > 0
    child = os.fork()
    if child == 0:  # no assert in here: the child must end by itself
        os._exit(open_archive.cache_info().currsize)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_two_zips_may_hold_the_same_file_but_not_two_by_one_name(folder, tmp_path):
    pack(tmp_path / "task_2.zip", {"a/2.jpg": b"two", "b/c/3.json": b"[]", "a/1.jpg": b"hidden"})
    again = DataFolder(tmp_path)
    assert again.read("a/2.jpg") == b"two"
    assert again.read("a/1.jpg") == b"unpacked"
    for ask in (again.has, again.read, again.where, lambda f: again.read_input(f, {}, 100)):
        with pytest.raises(DatasetError, match=r"some\.zip and task_2\.zip both hold b/c/3\.json"):
            ask("b/c/3.json")
    assert again.names("b/c", ".json") == ["3.json"]


def test_what_is_no_zip_is_refused_by_name(tmp_path):
    (tmp_path / "photos.zip").write_bytes(b"PK half of it")
    with pytest.raises(DatasetError, match=r"photos\.zip is not a whole zip file"):
        DataFolder(tmp_path).has("a/1.jpg")


def damaged(folder, compression, what):
    """Two photos in a zip, the first one's bytes or header flipped."""
    data = bytes(range(256)) * 8
    pack(folder / "photos.zip", {"a/1.jpg": data, "a/2.jpg": data[::-1]}, compression)
    with zipfile.ZipFile(folder / "photos.zip") as archive:
        first = archive.infolist()[0]
    start = first.header_offset + 30 + len(first.filename)
    at = {"header": range(first.header_offset, first.header_offset + 4)}.get(
        what, range(start + 4, start + first.compress_size - 4)
    )
    whole = bytearray((folder / "photos.zip").read_bytes())
    for i in at:
        whole[i] ^= 0xFF
    (folder / "photos.zip").write_bytes(bytes(whole))
    return data[::-1]


METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)


@pytest.mark.parametrize("what", ["bytes", "header"])
@pytest.mark.parametrize("compression", METHODS)
def test_a_photo_damaged_in_its_zip_costs_that_photo(tmp_path, compression, what):
    second = damaged(tmp_path, compression, what)
    folder = DataFolder(tmp_path)
    with pytest.raises(DamagedMemberError, match=r"photos\.zip, a/1\.jpg is damaged"):
        folder.read("a/1.jpg")
    with pytest.raises(PhotoError) as caught:
        read_photo(folder, "a/1.jpg")
    assert caught.value.reason == "photo_unreadable"
    assert read_photo(folder, "a/2.jpg") == second


def test_an_input_is_hashed_and_one_far_too_large_is_not_read(folder):
    inputs = {}
    assert folder.read_input("a/2.jpg", inputs, 3) == b"two"
    assert inputs == {"a/2.jpg": hashlib.sha256(b"two").hexdigest()}
    with pytest.raises(DatasetError, match=r"some\.zip, a/2\.jpg has 3 bytes, more than 2"):
        folder.read_input("a/2.jpg", inputs, 2)
    with pytest.raises(DatasetError, match="cannot be read: No such file"):
        folder.read_input("a/9.jpg", inputs, 2)


def test_a_link_to_no_zip_or_a_folder_called_one_is_passed_over(folder, tmp_path):
    (tmp_path / "gone.zip").symlink_to(tmp_path / "nowhere")
    (tmp_path / "folder.zip").mkdir()
    assert DataFolder(tmp_path).read("a/2.jpg") == b"two"


def test_a_photo_that_neither_disk_nor_zip_has_is_missing_but_its_folder_must_be_there(tmp_path):
    pack(tmp_path / "photos.zip", {"a/1.jpg": b"x"})
    with pytest.raises(PhotoError) as caught:
        read_photo(DataFolder(tmp_path), "a/9.jpg")
    assert caught.value.reason == "photo_missing"
    with pytest.raises(DatasetError, match=r"folder .*b is gone"):
        read_photo(DataFolder(tmp_path), "b/9.jpg")


def test_a_pipe_is_no_file_and_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "1.jpg")
    folder = DataFolder(tmp_path)
    assert not folder.has("1.jpg")
    assert folder.stamp("1.jpg") is None
    with pytest.raises(NoPlainFileError):
        folder.size("1.jpg")


def test_a_name_that_no_disk_takes_and_a_link_to_itself_are_missing(tmp_path):
    (tmp_path / "loop").symlink_to("loop")
    folder = DataFolder(tmp_path)
    for file in ("x" * 5000, "loop"):
        assert not folder.has(file)
        assert folder.where(file) == str(tmp_path / file)
        with pytest.raises(FileNotFoundError):
            folder.read(file)


def test_a_member_without_a_name_is_passed_over(tmp_path):
    pack(tmp_path / "photos.zip", {"a/1.jpg": b"one", "?": b"two"})
    data = (tmp_path / "photos.zip").read_bytes()
    at = data.rindex(b"?")
    length = at - 46 + 28  # where the list of members says how long its name is
    nameless = data[:length] + b"\0\0" + b"\1\0" + data[length + 4 :]
    (tmp_path / "photos.zip").write_bytes(nameless)
    assert DataFolder(tmp_path).read("a/1.jpg") == b"one"


def test_a_name_that_is_no_text_in_its_own_header_costs_that_photo(tmp_path):
    pack(tmp_path / "photos.zip", {"\u00e9.jpg": b"one"})
    data = (tmp_path / "photos.zip").read_bytes()
    name = "\u00e9.jpg".encode()
    (tmp_path / "photos.zip").write_bytes(data.replace(name, b"\xff" + name[1:], 1))
    with pytest.raises(PhotoError) as caught:
        read_photo(DataFolder(tmp_path), "\u00e9.jpg")
    assert caught.value.reason == "photo_unreadable"


# Names in other forms: what is shown alike is one name

COMPOSED = unicodedata.normalize("NFC", "Fotos-\u00e9t\u00e9/caf\u00e9.jpg")
APART = unicodedata.normalize("NFD", COMPOSED)


@pytest.mark.parametrize(("lies", "asked"), [(COMPOSED, APART), (APART, COMPOSED)])
@pytest.mark.parametrize("packed", [False, True])
def test_a_name_is_found_in_whatever_form_of_unicode_it_lies(tmp_path, lies, asked, packed):
    if packed:
        pack(tmp_path / "some.zip", {lies: b"a photo"})
    else:
        (tmp_path / lies).parent.mkdir()
        (tmp_path / lies).write_bytes(b"a photo")
    folder = DataFolder(tmp_path)
    for name in (lies, asked):
        assert folder.has(name)
        assert folder.read(name) == b"a photo"
        assert folder.stamp(name)[0] == folder.size(name) == 7
        parent, file = name.split("/")
        assert folder.has_folder(parent)
        (found,) = folder.names(parent, ".jpg")
        assert unicodedata.normalize("NFC", found) == unicodedata.normalize("NFC", file)
    assert read_photo(folder, asked) == b"a photo"


@pytest.mark.parametrize(("lies", "asked"), [(COMPOSED, APART), (APART, COMPOSED)])
def test_a_link_that_leads_nowhere_is_found_in_whatever_form_of_unicode_it_lies(
    tmp_path, lies, asked
):
    parent = lies.split("/")[0]
    folder = DataFolder(tmp_path)
    (tmp_path / parent).symlink_to("nowhere")
    for name in (lies, asked):
        assert folder.has_broken_link(name)
        assert folder.has_broken_link(name.split("/")[0])
    (tmp_path / "nowhere").mkdir()
    assert not folder.has_broken_link(asked)


def test_of_two_names_that_show_alike_each_is_read_as_it_is_asked_for(tmp_path):
    for name in (COMPOSED, APART):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text(ascii(name))
    for name in (COMPOSED, APART):
        assert DataFolder(tmp_path).read(name).decode() == ascii(name)


def unsaid(path, name, written, extra=b""):
    """A zip whose member's name is the bytes `written`, without a word that they are UTF-8."""
    stand_in = "x" * len(written)
    member = zipfile.ZipInfo(stand_in)
    member.extra = extra
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(member, b"a photo")
    path.write_bytes(path.read_bytes().replace(stand_in.encode(), written))


@pytest.mark.parametrize("name", [COMPOSED, APART, "\u81ea\u884c\u8f66.jpg", "\u0444\u043e.jpg"])
def test_a_zip_that_does_not_say_that_its_names_are_utf_8_is_read_as_such(tmp_path, name):
    unsaid(tmp_path / "some.zip", name, name.encode())
    assert DataFolder(tmp_path).read(name) == b"a photo"


def test_a_zips_own_record_of_a_name_counts_before_its_bytes_of_an_old_code_page(tmp_path):
    name, written = "\u0444\u043e\u0442\u043e.jpg", "\u0444\u043e\u0442\u043e.jpg".encode("cp866")
    record = b"\1" + struct.pack("<I", zlib.crc32(written)) + name.encode()
    other = struct.pack("<HH", 0x5455, 5) + bytes(5)  # a time
    extra = other + struct.pack("<HH", 0x7075, len(record)) + record
    unsaid(tmp_path / "some.zip", name, written, extra)
    assert DataFolder(tmp_path).read(name) == b"a photo"


def test_a_name_of_an_old_code_page_without_a_record_is_only_missing(tmp_path):
    written = "\u0444\u043e\u0442\u043e.jpg".encode("cp866")
    unsaid(tmp_path / "some.zip", "", written)
    assert not DataFolder(tmp_path).has("\u0444\u043e\u0442\u043e.jpg")
    assert DataFolder(tmp_path).has(written.decode("cp437"))
