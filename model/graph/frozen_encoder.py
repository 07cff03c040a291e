"""The bank's frozen graph encoder: its training, and the object vectors it gives."""

import copy
from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from bank.rounding import rounded
from model.frozen import SavedTraining, repeatable, rng_of_step, training_steps
from model.graph.network import GraphBatch, GraphEncoder, graph_tensors
from pipeline.errors import UserError
from pipeline.scene import Relation, Vocabulary

GRAPHS_PER_STEP = 16
MASKS_PER_STEP = 4  # objects whose mask is predicted in a step: the mask head costs the most
LEARNING_RATE = 1e-3
MASK_WEIGHT = 0.1
GRAPHS_AT_ONCE = 64  # while embedding: 256 take a fifth longer, outside the cache


class GraphSample(Protocol):
    """The part of a packed scene that the encoder needs."""

    @property
    def objects(self) -> tuple[str, ...]: ...
    @property
    def triples(self) -> tuple[Relation, ...]: ...
    @property
    def boxes(self) -> NDArray[np.float32]: ...  # (n, 4)
    @property
    def masks(self) -> NDArray[np.uint8] | None: ...  # (n, 16, 16)


def default_steps(num_scenes: int) -> int:
    """Trainer steps where the user names none: seconds for a toy world, minutes for COCO."""
    return int(np.clip(num_scenes // 16, 300, 3000))


def train_graph_encoder(
    scenes: Sequence[GraphSample],
    vocabulary: Vocabulary,
    *,
    mean_box: NDArray[np.float32],
    masks: bool,
    steps: int,
    seed: int,
    sizes: Mapping[str, int] | None = None,
    saved: SavedTraining | None = None,
) -> GraphEncoder:
    """Learn to predict boxes (l1) and, where masks are known, masks (cross-entropy).

    scenes    of training; a step reads GRAPHS_PER_STEP of them
    mean_box  (4,) of all their objects: where the prediction starts
    masks     whether any object of theirs has a mask
    sizes     overrides the published widths: embedding, hidden, layers
    saved     where training is saved as it goes, and from where it goes on
    """
    if not scenes:
        raise UserError("no training scene to learn a graph encoder from: is the bank empty?")
    with repeatable(seed):
        encoder = GraphEncoder(vocabulary, masks=masks, **(sizes or {}))
        start_at_mean_box(encoder, torch.from_numpy(mean_box))
        optimizer = torch.optim.Adam(encoder.parameters(), lr=LEARNING_RATE)
        for step in training_steps("graph encoder", steps, encoder, optimizer, saved):
            random = rng_of_step(seed, step)
            chosen = random.integers(len(scenes), size=GRAPHS_PER_STEP)
            loss = _loss(encoder, [scenes[i] for i in chosen.tolist()], random)
            if not loss.isfinite():
                raise RuntimeError(f"graph encoder: the loss is {loss.item()} at step {step}")
            optimizer.param_groups[0]["lr"] = LEARNING_RATE * _rate(step, steps)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(encoder.parameters(), 1.0)
            optimizer.step()
    return encoder.eval().requires_grad_(False)


def _rate(step: int, steps: int) -> float:
    """Factor of the learning rate: up over the first tenth of the steps, then down to 0."""
    return min((step + 1) / (steps / 10), 1.0, 1.1 * (steps - step) / steps)


def start_at_mean_box(encoder: GraphEncoder, mean: Tensor) -> None:
    """Start the box head at the average box (4,), with small weights around it."""
    head = encoder.box_net[2]
    assert isinstance(head, nn.Linear)
    with torch.no_grad():
        head.weight.mul_(0.1)
        head.bias.copy_(mean)


def _loss(
    encoder: GraphEncoder, scenes: Sequence[GraphSample], random: np.random.Generator
) -> Tensor:
    batch = graph_tensors([(s.objects, s.triples) for s in scenes], encoder.vocabulary)
    boxes = torch.from_numpy(np.concatenate([s.boxes for s in scenes]))  # (O, 4)
    objects = encoder.encode(batch.nodes, batch.triples)[: len(boxes)]
    loss = F.l1_loss(encoder.box_sides(objects), boxes)
    known = [(o, mask) for o, mask in enumerate(_masks(scenes)) if mask is not None]
    if encoder.mask_net is None or len(known) < 2:  # batch norm needs two
        return loss
    places = random.choice(len(known), size=min(MASKS_PER_STEP, len(known)), replace=False)
    rows = torch.tensor([known[p][0] for p in places])
    masks = torch.from_numpy(np.stack([known[p][1] for p in places])).float()
    logits = encoder.mask_logits(objects[rows])
    return loss + MASK_WEIGHT * F.binary_cross_entropy_with_logits(logits, masks)


def _masks(scenes: Sequence[GraphSample]) -> list[NDArray[np.uint8] | None]:
    """(O,) the mask of each object, or None."""
    masks: list[NDArray[np.uint8] | None] = []
    for scene in scenes:
        masks += [None] * len(scene.boxes) if scene.masks is None else list(scene.masks)
    return masks


def embed_scenes(encoder: GraphEncoder, samples: Sequence[GraphSample]) -> NDArray[np.float32]:
    """(O, D) object vectors of all samples, laid end to end, rounded by bank/rounding.py."""
    graphs = [(sample.objects, sample.triples) for sample in samples]
    return embed_graphs(encoder, graphs)


def embed_graphs(
    encoder: GraphEncoder, graphs: Sequence[tuple[Sequence[str], Sequence[Relation]]]
) -> NDArray[np.float32]:
    """`embed_scenes` for graphs that are in no bank."""
    double = copy.deepcopy(encoder).cpu().eval().double()
    width = encoder.obj_embeddings.embedding_dim
    vectors = [np.zeros((0, width), dtype=np.float32)]
    with torch.no_grad():
        for start in range(0, len(graphs), GRAPHS_AT_ONCE):
            batch = graph_tensors(graphs[start : start + GRAPHS_AT_ONCE], encoder.vocabulary)
            vectors.append(rounded(_objects(double, batch)))
    return np.concatenate(vectors)


def _objects(encoder: GraphEncoder, batch: GraphBatch) -> NDArray[np.float64]:
    objects: NDArray[np.float64] = encoder.encode(batch.nodes, batch.triples).numpy()
    return objects[: len(batch.object_image)]
