import os
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import simplejpeg

from bank.errors import BankError
from jobs.stages import attempts
from jobs.stages.attempts import CrashingPhoto, attempt, crashing_photos
from jobs.stages.cutting import CropOptions
from pipeline.plan import Shard, write_plan
from pipeline.scene import AnnotatedObject, AnnotatedPhoto, Photo

CRASHER = """
import os, signal, simplejpeg

decode = simplejpeg.decode_jpeg

def decode_or_crash(data, *args, **kwargs):
    for name in ("SIGSEGV", "SIGKILL", "SIGTERM"):
        if name.encode() in data:
            os.kill(os.getpid(), getattr(signal, name))
    if b"error" in data:
        raise RuntimeError("an error, not a crash")
    return decode(data, *args, **kwargs)

simplejpeg.decode_jpeg = decode_or_crash
"""


@pytest.fixture
def shard(tmp_path, monkeypatch):
    """Five photos, of which 2 and 4 crash; the arguments of `crashing_photos`."""
    photos = []
    for image_id, end in enumerate((b"error", b"", b"SIGSEGV", b"SIGTERM", b"SIGKILL")):
        pixels = np.random.default_rng(image_id).integers(0, 256, (16, 16, 3), np.uint8)
        jpeg = simplejpeg.encode_jpeg(pixels, colorspace="RGB")
        (tmp_path / f"{image_id}.jpg").write_bytes(jpeg + end)
        photo = Photo(image_id, f"{image_id}.jpg", 16, 16, "train", "", "")
        photos.append(AnnotatedPhoto(photo, (AnnotatedObject(0, "cat", (1, 1, 9, 9), None),)))
    write_plan(tmp_path / "plan.json", Shard("train-00000", tuple(photos)))
    (tmp_path / "code").mkdir()
    (tmp_path / "code/sitecustomize.py").write_text(CRASHER)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "code"))
    return tmp_path / "plan.json", tmp_path, asdict(CropOptions(8, 8, "pillow"))


@pytest.fixture
def note(tmp_path):
    return tmp_path / "attempts" / "train-00000"


def test_an_attempt_says_which_photo_it_is_cutting_and_leaves_nothing(note):
    with attempt(note) as begin:
        for image_id in (123456789, 7):
            begin(image_id)
            assert int(note.read_text()) == image_id
    assert not note.exists()


def test_an_error_is_no_crash(note):
    def fail():
        with attempt(note) as begin:
            begin(1)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert not note.exists()


def test_a_process_that_crashes_leaves_its_note(note):
    if child := os.fork():
        os.waitpid(child, 0)
    else:
        with attempt(note) as begin:
            begin(5)
            os._exit(1)
    assert int(note.read_text()) == 5


def test_where_one_photo_crashes_all_others_are_tried(note, shard):
    note.parent.mkdir()
    note.write_text("4")
    assert crashing_photos(note, *shard) == (
        CrashingPhoto(4, "4.jpg", "SIGKILL"),
        CrashingPhoto(2, "2.jpg", "SIGSEGV"),
    )


@pytest.mark.parametrize("text", ["0", "3", "99", "", "no number"])
def test_other_photos_are_not_named(note, shard, text):
    note.parent.mkdir()
    note.write_text(text)
    assert crashing_photos(note, *shard) == ()


def test_without_a_note_nothing_is_tried(note, shard, monkeypatch):
    monkeypatch.setattr("jobs.stages.attempts.subprocess", None)
    assert crashing_photos(note, Path("nowhere"), *shard[1:]) == ()


def test_a_probe_that_cannot_be_found_is_an_error_and_no_proof(note, shard, monkeypatch):
    note.parent.mkdir()
    note.write_text("4")
    monkeypatch.setattr(attempts, "PROBE", "bank.probe")  # where it lay once
    with pytest.raises(
        BankError, match=r"-m bank\.probe` does not start .*No module named"
    ) as caught:
        crashing_photos(note, *shard)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("code", "ending"),
    [
        (
            "raise ImportError('libturbo is gone')",
            r"does not start \(exit code 1: ImportError: libturbo is gone\); mend that",
        ),
        (
            "import os; os.abort()",
            r"was killed before its first photo \(SIGABRT: it printed nothing\); ",
        ),
        (
            "import os; os.kill(os.getpid(), 9)",
            r"\(SIGKILL: it printed nothing\); SIGKILL mostly means too little memory",
        ),
    ],
)
def test_a_probe_that_cannot_import_its_packages_is_an_error(note, shard, tmp_path, code, ending):
    note.parent.mkdir()
    note.write_text("4")
    (tmp_path / "code/sitecustomize.py").unlink()
    (tmp_path / "code/msgspec.py").write_text(code)
    with pytest.raises(BankError, match=ending):
        crashing_photos(note, *shard)


def test_a_probe_that_is_stopped_from_outside_proves_nothing(note, shard, tmp_path):
    note.parent.mkdir()
    note.write_text("4")
    (tmp_path / "code/sitecustomize.py").write_text("import os; os.kill(os.getpid(), 15)")
    assert crashing_photos(note, *shard) == ()


@pytest.mark.parametrize("end", ["os._exit(3)", "os.kill(os.getpid(), 9)"])
def test_a_proof_is_kept_where_later_probes_do_not_start(note, shard, tmp_path, end):
    note.parent.mkdir()
    note.write_text("4")
    started = tmp_path / "started"
    code = f"import os, pathlib\nstarted = pathlib.Path({str(started)!r})\n"
    code += f"if started.exists():\n    {end}\nstarted.touch()\n"
    (tmp_path / "code/sitecustomize.py").write_text(code + CRASHER)
    assert crashing_photos(note, *shard) == (CrashingPhoto(4, "4.jpg", "SIGKILL"),)


def test_a_probe_that_begins_and_then_exits_with_an_error_proves_nothing(note, shard, tmp_path):
    note.parent.mkdir()
    note.write_text("4")
    exits = CRASHER.replace("os.kill(os.getpid(), getattr(signal, name))", "os._exit(3)")
    (tmp_path / "code/sitecustomize.py").write_text(exits)
    assert crashing_photos(note, *shard) == ()
