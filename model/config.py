"""What a run is: every size, weight and rule, written to config.json before the first step."""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from model.retrieval.greedy import Relaxation, Start
from model.sg2im.discriminators import side_after
from model.sg2im.network import PUBLISHED_DECODER
from pipeline.errors import UserError

RetrievalMode = Literal["learned", "predefined", "random"]
RecipeName = Literal["paper", "demo", "sg2im", "sg2im-demo"]


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
class RunConfig:
    """What every run has."""

    network: ClassVar[str]  # what is trained, in words
    small_recipe: ClassVar[str]  # that takes minutes on a CPU

    recipe: str
    image_px: int  # side of a generated picture
    batch: int  # scenes per step
    steps: int
    lr_generator: float
    lr_discriminator: float
    betas: tuple[float, float]
    decay_from: float = 1.0  # share of the steps after which learning rates fall to zero; 1: never
    seed: int = 0
    workers: int = 2  # loader processes
    grid_every: int = 1000  # steps between sample grids
    checkpoint_every: int = 1000  # steps between checkpoints

    def _check_side(self, least: int) -> None:
        """The decoder starts so many times smaller and doubles its way up."""
        if self.image_px < 1 or self.image_px % least:
            raise ValueError(
                f"a picture of {self.image_px} px cannot be made by recipe {self.recipe}, whose "
                f"decoder doubles its way up: --image-size must be a multiple of {least}"
            )


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
class TrainConfig(RunConfig):
    """A RetrieveGAN's run."""

    network: ClassVar[str] = "RetrieveGAN"
    small_recipe: ClassVar[str] = "demo"

    recipe: str = "paper"
    image_px: int = 128
    batch: int = 16
    steps: int = 140_000  # about 90 epochs of the 24,972 photos in batches of 16
    lr_generator: float = 2.5e-4
    lr_discriminator: float = 1e-3
    betas: tuple[float, float] = (0.0, 0.9)
    graph: GraphConfig = field(default_factory=GraphConfig)
    retrieval: RetrievalConfig = field(default_factory=RetrievalConfig)
    generator: GeneratorConfig = field(default_factory=GeneratorConfig)
    discriminator: DiscriminatorConfig = field(default_factory=DiscriminatorConfig)
    losses: LossWeights = field(default_factory=LossWeights)

    def __post_init__(self) -> None:
        self._check_side(2 ** (len(self.generator.decoder) - 1))


@dataclass(frozen=True, kw_only=True)
class Sg2ImLossWeights:
    """sg2im's (facts 3.2). Its code does not multiply the classifier's weight by the adversarial
    one, as its documentation says."""

    pixels: float = 1.0  # l1
    boxes: float = 10.0  # squares
    masks: float = 0.0  # cross-entropy; sg2im's authors advise 0.1 on COCO
    adversarial_image: float = 0.01
    adversarial_object: float = 0.01
    object_class: float = 0.1


@dataclass(frozen=True, kw_only=True)
class Sg2ImDrawing:
    """From the graph network's vectors to a picture."""

    masks: bool = True  # False: boxes are filled, as sg2im with a mask size of 0
    noise: int = 32  # channels of noise beside the layout
    decoder: tuple[int, ...] = PUBLISHED_DECODER  # the last works at the image's size


@dataclass(frozen=True, kw_only=True)
class Sg2ImConfig(RunConfig):
    """A run of sg2im, the baseline that retrieves nothing. Sizes and rules are the published ones,
    but for the picture's side: 64 there, 128 in the paper's Table 1."""

    network: ClassVar[str] = "sg2im"
    small_recipe: ClassVar[str] = "sg2im-demo"

    recipe: str = "sg2im"
    image_px: int = 128
    batch: int = 32
    steps: int = 1_000_000
    lr_generator: float = 1e-4
    lr_discriminator: float = 1e-4
    betas: tuple[float, float] = (0.9, 0.999)
    # Then the generator's batch normalisation is fixed and its optimiser starts anew: trained by
    # the batch to the end, pictures depend on what they are sampled with.
    eval_after: int = 100_000
    graph: GraphConfig = field(default_factory=GraphConfig)
    drawing: Sg2ImDrawing = field(default_factory=Sg2ImDrawing)
    discriminator: DiscriminatorConfig = field(default_factory=DiscriminatorConfig)
    losses: Sg2ImLossWeights = field(default_factory=Sg2ImLossWeights)

    def __post_init__(self) -> None:
        self._check_side(2 ** len(self.drawing.decoder))
        sizes = self.discriminator
        for what, side, channels in (
            ("a picture", self.image_px, sizes.image_channels),
            ("an object's crop", sizes.object_px, sizes.object_channels),
        ):
            if side_after(side, len(channels)) < 1:
                raise ValueError(f"{what} of {side} px is too small for recipe {self.recipe}")

    @property
    def sizes(self) -> dict[str, Any]:
        """What an Sg2Im is built with, beside its vocabulary."""
        graph, drawing = self.graph, self.drawing
        return {
            "embedding": graph.width,
            "hidden": graph.hidden,
            "layers": graph.layers,
            "masks": drawing.masks,
            "image_px": self.image_px,
            "noise": drawing.noise,
            "decoder": drawing.decoder,
        }


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


def sg2im() -> Sg2ImConfig:
    """The published sizes and rules at the side of the paper's Table 1."""
    return Sg2ImConfig()


def sg2im_demo() -> Sg2ImConfig:
    """64x64 and under a million parameters: minutes on two CPU cores, from any bank."""
    return Sg2ImConfig(
        recipe="sg2im-demo",
        image_px=64,
        batch=12,
        steps=1000,
        lr_generator=2e-3,
        lr_discriminator=1e-3,
        betas=(0.5, 0.99),
        decay_from=0.4,
        workers=0,
        grid_every=200,
        checkpoint_every=500,
        eval_after=500,
        graph=GraphConfig(width=48, hidden=96, layers=4),
        drawing=Sg2ImDrawing(noise=8, decoder=(96, 64, 48, 32, 24)),
        discriminator=DiscriminatorConfig(
            image_channels=(16, 32, 64), object_channels=(16, 32, 64), object_hidden=64
        ),
        losses=Sg2ImLossWeights(masks=0.5),
    )


RECIPES: Mapping[str, Callable[[], RunConfig]] = {
    "paper": paper, "demo": demo, "sg2im": sg2im, "sg2im-demo": sg2im_demo,
}  # fmt: skip


def from_json(value: Mapping[str, Any]) -> RunConfig:
    """config.json -> the config of its recipe's kind; a key that no field knows is an error."""
    make = RECIPES.get(value.get("recipe", ""), paper)
    config: RunConfig = _read(type(make()), value, "config.json")
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
