import numpy as np
import PIL
import pytest

from pipeline import codec, crop


@pytest.fixture(autouse=True)
def _asked_anew():
    codec.answers.cache_clear()
    yield
    codec.answers.cache_clear()


def test_the_pinned_packages_answer_as_they_should():
    assert codec.answers() == codec.KNOWN_ANSWERS


def test_torch_and_pillow_resize_differently_so_that_one_cannot_pass_for_the_other():
    assert len(set(codec.KNOWN_ANSWERS.values())) == len(codec.KNOWN_ANSWERS)


@pytest.mark.parametrize("name", ["JPEG", "CMYK JPEG"])
def test_a_decoder_that_is_off_by_one_in_one_pixel_is_noticed(monkeypatch, name):
    decode = {"JPEG": "_decode_jpeg", "CMYK JPEG": "_decode_other"}[name]
    right = getattr(crop, decode)

    def wrong(data, size_wh):
        pixels = np.array(right(data, size_wh))
        pixels[-1, -1, -1] ^= 1
        return pixels

    monkeypatch.setattr(crop, decode, wrong)
    assert name in codec.differing(codec.answers(), codec.KNOWN_ANSWERS)


def test_answers_that_only_one_side_has_are_no_difference():
    assert codec.differing({"JPEG": "a", "new": "b"}, {"JPEG": "a"}) == []
    assert codec.differing({"JPEG": "a"}, {"JPEG": "b"}) == ["JPEG"]


def test_the_pillow_that_runs_is_named_not_the_one_that_pip_remembers(monkeypatch):
    assert codec.pillow() == ("pillow", PIL.__version__)
    monkeypatch.setattr(PIL, "__version__", "9.5.0.post2")
    assert codec.pillow() == ("pillow-simd", "9.5.0.post2")
    assert codec.versions()["pillow-simd"] == "9.5.0.post2"
    assert "pillow" not in codec.versions()


def test_versions_name_what_decides_bytes():
    assert {"python", "numpy", "torch", "simplejpeg", "lmdb", "libjpeg of pillow"} <= set(
        codec.versions()
    )


def test_the_machine_says_which_instructions_torch_uses():
    assert set(codec.machine()) == {"processor", "instructions", "system"}
