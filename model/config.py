"""What a run is: every size, weight and rule, written to config.json before the first step.

The values of the recipes are in recipes.py. Every field is a flag of `model.train`, and the comment
on or above its line is the flag's help.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal, get_args

import msgspec

from pipeline.errors import UserError
from pipeline.options import option

RetrievalMode = Literal["learned", "predefined", "random"]
Relaxation = Literal["straight-through", "soft", "marginal"]
Query = Literal["updated", "fixed"]
Pooling = Literal["last", "all"]
Objective = Literal["path", "pairs"]
Start = Literal["random", "medoid", "best"]
Which = Literal["last", "best"]  # of a run's checkpoints
# What can be scored, of which pictures, by what.
ScoreKind = Literal["retrieval", "images", "canvas"]
BoxesFrom = Literal["predicted", "gt"]
ImageFormat = Literal["png", "jpg"]
Deprocessing = Literal["clip", "min-max"]
ExtractorName = Literal["efficientnet-lite0", "squeezenet", "inception", "dinov2"]
JudgeName = Literal[ExtractorName, "lpips"]  # that distance is of pairs of pictures
Loader = Literal["auto", "stream", "resident"]
Precision = Literal["auto", "float32", "tf32", "bf16"]
Capture = Literal["auto", "off", "graph"]
RetrieveGANRecipe = Literal["paper", "demo"]
Sg2ImRecipe = Literal["sg2im", "sg2im-demo"]
RecipeName = Literal[RetrieveGANRecipe, Sg2ImRecipe]
Device = Annotated[str, option("auto (a GPU where there is one), cpu, cuda or cuda:N")]

SG2IM_DECODER = (1024, 512, 256, 128, 64)  # channels of the published decoder, coarse to fine
SG2IM_KERNEL, SG2IM_STRIDE = 4, 2  # of its discriminators' convolutions, without padding


def side_after(side: int, convolutions: int) -> int:
    """Side of sg2im's discriminator map after so many convolutions; under 1: image too small."""
    for _ in range(convolutions):
        side = (side - SG2IM_KERNEL) // SG2IM_STRIDE + 1
    return side


@dataclass(frozen=True)
class MinQuality:
    """What a patch must have to be offered as a candidate; 0 asks for nothing."""

    coverage: float = 0.0  # share of its box that its mask covers; an unknown one will do
    side: int = 0  # px, of the shorter side of its box in the photo

    def __post_init__(self) -> None:
        """ValueError, naming the flag, for what no patch can have."""
        if not 0 <= self.coverage <= 1:
            raise ValueError(f"--min-coverage is a share of the box, 0 to 1, not {self.coverage}")
        if self.side < 0:
            raise ValueError(f"--min-side is in px, 0 or more, not {self.side}")

    @property
    def asks(self) -> bool:
        return bool(self.coverage or self.side)

    @property
    def flags(self) -> str:
        """As it is asked for on a command line."""
        asked = (("--min-coverage", self.coverage), ("--min-side", self.side))
        return " ".join(f"{flag} {value:g}" for flag, value in asked if value)


@dataclass(frozen=True, kw_only=True)
class RetrievalConfig:
    """Section 2.1. What the paper leaves open is a choice of ours."""

    mode: RetrievalMode = "learned"  # how patches are chosen
    candidates: int = 5  # K in training
    patch_px: int = 32  # side to which a patch of the bank is resized for E_p
    channels: tuple[int, ...] = (64, 128, 256, 256)  # of E_p
    width: int = 128  # E, of E_p's output
    stem_stride: int = 2  # of E_p's first layer; 4: a patch of 64 px is looked at whole, cheaply
    # the layers whose maps' means and deviations make the feature; all: layer-normalised first
    pooling: Pooling = "last"
    # of L_gt: along one path through the image, as in the paper; or all pairs of its patches, also
    # against the true patches of the same category elsewhere in a process's part of the batch
    objective: Objective = "path"
    temperature: float = 1.0  # at 1, L_gt trains the very distribution that Gumbel noise draws from
    # straight-through: the selected patch, with the gradient of a soft mixture; soft: that mixture;
    # marginal: the selected patch, with the gradient of the mixture without noise at temperature 1
    relaxation: Annotated[Relaxation, option("", also="--relaxation")] = "straight-through"
    # where the generation pass starts
    start: Annotated[Start, option("", also="--start")] = "random"
    same_patch_allowed: bool = False  # two objects of a scene may be given one crop, as by eq. 2
    # the generation pass may select the true patch, as in the paper
    gt_in_candidates: Annotated[bool, option("", also="--gt-in-candidates")] = False
    # from start best: how often each patch is chosen once more, given the others; at 0 more scenes
    # repeat a crop needlessly
    passes: int = 1
    # updated: the mean of what was chosen; fixed: the start's feature throughout, in both passes
    query: Query = "updated"
    # of its box a candidate's mask covers at least this share; unknown passes; 0: any
    min_coverage: Annotated[float, option("", also="--min-coverage")] = 0.0
    # px in the photo, of the shorter side of a candidate's box, at least; 0: any
    min_side: Annotated[int, option("", also="--min-side")] = 0

    @property
    def min_quality(self) -> MinQuality:
        """ValueError where it makes no sense."""
        return MinQuality(self.min_coverage, self.min_side)


