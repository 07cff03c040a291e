"""Recipes, and what is refused before anything starts."""

import json
import math
from dataclasses import replace

import msgspec
import pytest

from model.config import MAY_BE_ZERO, ExecutionConfig, LossWeights, flags_of, from_json
from model.recipes import RECIPES, demo, paper, sg2im, sg2im_demo
from model.sg2im.network import Sg2Im
from pipeline.errors import UserError
from pipeline.options import to_json
from pipeline.scene import GEOMETRIC, IMAGE, IN_IMAGE, Vocabulary


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_config_comes_back_from_its_json_as_what_it_was(recipe):
    config = RECIPES[recipe]()
    assert config.recipe == recipe
    assert from_json(json.loads(json.dumps(to_json(config)))) == config


def test_a_field_with_a_default_may_be_left_out():
    value = to_json(RECIPES["demo"]())
    del value["decay_from"], value["execution"]
    assert from_json(value).decay_from == 1.0


def test_an_unknown_key_is_refused_with_what_to_do():
    for recipe, part in (("demo", "retrieval"), ("sg2im", "losses")):
        value = to_json(RECIPES[recipe]())
        value[part]["temprature"] = 1.0
        with pytest.raises(UserError, match=rf"{part} has 'temprature'.*train it again"):
            from_json(value)
    with pytest.raises(UserError, match=r"config\.json has 'batch'.*train it again"):
        from_json({"batch": 3})


@pytest.mark.parametrize(
    ("part", "name", "value", "said"),
    [
        (None, "recipe", "of my own", r"'of my own' - at `\$\.recipe`"),
        (None, "steps", "5", r"Expected `int`, got `str` - at `\$\.steps`"),
        (None, "steps", 0, "--steps must be at least 1, not 0"),
        (None, "betas", [0.5], r"length 2, got 1 - at `\$\.betas`"),
        (None, "graph", 3, r"at `\$\.graph`"),
        ("execution", "device", 0, r"at `\$\.execution\.device`"),
        ("retrieval", "mode", "lerned", r"'lerned' - at `\$\.retrieval\.mode`"),
        ("retrieval", "start", None, r"at `\$\.retrieval\.start`"),
        ("generator", "decoder", [8, "8"], r"at `\$\.generator\.decoder\[1\]`"),
    ],
)
def test_a_value_that_its_field_does_not_take_is_refused_with_its_place(part, name, value, said):
    config = to_json(RECIPES["demo"]())
    (config[part] if part else config)[name] = value
    with pytest.raises(msgspec.ValidationError, match=said):
        from_json(config)


def test_a_whole_number_will_do_where_a_fraction_may_stand():
    weights = LossWeights(gt_selection=0, boxes=2)
    config = replace(RECIPES["demo"](), losses=weights, decay_from=1)
    again = from_json(json.loads(json.dumps(to_json(config))))
    assert again == config
    assert type(again.losses.gt_selection) is float


def test_only_the_paper_recipe_may_give_a_scene_the_same_patch_twice():
    allowed = {
        name: flags_of(recipe()).get("--retrieval.same-patch-allowed")
        for name, recipe in RECIPES.items()
    }
    assert allowed == {"paper": True, "demo": False, "sg2im": None, "sg2im-demo": None}


def test_a_key_of_another_kind_of_run_is_refused():
    with pytest.raises(UserError, match="'retrieval'"):
        from_json({"recipe": "sg2im", "retrieval": {}})


