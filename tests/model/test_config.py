"""Recipes, the flags that change them, and what is refused before anything starts."""

import json

import pytest

from model.config import RetrieveGANConfig, Sg2ImConfig, from_json
from model.recipes import RECIPES, sg2im, sg2im_demo
from model.sg2im.network import Sg2Im
from model.train import TrainOptions, configure
from pipeline.errors import UserError
from pipeline.options import to_json
from pipeline.scene import GEOMETRIC, IMAGE, IN_IMAGE, Vocabulary

RETRIEVAL = [
    {"retrieval": "random"},
    {"relaxation": "soft"},
    {"start": "best"},
    {"gt_in_candidates": True},
    {"same_patch_allowed": True},
]


def options(tmp_path, **given):
    return TrainOptions(bank=tmp_path, **given)


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_config_comes_back_from_its_json_as_what_it_was(recipe):
    config = RECIPES[recipe]()
    assert config.recipe == recipe
    assert from_json(json.loads(json.dumps(to_json(config)))) == config


def test_a_config_of_before_there_were_other_networks_is_a_retrievegans():
    old = {
        "recipe": "demo", "image_px": 64, "batch": 12, "steps": 500, "lr_generator": 2e-3,
        "lr_discriminator": 1e-3, "betas": [0.5, 0.99], "decay_from": 0.4, "seed": 0,
        "workers": 0, "grid_every": 100, "checkpoint_every": 250,
        "graph": {"width": 48, "hidden": 96, "layers": 3},
        "retrieval": {
            "mode": "learned", "candidates": 6, "patch_px": 32, "channels": [24, 48, 96],
            "width": 32, "temperature": 1.0, "relaxation": "straight-through", "start": "random",
            "gt_in_candidates": False,
        },
        "generator": {
            "patch_px": 32, "crop_channels": [24, 48], "crop_width": 32, "refine_layers": 1,
            "refine_hidden": 48, "canvas_px": 32, "canvas_width": 48, "residual_blocks": 1,
            "decoder": [64, 64, 48, 24],
        },
        "discriminator": {
            "image_channels": [16, 32, 64], "object_channels": [16, 32, 64],
            "object_hidden": 64, "object_px": 16,
        },
        "losses": {
            "gt_selection": 1.0, "cooccurrence": 0.001, "adversarial_image": 0.01,
            "adversarial_object": 0.01, "reconstruction": 1.0, "boxes": 10.0,
            "object_class": 0.02,
        },
    }  # fmt: skip
    assert from_json(old) == RECIPES["demo"]()
    assert isinstance(from_json({"recipe": "of my own", "steps": 3}), RetrieveGANConfig)
    assert isinstance(from_json({"steps": 3}), RetrieveGANConfig)


def test_an_unknown_key_is_refused_with_what_to_do():
    with pytest.raises(UserError, match=r"retrieval has 'temprature'.*train it again"):
        from_json({"retrieval": {"temprature": 1.0}})


def test_only_the_paper_recipe_may_give_a_scene_the_same_patch_twice(tmp_path):
    allowed = {
        name: configure(options(tmp_path, recipe=name)).retrieval.same_patch_allowed
        for name in ("paper", "demo")
    }
    assert allowed == {"paper": True, "demo": False}
    given = configure(options(tmp_path, recipe="paper", same_patch_allowed=False))
    assert not given.retrieval.same_patch_allowed


def test_a_key_of_another_kind_of_run_is_refused():
    with pytest.raises(UserError, match="'retrieval'"):
        from_json({"recipe": "sg2im", "retrieval": {}})


def test_the_sg2im_recipe_has_the_published_rules():
    config = sg2im()
    assert (config.batch, config.steps, config.eval_after) == (32, 1_000_000, 100_000)
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


@pytest.mark.parametrize("recipe", ["paper", "demo", "sg2im", "sg2im-demo"])
def test_the_image_size_can_be_given(tmp_path, recipe):
    assert configure(options(tmp_path, recipe=recipe, image_size=64)).image_px == 64
    assert configure(options(tmp_path, recipe=recipe)).image_px == RECIPES[recipe]().image_px


@pytest.mark.parametrize(
    ("recipe", "side", "factor"),
    [("sg2im", 48, 32), ("sg2im", 0, 32), ("sg2im", -64, 32), ("paper", 40, 16), ("demo", 12, 8)],
)
def test_a_side_that_the_decoder_cannot_double_up_to_is_refused(tmp_path, recipe, side, factor):
    with pytest.raises(ValueError, match=f"--image-size must be a multiple of {factor}"):
        options(tmp_path, recipe=recipe, image_size=side)


def test_a_side_too_small_for_the_discriminator_is_refused():
    with pytest.raises(ValueError, match="crop of 16 px is too small for recipe sg2im"):
        Sg2ImConfig(discriminator=RECIPES["demo"]().discriminator)


@pytest.mark.parametrize("recipe", ["sg2im", "sg2im-demo"])
@pytest.mark.parametrize("given", RETRIEVAL)
def test_retrieval_flags_do_not_go_with_a_recipe_that_retrieves_nothing(tmp_path, recipe, given):
    flag = next(iter(given)).replace("_", "-")
    with pytest.raises(ValueError, match=f"--{flag} does not go with recipe {recipe}, which"):
        options(tmp_path, recipe=recipe, **given)


def test_a_mask_loss_goes_with_sg2im_alone(tmp_path):
    assert configure(options(tmp_path, recipe="sg2im", mask_loss=0.1)).losses.masks == 0.1
    with pytest.raises(ValueError, match="--mask-loss does not go with recipe paper"):
        options(tmp_path, mask_loss=0.1)
    with pytest.raises(ValueError, match="--mask-loss must be at least 0, not -1"):
        options(tmp_path, recipe="sg2im", mask_loss=-1)


@pytest.mark.parametrize("given", [*RETRIEVAL, {"image_size": 64}, {"mask_loss": 0.1}])
def test_nothing_of_a_run_that_goes_on_can_be_changed(tmp_path, given):
    with pytest.raises(ValueError, match="cannot change in a run that goes on"):
        TrainOptions(resume=tmp_path, **given)
