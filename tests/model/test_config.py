"""Recipes, and what is refused before anything starts."""

import json
import math
from dataclasses import replace

import pytest

from model.config import MAY_BE_ZERO, ExecutionConfig, RetrieveGANConfig, flags_of, from_json
from model.recipes import RECIPES, sg2im, sg2im_demo
from model.sg2im.network import Sg2Im
from pipeline.errors import UserError
from pipeline.options import to_json
from pipeline.scene import GEOMETRIC, IMAGE, IN_IMAGE, Vocabulary


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_config_comes_back_from_its_json_as_what_it_was(recipe):
    config = RECIPES[recipe]()
    assert config.recipe == recipe
    assert from_json(json.loads(json.dumps(to_json(config)))) == config


def test_a_recipe_of_ones_own_is_a_retrievegans():
    value = to_json(RECIPES["demo"]()) | {"recipe": "of my own"}
    assert isinstance(from_json(value), RetrieveGANConfig)
    del value["decay_from"], value["execution"]  # a field with a default may be left out
    assert from_json(value).decay_from == 1.0


def test_an_unknown_key_is_refused_with_what_to_do():
    with pytest.raises(UserError, match=r"retrieval has 'temprature'.*train it again"):
        from_json({"retrieval": {"temprature": 1.0}})


def test_only_the_paper_recipe_may_give_a_scene_the_same_patch_twice():
    allowed = {
        name: flags_of(recipe()).get("--retrieval.same-patch-allowed")
        for name, recipe in RECIPES.items()
    }
    assert allowed == {"paper": True, "demo": False, "sg2im": None, "sg2im-demo": None}


def test_a_key_of_another_kind_of_run_is_refused():
    with pytest.raises(UserError, match="'retrieval'"):
        from_json({"recipe": "sg2im", "retrieval": {}})


def test_the_sg2im_recipe_has_the_published_rules():
    config = sg2im()
    assert (config.batch_size, config.steps, config.eval_after) == (32, 1_000_000, 100_000)
    assert (config.lr_generator, config.lr_discriminator) == (1e-4, 1e-4)
    assert config.betas == (0.9, 0.999)
    assert config.decay_from == 1  # never
    assert to_json(config.losses) == {
        "pixels": 1.0, "boxes": 10.0, "masks": 0.0, "adversarial_image": 0.01,
        "adversarial_object": 0.01, "object_class": 0.1,
    }  # fmt: skip
    assert config.sizes == {
        "embedding": 128, "hidden": 512, "layers": 5, "masks": True, "image_px": 128,
        "noise": 32, "decoder": (1024, 512, 256, 128, 64),
    }  # fmt: skip
    assert config.discriminator.object_px == 32
    assert config.discriminator.object_hidden == 1024


def test_the_sg2im_demo_has_under_a_million_parameters():
    vocabulary = Vocabulary((IMAGE, *map(str, range(183))), (IN_IMAGE, *GEOMETRIC))
    network = Sg2Im(vocabulary, **sg2im_demo().sizes)
    assert sum(p.numel() for p in network.parameters()) < 1_000_000


@pytest.mark.parametrize(
    ("recipe", "side", "factor"),
    [("sg2im", 48, 32), ("paper", 40, 16), ("demo", 12, 8)],
)
def test_a_side_that_the_decoder_cannot_double_up_to_is_refused(recipe, side, factor):
    assert replace(RECIPES[recipe](), image_px=64).image_px == 64
    with pytest.raises(ValueError, match=f"--image-px must be a multiple of {factor}"):
        replace(RECIPES[recipe](), image_px=side)


@pytest.mark.parametrize(("recipe", "least"), [("sg2im", 22), ("paper", 8)])
def test_a_side_too_small_for_the_discriminator_is_refused(recipe, least):
    """Of three layers. sg2im's have no padding."""
    config = RECIPES[recipe]()
    for part in ("image_channels", "object_channels"):
        assert len(getattr(config.discriminator, part)) == 3
    replace(config, discriminator=replace(config.discriminator, object_px=least))
    with pytest.raises(ValueError, match=f"object-px {least - 1} is too small: .* 3 layers halves"):
        replace(config, discriminator=replace(config.discriminator, object_px=least - 1))
    with pytest.raises(ValueError, match=r"--image-px 128 is too small: .* 9 layers"):
        replace(config, discriminator=replace(config.discriminator, image_channels=(4,) * 9))


@pytest.mark.parametrize(
    ("part", "field", "value", "said"),
    [
        (None, "steps", 0, "--steps must be at least 1, not 0"),
        (None, "batch_size", -2, "--batch-size must be at least 1, not -2"),
        (None, "seed", -1, "--seed must be at least 0, not -1"),
        (None, "lr_generator", math.nan, "--lr-generator must be 0 or more, not nan"),
        (None, "betas", (0.5, 1.0), "--betas must be below 1, not 1.0"),
        (None, "decay_from", 1.5, "--decay-from is a fraction of the steps, not 1.5"),
        ("execution", "grid_every", 0, "--grid-every must be at least 1, not 0"),
        ("execution", "loader_workers", -1, "--loader-workers must be at least 0, not -1"),
        ("losses", "gt_selection", -1.0, "--losses.gt-selection must be 0 or more, not -1.0"),
        ("retrieval", "candidates", 0, "--retrieval.candidates must be at least 1, not 0"),
        ("retrieval", "temperature", 0.0, "--retrieval.temperature must be above 0"),
        ("discriminator", "object_px", 1, "--discriminator.object-px 1 is too small.*"),
        ("generator", "decoder", (), "--generator.decoder needs at least one number"),
        ("generator", "decoder", (8, 0), "--generator.decoder must be at least 1, not 0"),
    ],
)
def test_a_number_that_makes_no_sense_is_refused_by_its_flag(part, field, value, said):
    config = RECIPES["demo"]()
    changed = {field: value}
    if part is not None:
        changed = {part: replace(getattr(config, part), **changed)}
    with pytest.raises(ValueError, match=f"^{said}$"):
        replace(config, **changed)


def test_none_may_be_asked_for_where_there_may_be_none():
    replace(RECIPES["demo"](), seed=0, execution=ExecutionConfig(loader_workers=0))
    assert flags_of(RECIPES["demo"]()).keys() | flags_of(sg2im()).keys() >= set(MAY_BE_ZERO)