@dataclass(frozen=True, kw_only=True)
class ExecutionConfig:
    """How a run is executed. Nothing that it learns depends on this, but for rounding; on
    `accumulate` sg2im does, and L_gt of all pairs, whose negatives are of a part's own scenes."""

    device: Device = "auto"
    # resident: scenes and patches held on the device, or in a mapped file in the cache; stream:
    # shards read in order; auto: resident where there is room and the bank is not an address
    loader: Loader = "auto"
    loader_workers: int = 0  # processes that load batches; 0: this one
    # float32; tf32: convolutions on a GPU round their factors; bf16: the networks round, retrieval
    # and losses do not (on a CPU slower); auto: on a GPU bf16, for sg2im tf32, on a CPU float32
    precision: Precision = "auto"
    # graph: on a GPU steps are captured, and replayed by a few launches; auto: graph on a GPU
    capture: Capture = "auto"
    # parts that a batch is computed in, one after the other: less memory, but the generator's
    # forward pass twice; sg2im's batch normalisation sees each part's own scenes
    accumulate: int = 1
    log_every: int = 0  # steps between lines on the console; 0: a line about every ten seconds
    grid_every: int = 1000  # steps between sample grids
    checkpoint_every: int = 1000  # steps between checkpoints
    keep_checkpoints: int = 2  # so many of the last are kept, and the best besides
    # steps between two scores of retrieval on val scenes, whose best checkpoint is kept; 0: never
    eval_every: int = 0
    deterministic: bool = False  # the same results to the last bit every time; slower on a GPU


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """What every run has. When a run goes on, all but `execution` and `steps` stays as it is, and
    `steps` may not be fewer than were taken."""

    network: ClassVar[str]  # what is trained, in words
    small_recipe: ClassVar[str]  # that takes minutes on a CPU
    # what "auto" is there: bf16 where losses over seeds were shown to be those of tf32
    gpu_precision: ClassVar[Precision] = "tf32"

    recipe: RecipeName  # sizes and rules of the run
    image_px: int  # side of a generated image, in pixels
    batch_size: int  # scenes per step
    # training steps in all; the learning rates of recipes with decay-from depend on it
    steps: int
    lr_generator: float  # learning rate of Adam
    lr_discriminator: float  # learning rate of Adam
    betas: tuple[float, float]  # of Adam: decay of its means of gradients and of their squares
    decay_from: float = 1.0  # fraction of the steps after which learning rates fall to 0; 1: never
    seed: int = 0  # decides weights, order of scenes and noise
    block_shards: int = 16  # shards whose scenes are mixed with one another in an epoch
    execution: Annotated[ExecutionConfig, option("", name="")] = field(
        default_factory=ExecutionConfig
    )

    def __post_init__(self) -> None:
        """ValueError, naming the flag, for a number that makes no sense."""
        for flag, kind, value in _fields(self):
            least = 0 if flag in MAY_BE_ZERO else 1
            kinds = (kind, *get_args(kind))
            for number in value if isinstance(value, tuple) else (value,):
                if int in kinds and number < least:
                    raise ValueError(f"{flag} must be at least {least}, not {number}")
                if float in kinds and not 0 <= number < math.inf:
                    raise ValueError(f"{flag} must be 0 or more, and finite, not {number}")
            if value == ():
                raise ValueError(f"{flag} needs at least one number")
        if max(self.betas) >= 1:
            raise ValueError(f"--betas must be below 1, not {max(self.betas)}")
        if self.decay_from > 1:
            raise ValueError(f"--decay-from is a fraction of the steps, not {self.decay_from}")

    def _check_side(self, least: int) -> None:
        """The decoder doubles the size at each stage, from a start `least` times smaller."""
        if self.image_px % least:
            raise ValueError(
                f"an image of {self.image_px} px cannot be made by recipe {self.recipe}, whose "
                f"decoder doubles its way up: --image-px must be a multiple of {least}"
            )


