"""What a run is: every size, weight and rule, written to config.json before the first step."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from model.retrieval import Relaxation, Start
from pipeline.errors import UserError

RetrievalMode = Literal["learned", "predefined", "random"]
RecipeName = Literal["paper", "demo"]


@dataclass(frozen=True, kw_only=True)
class RetrievalConfig:
    """Section 2.1. What the paper leaves open (facts, part 7) is a choice of ours."""

    mode: RetrievalMode = "learned"
    candidates: int = 5  # K in training
    patch_px: int = 32  # side at which E_p sees a patch
    channels: tuple[int, ...] = (64, 128, 256, 256)
    width: int = 128  # E
    temperature: float = 1.0  # 1: what L_gt learns is the distribution that Gumbel-max draws from
    relaxation: Relaxation = "straight-through"
    start: Start = "random"
    gt_in_candidates: bool = False  # the truth also in the generation pass: the paper's reading

    def __post_init__(self) -> None:
        if self.temperature <= 0:
            raise ValueError(f"the temperature must be above 0, but is {self.temperature}")
        if self.candidates < 1:
            raise ValueError(f"at least 1 candidate per object is needed, not {self.candidates}")


@dataclass(frozen=True, kw_only=True)
class GraphConfig:
    """The generator's own graph network."""

    width: int = 128  # D
    hidden: int = 512
    layers: int = 5


@dataclass(frozen=True, kw_only=True)
class GeneratorConfig:
    """PasteGAN's way of composing (facts 2.3)."""

    crop_px: int = 64  # side at which the crop encoder sees a patch
    crop_channels: tuple[int, ...] = (64, 128, 256, 256)  # each halves the map
    crop_width: int = 128
    refine_layers: int = 4
    refine_hidden: int = 512
    canvas_px: int = 64  # side of the canvas on which objects are pasted
    canvas_width: int = 256
    residual_blocks: int = 6
    decoder: tuple[int, ...] = (1024, 512, 256, 128, 64)  # the last works at the image's size


@dataclass(frozen=True, kw_only=True)
class DiscriminatorConfig:
    image_channels: tuple[int, ...] = (64, 128, 256)
    object_channels: tuple[int, ...] = (64, 128, 256)
    object_hidden: int = 1024
    object_px: int = 32  # side of the crops that D_obj sees


@dataclass(frozen=True, kw_only=True)
class LossWeights:
    """The lambdas of eq. 5; its values are not published, these are PasteGAN's where it has one."""

    gt_selection: float = 0.1
    co_occurrence: float = 1e-3
    adversarial_image: float = 0.01
    adversarial_object: float = 0.01
    reconstruction: float = 1.0
    boxes: float = 10.0
    object_class: float = 0.0  # PasteGAN's auxiliary classifier, not in eq. 5; 0 leaves it out


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    recipe: str = "paper"
    image_px: int = 128
    batch: int = 16
    steps: int = 140_000  # about 90 epochs of the 24,972 photos in batches of 16
    lr_generator: float = 2.5e-4
    lr_discriminator: float = 1e-3
    betas: tuple[float, float] = (0.0, 0.9)
    decay_from: float = 1.0  # share of the steps after which learning rates fall to zero; 1: never
    seed: int = 0
    workers: int = 2  # loader processes
    grid_every: int = 1000  # steps between sample grids
    checkpoint_every: int = 1000  # steps between checkpoints
    graph: GraphConfig = field(default_factory=GraphConfig)
    retrieval: RetrievalConfig = field(default_factory=RetrievalConfig)
    generator: GeneratorConfig = field(default_factory=GeneratorConfig)
    discriminator: DiscriminatorConfig = field(default_factory=DiscriminatorConfig)
    losses: LossWeights = field(default_factory=LossWeights)


def paper() -> TrainConfig:
    """The paper's sizes where it speaks, choices of ours where it is silent (README)."""
    return TrainConfig()


def demo() -> TrainConfig:
    """64x64 and under a million parameters: minutes on two CPU cores, from any bank."""
    return TrainConfig(
        recipe="demo",
        image_px=64,
        batch=12,
        steps=500,
        lr_generator=2e-3,
        lr_discriminator=1e-3,
        betas=(0.5, 0.99),
        decay_from=0.4,
        workers=0,
        grid_every=100,
        checkpoint_every=250,
        graph=GraphConfig(width=48, hidden=96, layers=3),
        retrieval=RetrievalConfig(candidates=6, channels=(24, 48, 96), width=32),
        generator=GeneratorConfig(
            crop_px=32,
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


RECIPES = {"paper": paper, "demo": demo}


def from_json(value: Mapping[str, Any]) -> TrainConfig:
    """config.json -> TrainConfig; a key that no field knows is an error, not ignored."""
    config: TrainConfig = _read(TrainConfig, value, "config.json")
    return config


def _read(kind: type[Any], value: Mapping[str, Any], where: str) -> Any:
    fields = {f.name: f for f in dataclasses.fields(kind)}
    unknown = sorted(set(value) - set(fields))
    if unknown:
        raise UserError(f"{where} has {unknown[0]!r}, which this version does not know")
    parts: dict[str, Any] = {}
    for name, part in value.items():
        factory = fields[name].default_factory
        if factory is not dataclasses.MISSING:
            part = _read(factory, part, f"{where}: {name}")  # type: ignore[arg-type]
        parts[name] = tuple(part) if isinstance(part, list) else part
    return kind(**parts)
