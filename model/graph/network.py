"""sg2im's graph network: scene graphs -> a vector, a box and a mask for every node.

Names and shapes of the parameters are those of the published checkpoints, so these load.
"""

import math
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Self

import torch
from torch import Tensor, nn

from model.frozen import built_from, read_network, write_network
from model.masked_norm import MaskedBatchNorm2d, MaskedSequential
from model.rows import count, gather, scatter
from pipeline.errors import UserError, suggestion
from pipeline.scene import IMAGE, IN_IMAGE, MASK_SIZE, Relation, Vocabulary

KIND = "graph encoder, format 1"


class GraphBatch(NamedTuple):
    """N graphs as one: O objects laid end to end, then N image nodes."""

    nodes: Tensor  # (O + N,) int64, place in vocabulary.objects
    triples: Tensor  # (T, 3) int64: subject and object nodes around a predicate's place
    object_image: Tensor  # (O,) int64, which graph each object is of
    in_image: Tensor  # (O,) int64, the triple by which each object is in its image

    @property
    def num_images(self) -> int:
        return len(self.nodes) - len(self.object_image)

    @property
    def node_image(self) -> Tensor:
        """(V,) which graph each node is of, the image nodes too."""
        images = torch.arange(self.num_images, device=self.object_image.device)
        return torch.cat([self.object_image, images])

    def to(self, device: torch.device | str) -> "GraphBatch":
        return GraphBatch(*(t.to(device, non_blocking=True) for t in self))


class GraphEncoding(NamedTuple):
    """What the network predicts for every node (objects and image nodes)."""

    vectors: Tensor  # (V, D) of objects, then image nodes
    boxes: Tensor  # (V, 4) x0 y0 x1 y1, not clamped: at least 0, perhaps over 1
    masks: Tensor | None  # (V, 16, 16) in (0, 1), inside the box


def graph_tensors(
    graphs: Sequence[tuple[Sequence[str], Sequence[Relation]]], vocabulary: Vocabulary
) -> GraphBatch:
    """Join (objects, relations) pairs, e.g. `(sample.objects, sample.triples)` of each scene.

    Every object gets its `__in_image__` edge, behind the graph's own relations.
    """
    nodes: list[int] = []
    object_image: list[int] = []
    triples: list[tuple[int, int, int]] = []
    membership: list[int] = []
    num_objects = sum(len(objects) for objects, _ in graphs)
    in_image = vocabulary.predicate_index(IN_IMAGE)
    for n, (objects, relations) in enumerate(graphs):
        first = len(nodes)
        nodes += [_place(vocabulary.object_index, name, vocabulary.objects) for name in objects]
        object_image += [n] * len(objects)
        for subject, predicate, target in relations:
            if not (0 <= subject < len(objects) and 0 <= target < len(objects)):
                raise UserError(
                    f"graph {n}: relation [{subject}, {predicate!r}, {target}] names an object "
                    f"outside 0 to {len(objects) - 1}"
                )
            place = _place(vocabulary.predicate_index, predicate, vocabulary.predicates)
            triples.append((first + subject, place, first + target))
        membership += range(len(triples), len(triples) + len(objects))
        triples += [(first + o, in_image, num_objects + n) for o in range(len(objects))]
    nodes += [vocabulary.object_index(IMAGE)] * len(graphs)
    return GraphBatch(
        torch.tensor(nodes, dtype=torch.int64),
        torch.tensor(triples, dtype=torch.int64).reshape(-1, 3),
        torch.tensor(object_image, dtype=torch.int64),
        torch.tensor(membership, dtype=torch.int64),
    )


def twice(graph: GraphBatch) -> GraphBatch:
    """The same graphs twice: objects, objects again, then image nodes, image nodes again."""
    objects, images = len(graph.object_image), graph.num_images
    node = torch.arange(len(graph.nodes), device=graph.nodes.device)
    first = torch.where(node < objects, node, node + objects)
    second = torch.where(node < objects, node + objects, node + objects + images)
    subject, predicate, other = graph.triples.unbind(1)
    triples = torch.cat(
        [torch.stack([at[subject], predicate, at[other]], 1) for at in (first, second)]
    )
    object_nodes, image_nodes = graph.nodes[:objects], graph.nodes[objects:]
    nodes = torch.cat([object_nodes, object_nodes, image_nodes, image_nodes])
    object_image = torch.cat([graph.object_image, graph.object_image + images])
    in_image = torch.cat([graph.in_image, graph.in_image + len(graph.triples)])
    return GraphBatch(nodes, triples, object_image, in_image)


def _place(index: Any, name: str, known: Sequence[str]) -> int:
    try:
        return int(index(name))
    except KeyError:
        raise UserError(
            f"{name!r} is not in the graph network's vocabulary; "
            f"{suggestion(name, list(known[1:]))}"
        ) from None


def mlp(*sizes: int) -> nn.Sequential:
    """ReLU after every linear layer, the last included (sg2im)."""
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(sizes):
        linear = nn.Linear(inputs, outputs)
        nn.init.kaiming_normal_(linear.weight)
        layers += [linear, nn.ReLU()]
    return nn.Sequential(*layers)


