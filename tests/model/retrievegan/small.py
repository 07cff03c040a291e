"""A RetrieveGAN of a few thousand weights and a batch of two scenes, made without a bank."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from model.batch import CandidateBatch, SceneBatch, changed
from model.config import (
    DiscriminatorConfig,
    ExecutionConfig,
    GeneratorConfig,
    GraphConfig,
    LossWeights,
    RetrievalConfig,
    RetrieveGANConfig,
)
from model.draws import ByPosition
from model.graph.network import graph_tensors
from model.padding import padding_of
from model.retrieval.choice import draw_passes, numbers_per_object
from model.retrieval.crops import Crops
from model.retrievegan.trainer import RetrieveGANTrainer
from model.sources import Counts
from pipeline.scene import GEOMETRIC, IMAGE, IN_IMAGE, Relation, Vocabulary

VOCABULARY = Vocabulary((IMAGE, "sky", "sea", "boat", "pier"), (IN_IMAGE, *GEOMETRIC))
SCENES = [
    (("sky", "boat", "sea"), (Relation(1, "inside", 2), Relation(0, "above", 2))),
    (("pier", "boat"), (Relation(1, "left of", 0),)),
]
BOXES = [[0, 0, 1, 0.5], [0.25, 0.375, 0.625, 0.75], [0, 0.5, 1, 1], [0.5, 0.25, 1, 1],
         [0, 0.375, 0.5, 0.875]]  # fmt: skip
N, O, K, P, F = 2, 5, 3, 10, 6
IMAGE_PX, EMBEDDED_PX, COMPOSED_PX = 16, 6, 8
# All different, so that no weight can stand for another.
WEIGHTS = LossWeights(
    gt_selection=0.7, cooccurrence=0.3, adversarial_image=0.11, adversarial_object=0.13,
    reconstruction=1.7, boxes=9.0, object_class=0.17,
)  # fmt: skip


def small_config(**changes: Any) -> RetrieveGANConfig:
    """`changes` are fields of the config; those of RetrievalConfig as `retrieval={...}`."""
    retrieval = RetrievalConfig(
        candidates=K, patch_px=EMBEDDED_PX, channels=(4, 6), width=5, **changes.pop("retrieval", {})
    )
    config = RetrieveGANConfig(
        recipe="demo",
        image_px=IMAGE_PX,
        batch_size=N,
        steps=4,
        lr_generator=2e-3,
        lr_discriminator=3e-3,
        betas=(0.5, 0.9),
        execution=ExecutionConfig(loader_workers=0),
        graph=GraphConfig(width=6, hidden=8, layers=2),
        retrieval=retrieval,
        generator=GeneratorConfig(
            patch_px=COMPOSED_PX,
            crop_channels=(4, 6),
            crop_width=4,
            refine_layers=2,
            refine_hidden=5,
            canvas_px=8,
            canvas_width=6,
            residual_blocks=1,
            decoder=(6, 5),
        ),
        discriminator=DiscriminatorConfig(
            image_channels=(4, 6), object_channels=(4, 6), object_hidden=7, object_px=8
        ),
        losses=WEIGHTS,
    )
    return replace(config, **changes)


def small_batch(seed: int = 0) -> SceneBatch:
    """Scenes of three and two objects; one candidate of object 0 is padding."""
    random = torch.Generator().manual_seed(seed)

    def pixels(*shape: int) -> Tensor:
        return torch.randint(0, 256, (*shape, 3), dtype=torch.uint8, generator=random)

    valid = torch.ones(O, K, dtype=torch.bool)
    valid[0, 2] = False
    padding = padding_of(torch.tensor([0, 0, 0, 1, 1]), N)
    return SceneBatch(
        torch.tensor([11, 12]),
        pixels(N, 20, 20),
        graph_tensors(SCENES, VOCABULARY),
        torch.tensor(BOXES),
        torch.arange(100, 100 + O),
        pixels(O, P, P),
        torch.randn(O, F, generator=random),
        Crops(torch.arange(900, 900 + O), torch.tensor(BOXES)),
        CandidateBatch(
            torch.arange(O * K).reshape(O, K),
            pixels(O, K, P, P),
            valid,
            torch.randn(O, K, F, generator=random),
            Crops(torch.arange(O * K).reshape(O, K), torch.tensor(BOXES)[:, None].repeat(1, K, 1)),
        ),
        padding,
        draw_passes(small_config().retrieval, valid, padding, at(0), noise=True),
        Counts(torch.tensor(float(N)), torch.tensor(float(O))),
    )


def at(step: int, seed: int = 0) -> ByPosition:
    """The random numbers of the two scenes at a step."""
    return ByPosition(seed, [step * N, step * N + 1], np.array([3, 2]), numbers_per_object(K))


def with_draws(
    batch: SceneBatch, config: RetrieveGANConfig, step: int = 0, *, noise: bool = True
) -> SceneBatch:
    """The batch as a loader gives it to a run at a step."""
    valid, padding = batch.candidates.valid, batch.padding
    uniforms = at(step, config.seed)
    return batch._replace(
        draws=draw_passes(config.retrieval, valid, padding, uniforms, noise=noise)
    )


def small_trainer(device: str = "cpu", **changes: Any) -> RetrieveGANTrainer:
    """With large weights behind D_obj's trunk, so that its answers differ between objects."""
    trainer = RetrieveGANTrainer(small_config(**changes), VOCABULARY, device)
    with torch.no_grad():
        for layer in (trainer.object_discriminator.hidden, trainer.object_discriminator.category):
            layer.weight.mul_(20)
    return trainer


