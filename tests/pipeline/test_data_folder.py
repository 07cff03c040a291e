import os
import pickle
import zipfile

import pytest

from pipeline.crop import PhotoError, read_photo
from pipeline.data_folder import DamagedMemberError, DataFolder
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
    assert [folder.has_folder(name) for name in ("a", "b", "b/c", "c")] == [True, True, True, False]
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


def test_a_forked_child_reads_through_a_handle_of_its_own(folder, tmp_path):
    folder.read("a/2.jpg")
    child = os.fork()
    if child == 0:  # no assert in here: the child must end by itself
        os._exit(0 if DataFolder(tmp_path).read("b/c/3.json") == b"{}" else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert folder.read("a/2.jpg") == b"two"


def test_what_is_no_zip_is_refused_by_name(tmp_path):
    (tmp_path / "photos.zip").write_bytes(b"PK half of it")
    with pytest.raises(DatasetError, match=r"photos\.zip is not a whole zip file"):
        DataFolder(tmp_path).has("a/1.jpg")


def damage(path, data):
    """Change the first byte of a stored member, leaving its checksum."""
    whole = bytearray(path.read_bytes())
    whole[whole.index(data)] ^= 1
    path.write_bytes(bytes(whole))


def test_a_photo_damaged_in_its_zip_costs_that_photo(tmp_path):
    pack(tmp_path / "photos.zip", {"a/1.jpg": b"the first", "a/2.jpg": b"the second"})
    damage(tmp_path / "photos.zip", b"the first")
    folder = DataFolder(tmp_path)
    with pytest.raises(DamagedMemberError, match=r"photos\.zip, a/1\.jpg is damaged"):
        folder.read("a/1.jpg")
    with pytest.raises(PhotoError) as caught:
        read_photo(folder, "a/1.jpg")
    assert caught.value.reason == "photo_unreadable"
    assert read_photo(folder, "a/2.jpg") == b"the second"


def test_a_photo_that_neither_disk_nor_zip_has_is_missing_but_its_folder_must_be_there(tmp_path):
    pack(tmp_path / "photos.zip", {"a/1.jpg": b"x"})
    with pytest.raises(PhotoError) as caught:
        read_photo(DataFolder(tmp_path), "a/9.jpg")
    assert caught.value.reason == "photo_missing"
    with pytest.raises(DatasetError, match=r"folder .*b is gone"):
        read_photo(DataFolder(tmp_path), "b/9.jpg")