# Whole numbers of which none may be asked for.
MAY_BE_ZERO = ("--seed", "--loader-workers", "--log-every", "--generator.noise",
               "--generator.refine-layers", "--generator.residual-blocks", "--eval-after",
               "--eval-every", "--retrieval.passes", "--retrieval.min-side")  # fmt: skip


def flags_of(config: RunConfig) -> dict[str, Any]:
    """The value of every field, by its flag: `--losses.gt-selection`."""
    return {flag: value for flag, _, value in _fields(config)}


def _fields(config: Any, prefix: str = "--") -> Iterator[tuple[str, Any, Any]]:
    """Flag, type and value of every field."""
    for each in dataclasses.fields(config):
        value, flag = getattr(config, each.name), prefix + each.name.replace("_", "-")
        if dataclasses.is_dataclass(value):
            yield from _fields(value, prefix if each.name == "execution" else f"{flag}.")
        else:
            yield flag, each.type, value


@dataclass(frozen=True, kw_only=True)
class GraphConfig:
    """The generator's own graph network."""

    width: int = 128  # D, of its vectors
    hidden: int = 512  # width inside a layer
    layers: int = 5  # of graph convolution


@dataclass(frozen=True, kw_only=True)
class GeneratorConfig:
    """Composition and decoder: PasteGAN's layers (Li et al. 2019, section 3)."""

    patch_px: int = 64  # side to which a patch is resized for the crop encoder
    crop_channels: tuple[int, ...] = (64, 128, 256, 256)  # each halves the map
    crop_width: int = 128  # channels of a patch's map
    refine_layers: int = 4  # graph layers that refine the patches' maps
    refine_hidden: int = 512  # width inside such a layer
    canvas_px: int = 64  # side of the canvas on which objects are pasted
    canvas_width: int = 256  # its channels
    residual_blocks: int = 6  # between canvas and decoder
    decoder: tuple[int, ...] = (1024, 512, 256, 128, 64)  # the last works at the image's size


@dataclass(frozen=True, kw_only=True)
class DiscriminatorConfig:
    """D_img and D_obj."""

    image_channels: tuple[int, ...] = (64, 128, 256)  # of D_img
    object_channels: tuple[int, ...] = (64, 128, 256)  # of D_obj
    object_hidden: int = 1024  # width of D_obj's last layer
    object_px: int = 32  # side of the object crops given to D_obj


def _check_sides(
    image_px: int, sizes: DiscriminatorConfig, side_after: Callable[[int, int], int]
) -> None:
    """ValueError where a discriminator's layers leave nothing of what it is given."""
    for flag, side, channels in (
        ("--image-px", image_px, sizes.image_channels),
        ("--discriminator.object-px", sizes.object_px, sizes.object_channels),
    ):
        if side_after(side, len(channels)) < 1:
            raise ValueError(
                f"{flag} {side} is too small: each of its discriminator's {len(channels)} layers "
                f"halves it"
            )


@dataclass(frozen=True, kw_only=True)
class LossWeights:
    """The lambdas of eq. 5; its values are not published, these are PasteGAN's where it has one."""

    gt_selection: float = 0.1
    cooccurrence: float = 1e-3
    adversarial_image: float = 0.01
    adversarial_object: float = 0.01
    reconstruction: float = 1.0
    boxes: float = 10.0
    object_class: float = 0.0  # PasteGAN's auxiliary classifier, not in eq. 5; 0 leaves it out

    @property
    def of_images(self) -> bool:
        """Whether any loss looks at the generator's images; where none does, none are made."""
        weights = (self.adversarial_image, self.adversarial_object, self.reconstruction)
        return any((*weights, self.object_class))