def descending(trainer: RetrieveGANTrainer) -> RetrieveGANTrainer:
    """By plain gradient descent: Adam's first step is the gradient's sign, also where it is 0 but
    for rounding."""
    for name, adam in trainer.optimisers.items():
        trainer.optimisers[name] = torch.optim.SGD(adam.param_groups[0]["params"], 0.01)
    trainer.set_learning_rates = lambda: None  # type: ignore[method-assign]
    return trainer


def assert_same_step(ours: RetrieveGANTrainer, *parts: SceneBatch, as_in: SceneBatch) -> None:
    """Two trainers that began alike: what one makes of `parts` is what the other makes of a batch,
    in losses, in gradients and in buffers."""
    theirs = descending(RetrieveGANTrainer(ours.config, ours.model.graph.vocabulary))
    for name, network in theirs.networks.items():
        network.load_state_dict(ours.networks[name].state_dict())
    values, expected = descending(ours).step(*parts), theirs.step(as_in)
    assert values.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(values[name], value, atol=1e-6, rtol=1e-4, msg=name)
    for key, network in theirs.networks.items():
        own = ours.networks[key]
        for (name, p), q in zip(network.named_parameters(), own.parameters(), strict=True):
            assert (p.grad is None) == (q.grad is None), name
            if p.grad is not None:
                torch.testing.assert_close(
                    q.grad, p.grad, atol=2e-6, rtol=2e-3, msg=lambda m, n=name: f"{n}: {m}"
                )
        for (name, b), c in zip(network.named_buffers(), own.buffers(), strict=True):
            torch.testing.assert_close(c, b, msg=name)


def halves(batch: SceneBatch) -> list[SceneBatch]:
    """Both scenes of a batch as the parts of one, with the draws that they had in it."""
    parts = []
    for image, rows in enumerate((slice(0, 3), slice(3, 5))):

        def own(part: Any, rows: slice = rows, image: int = image) -> Any:
            return changed(part, lambda t: t[rows] if len(t) == O else t[image : image + 1])

        parts.append(
            SceneBatch(
                *map(own, batch[:2]),
                graph_tensors(SCENES[image : image + 1], VOCABULARY),
                *map(own, batch[3:8]),
                own(batch.candidates),
                padding_of(torch.zeros(rows.stop - rows.start, dtype=torch.long), 1),
                own(batch.draws),
                batch.counts,
            )
        )
    return parts


def layers_of(layers: Iterable[nn.Module]) -> list[str]:
    """Each layer in a few words: `conv 3x3/2 3>16` has a stride of 2."""
    return [_layer(layer) for layer in layers]


def _layer(layer: nn.Module) -> str:
    if isinstance(layer, nn.Conv2d):
        (h, w), (stride, _) = layer.kernel_size, layer.stride
        strided = "" if stride == 1 else f"/{stride}"
        return f"conv {h}x{w}{strided} {layer.in_channels}>{layer.out_channels}"
    if isinstance(layer, nn.GroupNorm):
        return f"norm {layer.num_groups}x{layer.num_channels}"
    if isinstance(layer, nn.LeakyReLU):
        return f"leaky {layer.negative_slope}"
    if isinstance(layer, nn.Linear):
        return f"linear {layer.in_features}>{layer.out_features}"
    return type(layer).__name__.lower()
