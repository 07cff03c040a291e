import os
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import simplejpeg

from jobs.stages.attempts import DeadlyPhoto, attempt, deadly_photos
from jobs.stages.cutting import CropRecipe
from pipeline.plan import Shard, write_plan
from pipeline.scene import AnnotatedObject, AnnotatedPhoto, Photo

KILLER = """
import os, signal, simplejpeg

decode = simplejpeg.decode_jpeg

def decode_or_die(data, *args, **kwargs):
    for name in ("SIGSEGV", "SIGKILL", "SIGTERM"):
        if name.encode() in data:
            os.kill(os.getpid(), getattr(signal, name))
    if b"error" in data:
        raise RuntimeError("of this process, not its death")
    return decode(data, *args, **kwargs)

simplejpeg.decode_jpeg = decode_or_die
"""


@pytest.fixture
def shard(tmp_path, monkeypatch):
    """Five photos, of which 2 and 4 are deadly; what `deadly_photos` is told of them."""
    photos = []
    for image_id, end in enumerate((b"error", b"", b"SIGSEGV", b"SIGTERM", b"SIGKILL")):
        pixels = np.random.default_rng(image_id).integers(0, 256, (16, 16, 3), np.uint8)
        jpeg = simplejpeg.encode_jpeg(pixels, colorspace="RGB")
        (tmp_path / f"{image_id}.jpg").write_bytes(jpeg + end)
        photo = Photo(image_id, f"{image_id}.jpg", 16, 16, "train", "", "")
        photos.append(AnnotatedPhoto(photo, (AnnotatedObject(0, "cat", (1, 1, 9, 9), None),)))
    write_plan(tmp_path / "plan.json", Shard("train-00000", tuple(photos)))
    (tmp_path / "code").mkdir()
    (tmp_path / "code/sitecustomize.py").write_text(KILLER)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "code"))
    return tmp_path / "plan.json", tmp_path, asdict(CropRecipe(8, 8, "torch"))


@pytest.fixture
def note(tmp_path):
    return tmp_path / "attempts" / "train-00000"


def test_an_attempt_says_what_it_has_in_hand_and_leaves_nothing(note):
    with attempt(note) as begin:
        for image_id in (123456789, 7):
            begin(image_id)
            assert int(note.read_text()) == image_id
    assert not note.exists()


def test_an_error_is_no_death(note):
    def fail():
        with attempt(note) as begin:
            begin(1)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert not note.exists()


def test_a_process_that_dies_leaves_its_note(note):
    if child := os.fork():
        os.waitpid(child, 0)
    else:
        with attempt(note) as begin:
            begin(5)
            os._exit(1)
    assert int(note.read_text()) == 5


def test_a_deadly_suspect_brings_all_others_to_light(note, shard):
    note.parent.mkdir()
    note.write_text("4")
    assert deadly_photos(note, *shard) == (
        DeadlyPhoto(4, "4.jpg", "SIGKILL"),
        DeadlyPhoto(2, "2.jpg", "SIGSEGV"),
    )


@pytest.mark.parametrize("said", ["0", "3", "99", "", "no number"])
def test_nothing_is_proven_against_other_photos(note, shard, said):
    note.parent.mkdir()
    note.write_text(said)
    assert deadly_photos(note, *shard) == ()


def test_without_a_note_nothing_is_tried(note, shard, monkeypatch):
    monkeypatch.setattr("jobs.stages.attempts.subprocess", None)
    assert deadly_photos(note, Path("nowhere"), *shard[1:]) == ()