def test_the_paper_recipe_has_the_papers_numbers():
    """Section 4.1: Adam, its rates and betas, batches of 16, 90 epochs of the 24,972 photos of
    COCO-Stuff (recalled from the authors' longer paper, not checked). PasteGAN's K = 5, patches,
    decoder and weights of losses. The rest is a choice of ours (README)."""
    config = paper()
    assert (config.image_px, config.batch_size, config.block_shards) == (128, 16, 16)
    assert config.steps == pytest.approx(90 * 24_972 / 16, rel=0.01)
    assert (config.lr_generator, config.lr_discriminator) == (2.5e-4, 1e-3)
    assert config.betas == (0.0, 0.9)
    assert config.decay_from == 1  # never
    assert to_json(config.losses) == {
        "gt_selection": 0.1, "cooccurrence": 1e-3, "adversarial_image": 0.01,
        "adversarial_object": 0.01, "reconstruction": 1.0, "boxes": 10.0, "object_class": 0.0,
    }  # fmt: skip
    assert to_json(config.retrieval) == {
        "mode": "learned", "candidates": 5, "patch_px": 32, "channels": [64, 128, 256, 256],
        "width": 128, "temperature": 1.0, "relaxation": "straight-through", "start": "random",
        "same_patch_allowed": True, "gt_in_candidates": False, "query": "updated",
        "stem_stride": 2, "pooling": "last", "objective": "path", "passes": 1,
        "min_coverage": 0.0, "min_side": 0,
    }  # fmt: skip
    assert to_json(config.graph) == {"width": 128, "hidden": 512, "layers": 5}
    assert config.generator.patch_px == 64
    assert config.generator.decoder == (1024, 512, 256, 128, 64)


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
        (None, "lr_generator", math.nan, "--lr-generator must be 0 or more, and finite, not nan"),
        (None, "lr_generator", math.inf, "--lr-generator must be 0 or more, and finite, not inf"),
        (None, "betas", (-0.5, 0.5), "--betas must be 0 or more, and finite, not -0.5"),
        (None, "betas", (0.5, 1.0), "--betas must be below 1, not 1.0"),
        (None, "decay_from", 1.5, "--decay-from is a fraction of the steps, not 1.5"),
        ("execution", "grid_every", 0, "--grid-every must be at least 1, not 0"),
        ("execution", "loader_workers", -1, "--loader-workers must be at least 0, not -1"),
        ("losses", "gt_selection", -1.0, "--losses.gt-selection must be 0 or more, .* not -1.0"),
        ("losses", "gt_selection", -1, "--losses.gt-selection must be 0 or more, .* not -1"),
        ("retrieval", "candidates", 0, "--retrieval.candidates must be at least 1, not 0"),
        ("retrieval", "temperature", 0.0, "--retrieval.temperature must be above 0"),
        ("retrieval", "min_coverage", 1.5, "--min-coverage is a share of the box, .* not 1.5"),
        ("retrieval", "min_coverage", math.nan, "--retrieval.min-coverage must be .* not nan"),
        ("retrieval", "min_side", -1, "--retrieval.min-side must be at least 0, not -1"),
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


@pytest.mark.parametrize("flag", MAY_BE_ZERO)
def test_none_may_be_asked_for_where_there_may_be_none(flag):
    config = next(c for c in (RECIPES["demo"](), sg2im()) if flag in flags_of(c))
    part, _, name = flag.removeprefix("--").replace("-", "_").rpartition(".")
    part = part or ("execution" if name in ("loader_workers", "log_every", "eval_every") else "")
    changed = {name: 0}
    if part:
        changed = {part: replace(getattr(config, part), **changed)}
    assert flags_of(replace(config, **changed))[flag] == 0


def test_these_are_all_numbers_that_may_be_none():
    assert set(MAY_BE_ZERO) == {
        "--seed", "--loader-workers", "--log-every", "--generator.noise",
        "--generator.refine-layers", "--generator.residual-blocks", "--eval-after", "--eval-every",
        "--retrieval.passes", "--retrieval.min-side",
    }  # fmt: skip


def test_sg2im_has_no_retrieval_to_score():
    with pytest.raises(
        ValueError, match=r"^--eval-every scores retrieval, and sg2im retrieves nothing"
    ):
        replace(sg2im(), execution=ExecutionConfig(eval_every=5))


def test_a_choice_that_cannot_be_made_is_refused_with_what_to_change():
    config = demo()
    for changes, said in (
        ({"query": "fixed"}, "from start best .* add --start random or --start medoid"),
        ({"patch_px": 3}, "--retrieval.patch-px 3 is too small: .* stride of 4"),
    ):
        with pytest.raises(ValueError, match=said):
            replace(config, retrieval=replace(config.retrieval, **changes))
    replace(config, retrieval=replace(config.retrieval, query="fixed", start="random"))
    replace(config, retrieval=replace(config.retrieval, patch_px=4))