@dataclass(frozen=True, kw_only=True)
class RetrieveGANConfig(RunConfig):
    """A run of RetrieveGAN."""

    network: ClassVar[str] = "RetrieveGAN"
    recipes: ClassVar[tuple[str, ...]] = get_args(RetrieveGANRecipe)
    small_recipe: ClassVar[str] = "demo"
    gpu_precision: ClassVar[Precision] = "bf16"

    graph: GraphConfig = field(default_factory=GraphConfig)
    retrieval: RetrievalConfig = field(default_factory=RetrievalConfig)
    generator: GeneratorConfig = field(default_factory=GeneratorConfig)
    discriminator: DiscriminatorConfig = field(default_factory=DiscriminatorConfig)
    losses: LossWeights = field(default_factory=LossWeights)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_side(2 ** (len(self.generator.decoder) - 1))
        if self.retrieval.temperature == 0:
            raise ValueError("--retrieval.temperature must be above 0")
        if self.retrieval.start == "best" and self.retrieval.query == "fixed":
            raise ValueError(
                "--retrieval.query fixed: from start best patches are compared with one another, "
                "not with a query; add --start random or --start medoid"
            )
        self._check_patch_side()
        _ = self.retrieval.min_quality  # refuses what no patch can have
        _check_sides(self.image_px, self.discriminator, lambda side, layers: side >> layers)

    def _check_patch_side(self) -> None:
        """ValueError where E_p's first layer is larger than a patch."""
        rule = self.retrieval
        if rule.patch_px < rule.stem_stride:
            raise ValueError(
                f"--retrieval.patch-px {rule.patch_px} is too small: E_p's first layer has a "
                f"stride of {rule.stem_stride} (--retrieval.stem-stride)"
            )


@dataclass(frozen=True, kw_only=True)
class Sg2ImLossWeights:
    """Those of sg2im's scripts/train.py, which does not multiply the classifier's weight by the
    adversarial one, though its TRAINING.md says so."""

    pixels: float = 1.0  # l1
    boxes: float = 10.0  # mean squared error
    masks: float = 0.0  # cross-entropy; sg2im's authors advise 0.1 on COCO
    adversarial_image: float = 0.01
    adversarial_object: float = 0.01
    object_class: float = 0.1


@dataclass(frozen=True, kw_only=True)
class Sg2ImGeneratorConfig:
    """From the graph network's vectors to an image."""

    masks: bool = True  # False: boxes are filled, as sg2im with a mask size of 0
    noise: int = 32  # channels of noise beside the layout
    decoder: tuple[int, ...] = SG2IM_DECODER  # the last works at the image's size


@dataclass(frozen=True, kw_only=True)
class Sg2ImConfig(RunConfig):
    """A run of sg2im, the baseline that retrieves nothing.

    From step `eval_after` on the generator's batch normalisation uses its running statistics, and
    its optimiser is a new one. Without it, an image depends on the others of its batch.
    """

    network: ClassVar[str] = "sg2im"
    recipes: ClassVar[tuple[str, ...]] = get_args(Sg2ImRecipe)
    small_recipe: ClassVar[str] = "sg2im-demo"

    eval_after: int = 100_000  # steps, after which batch normalisation uses running statistics
    graph: GraphConfig = field(default_factory=GraphConfig)
    generator: Sg2ImGeneratorConfig = field(default_factory=Sg2ImGeneratorConfig)
    discriminator: DiscriminatorConfig = field(default_factory=DiscriminatorConfig)
    losses: Sg2ImLossWeights = field(default_factory=Sg2ImLossWeights)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_side(2 ** len(self.generator.decoder))
        _check_sides(self.image_px, self.discriminator, side_after)
        if self.execution.eval_every:
            raise ValueError(
                "--eval-every scores retrieval, and sg2im retrieves nothing: leave it out"
            )

    @property
    def sizes(self) -> dict[str, Any]:
        """What an Sg2Im is built with, beside its vocabulary."""
        graph, generator = self.graph, self.generator
        return {
            "embedding": graph.width,
            "hidden": graph.hidden,
            "layers": graph.layers,
            "masks": generator.masks,
            "image_px": self.image_px,
            "noise": generator.noise,
            "decoder": generator.decoder,
        }


def from_json(value: Mapping[str, Any]) -> RunConfig:
    """config.json -> the config of its recipe's kind. UserError for a name that no field has,
    msgspec.ValidationError for a value that its field does not take."""
    kind = Sg2ImConfig if value.get("recipe") in Sg2ImConfig.recipes else RetrieveGANConfig
    _check_names(value, kind, "config.json")
    return msgspec.convert(value, kind)


def _check_names(value: Mapping[str, Any], kind: type[Any], where: str) -> None:
    fields = {each.name: each.default_factory for each in dataclasses.fields(kind)}
    for name, part in value.items():
        if name not in fields:
            raise UserError(
                f"{where} has {name!r}, which this version does not know; a run of another "
                f"version cannot be opened: train it again"
            )
        if isinstance(part, Mapping) and isinstance(known := fields[name], type):
            _check_names(part, known, f"{where}: {name}")