class GraphTripleConv(nn.Module):
    """One graph convolution: messages along the triples, averaged at their nodes."""

    def __init__(self, size: int, hidden: int) -> None:
        super().__init__()
        self.hidden = hidden
        self.size = size
        self.net1 = mlp(3 * size, hidden, 2 * hidden + size)
        self.net2 = mlp(hidden, hidden, size)

    def forward(
        self, objects: Tensor, predicates: Tensor, triples: Tensor
    ) -> tuple[Tensor, Tensor]:
        """
        objects     (V, D)  node vectors
        predicates  (T, D)  edge vectors
        triples     (T, 3)  only the ends (columns 0 and 2) are used
        """
        subject, target = triples[:, 0], triples[:, 2]
        of_subject, of_target = (gather(objects, at) for at in (subject, target))
        both = torch.cat([of_subject, predicates, of_target], dim=1)
        to_subject, predicates, to_target = self.net1(both).split(
            [self.hidden, self.size, self.hidden], dim=1
        )
        ends = torch.cat([subject, target])
        pooled = scatter(torch.cat([to_subject, to_target]), ends, len(objects))  # (V, hidden)
        counts = count(ends, len(objects)).clamp(min=1)
        return self.net2(pooled / counts[:, None].to(pooled)), predicates


class GraphNet(nn.Module):
    """Graph convolutions, one after the other."""

    def __init__(self, size: int, hidden: int, layers: int) -> None:
        super().__init__()
        self.gconvs = nn.ModuleList(GraphTripleConv(size, hidden) for _ in range(layers))

    def forward(
        self, objects: Tensor, predicates: Tensor, triples: Tensor
    ) -> tuple[Tensor, Tensor]:
        for gconv in self.gconvs:
            objects, predicates = gconv(objects, predicates, triples)
        return objects, predicates


def _mask_net(size: int, side: int) -> MaskedSequential:
    """(V, D, 1, 1) -> (V, 1, side, side) logits, doubling the side at each step."""
    layers: list[nn.Module] = []
    for _ in range(int(math.log2(side))):
        layers += [
            nn.Upsample(scale_factor=2, mode="nearest"),
            MaskedBatchNorm2d(size),
            nn.Conv2d(size, size, kernel_size=3, padding=1),
            nn.ReLU(),
        ]
    return MaskedSequential(*layers, nn.Conv2d(size, 1, kernel_size=1))


class GraphEncoder(nn.Module):
    """Embeddings, graph convolutions, and heads for boxes and masks (Johnson et al. 2018)."""

    kind: ClassVar[str] = KIND  # in the header of its files

    def __init__(
        self,
        vocabulary: Vocabulary,
        embedding: int = 128,
        hidden: int = 512,
        layers: int = 5,
        masks: bool = True,
    ) -> None:
        super().__init__()
        self.vocabulary = vocabulary
        self.sizes: dict[str, Any] = {
            "embedding": embedding,
            "hidden": hidden,
            "layers": layers,
            "masks": masks,
        }
        # One row more than there are names, as in sg2im's files; nothing points to it.
        self.obj_embeddings = nn.Embedding(len(vocabulary.objects) + 1, embedding)
        self.pred_embeddings = nn.Embedding(len(vocabulary.predicates), embedding)
        self.gconv = GraphTripleConv(embedding, hidden)
        self.gconv_net = GraphNet(embedding, hidden, layers - 1)
        self.box_net = mlp(embedding, hidden, 4)
        self.mask_net = _mask_net(embedding, MASK_SIZE) if masks else None

    def encode(self, nodes: Tensor, triples: Tensor) -> Tensor:
        """Node vectors (V, D) alone: what the bank's features are."""
        objects = self.obj_embeddings(nodes)
        predicates = self.pred_embeddings(triples[:, 1])
        objects, predicates = self.gconv(objects, predicates, triples)
        objects, _ = self.gconv_net(objects, predicates, triples)
        return objects  # type: ignore[no-any-return]

    def box_sides(self, objects: Tensor) -> Tensor:
        """(V, D) -> (V, 4) boxes before the head's last ReLU, for losses: under it a side that has
        fallen below zero would never learn."""
        return self.box_net[:-1](objects)  # type: ignore[no-any-return]

    def mask_logits(self, objects: Tensor, rows: Tensor | None = None) -> Tensor:
        """(V, D) -> (V, 16, 16) float32

        rows  (V,)  False for nodes that batch normalisation is not to see; None: it sees all
        """
        assert self.mask_net is not None
        logits: Tensor = self.mask_net(objects[:, :, None, None], rows)[:, 0]
        return logits.float()

    def forward(self, nodes: Tensor, triples: Tensor) -> GraphEncoding:
        """
        nodes    (V,)    int64, place in vocabulary.objects
        triples  (T, 3)  int64: subject node, place in vocabulary.predicates, object node
        """
        objects = self.encode(nodes, triples)
        masks = None if self.mask_net is None else self.mask_logits(objects).sigmoid()
        return GraphEncoding(objects, self.box_net(objects), masks)

    def save(self, path: Path) -> None:
        """Weights, with sizes and vocabulary in the file's own header."""
        about = {"sizes": self.sizes, "vocabulary": self.vocabulary.to_json()}
        write_network(path, self, self.kind, about)

    @classmethod
    def load(cls, path: Path) -> Self:
        """In evaluation mode, on the CPU."""
        weights, about = read_network(path, cls.kind)
        with built_from(path):
            encoder = cls(Vocabulary.from_json(about["vocabulary"]), **about["sizes"])
            encoder.load_state_dict(weights)
        return encoder.eval()
