"""Files of weights are known by their SHA-256; what is missing is said in one line."""

import hashlib
import sys
import urllib.error

import pytest
import torch

from model.scores import dinov2
from model.scores.dinov2 import DinoV2, read
from model.scores.weights import FOLDER, Published, digest, library, pinned
from pipeline.errors import UserError

CONTENT = b"some weights"
SHA256 = hashlib.sha256(CONTENT).hexdigest()
FILE = Published(("net-0a1b2c3d.pth", "other-name.pth"), "https://host/net-0a1b2c3d.pth", SHA256)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """An empty folder of torch.hub, and no folder named by the environment."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    monkeypatch.delenv(FOLDER, raising=False)
    return tmp_path / "hub/checkpoints"


def written(path, content=CONTENT):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def test_another_sha256_is_refused_with_both_and_the_file(tmp_path):
    file = written(tmp_path / "a.pth", b"other weights")
    with pytest.raises(UserError) as error:
        pinned(file, SHA256)
    other = hashlib.sha256(b"other weights").hexdigest()
    assert all(part in str(error.value) for part in (str(file), SHA256, other))
    assert "\n" not in str(error.value)
    assert pinned(written(file), SHA256) == (file, SHA256)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(UserError, match=r"a\.pth is no file; name the file with the weights"):
        digest(tmp_path / "a.pth")


@pytest.mark.parametrize("name", FILE.names)
def test_published_weights_are_found_by_their_names_where_one_is_told_to_look(
    tmp_path, hub, monkeypatch, name
):
    named, environment = written(tmp_path / "named" / name), written(tmp_path / "env" / name)
    downloaded = written(hub / name)
    assert FILE.find(named) == named
    assert FILE.find(named.parent) == named
    assert FILE.find(None) == downloaded
    monkeypatch.setenv(FOLDER, str(environment.parent))
    assert FILE.find(None) == environment


def test_a_folder_without_the_file_is_told_which_to_put_there(tmp_path, hub):
    written(hub / FILE.names[0])
    with pytest.raises(UserError, match=r"has no net-0a1b2c3d\.pth; put it there, from https://"):
        FILE.find(tmp_path)


def test_without_a_network_one_line_says_which_file_to_put_where(hub, monkeypatch):
    def unreachable(*_):
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr(torch.hub, "download_url_to_file", unreachable)
    with pytest.raises(UserError) as error:
        FILE.find(None)
    assert str(error.value) == (
        "net-0a1b2c3d.pth is not on this machine and cannot be fetched from "
        "https://host/net-0a1b2c3d.pth (<urlopen error no route to host>); put it into a folder, "
        "and let RETRIEVEGAN_WEIGHTS name that folder"
    )


def test_what_is_fetched_is_checked_by_its_whole_sha256(hub, monkeypatch):
    def fetch(address, file, hash_prefix):
        assert (address, hash_prefix) == (FILE.address, SHA256)
        written(hub / "net-0a1b2c3d.pth")

    monkeypatch.setattr(torch.hub, "download_url_to_file", fetch)
    assert FILE.open(None) == (hub / "net-0a1b2c3d.pth", SHA256)


def test_other_weights_are_taken_unless_they_have_a_published_name(tmp_path):
    other = hashlib.sha256(b"other").hexdigest()
    assert FILE.open(written(tmp_path / "mine.pth", b"other")).sha256 == other
    with pytest.raises(UserError, match="was expected"):
        FILE.open(written(tmp_path / FILE.names[1], b"other"))


def test_a_missing_library_is_told_with_the_extra_that_has_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(UserError, match=r"h5py is not .*: pip install '\.\[scores\]'"):
        library("h5py", "scores")
    assert library("json", "scores").loads("1") == 1


def test_a_file_with_other_weights_is_told_in_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(dinov2, "DinoV2", lambda: DinoV2(8, 1, 1))
    for content in (b"", b"no weights"):
        file = written(tmp_path / "a.pth", content)
        with pytest.raises(UserError, match=r"a\.pth does not hold the weights of DINOv2") as error:
            read(file)
        assert "\n" not in str(error.value)
    torch.save({"mask_token": torch.zeros(1), "other": torch.zeros(1)}, file)
    with pytest.raises(UserError, match=r"\(Error\(s\) in loading state_dict .*; name the right"):
        read(file)


def test_what_an_installed_library_lacks_itself_is_not_mended_by_our_extra(tmp_path, monkeypatch):
    (tmp_path / "lacks_something.py").write_text("import something_else")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="something_else"):
        library("lacks_something", "scores")
