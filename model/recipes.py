"""Recipes: the configuration of a run by name."""

from collections.abc import Callable, Mapping

from model.config import (
    DiscriminatorConfig,
    ExecutionConfig,
    GeneratorConfig,
    GraphConfig,
    LossWeights,
    RecipeName,
    RetrievalConfig,
    RetrieveGANConfig,
    RunConfig,
    Sg2ImConfig,
    Sg2ImGeneratorConfig,
    Sg2ImLossWeights,
)


def paper() -> RetrieveGANConfig:
    """The paper's sizes where it speaks, choices of ours where it is silent (README)."""
    return RetrieveGANConfig(
        recipe="paper",
        image_px=128,
        batch_size=16,
        steps=140_000,  # about 90 epochs of the 24,972 photos in batches of 16
        lr_generator=2.5e-4,
        lr_discriminator=1e-3,
        betas=(0.0, 0.9),
        execution=ExecutionConfig(eval_every=5000),
        retrieval=RetrievalConfig(same_patch_allowed=True),
    )


def demo() -> RetrieveGANConfig:
    """64x64 and under a million parameters: minutes on two CPU cores, from any bank."""
    return RetrieveGANConfig(
        recipe="demo",
        image_px=64,
        batch_size=12,
        steps=500,
        lr_generator=2e-3,
        lr_discriminator=1e-3,
        betas=(0.5, 0.99),
        decay_from=0.4,
        execution=ExecutionConfig(grid_every=100, checkpoint_every=250, eval_every=100),
        graph=GraphConfig(width=48, hidden=96, layers=3),
        retrieval=RetrievalConfig(
            candidates=3,
            patch_px=64,
            channels=(48, 48, 96),
            width=32,
            stem_stride=4,
            pooling="all",
            objective="pairs",
            start="best",
        ),
        generator=GeneratorConfig(
            patch_px=32,
            crop_channels=(24, 48),
            crop_width=32,
            refine_layers=1,
            refine_hidden=48,
            canvas_px=32,
            canvas_width=48,
            residual_blocks=1,
            decoder=(64, 64, 48, 24),
        ),
        discriminator=DiscriminatorConfig(
            image_channels=(16, 32, 64),
            object_channels=(16, 32, 64),
            object_hidden=64,
            object_px=16,
        ),
        losses=LossWeights(gt_selection=1.0, object_class=0.02),
    )


def sg2im() -> Sg2ImConfig:
    """The published sizes and rules, but for the image's side: 64 there, 128 in the paper's
    Table 1."""
    return Sg2ImConfig(
        recipe="sg2im",
        image_px=128,
        batch_size=32,
        steps=1_000_000,
        lr_generator=1e-4,
        lr_discriminator=1e-4,
        betas=(0.9, 0.999),
    )


def sg2im_demo() -> Sg2ImConfig:
    """64x64 and under a million parameters: minutes on two CPU cores, from any bank."""
    return Sg2ImConfig(
        recipe="sg2im-demo",
        image_px=64,
        batch_size=12,
        steps=1000,
        lr_generator=2e-3,
        lr_discriminator=1e-3,
        betas=(0.5, 0.99),
        decay_from=0.4,
        execution=ExecutionConfig(grid_every=200, checkpoint_every=500),
        eval_after=500,
        graph=GraphConfig(width=48, hidden=96, layers=4),
        generator=Sg2ImGeneratorConfig(noise=8, decoder=(96, 64, 48, 32, 24)),
        discriminator=DiscriminatorConfig(
            image_channels=(16, 32, 64), object_channels=(16, 32, 64), object_hidden=64
        ),
        losses=Sg2ImLossWeights(masks=0.5),
    )


RECIPES: Mapping[RecipeName, Callable[[], RunConfig]] = {
    "paper": paper, "demo": demo, "sg2im": sg2im, "sg2im-demo": sg2im_demo,
}  # fmt: skip
