"""An sg2im opened for use: scene graph in, image out. A run of ours or a published checkpoint."""

from collections.abc import Sequence
from pathlib import Path
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray

from model.checkpoint import load_sg2im
from model.graph.network import GraphBatch, GraphEncoding, graph_tensors
from model.graph.vocabularies import check_names
from model.sg2im.imagenet import pictures
from model.sg2im.network import Sg2Im
from model.sg2im.published import is_published, load_published_sg2im
from pipeline.errors import UserError
from pipeline.scene import Box, SceneGraph, Vocabulary

WHOLE = Box(0.0, 0.0, 1.0, 1.0)


class Sg2ImSampler:
    """Everything drawn is a function of the seed that is given."""

    def __init__(
        self,
        model: Sg2Im,
        device: torch.device | str = "cpu",
        source: Path | str = "this network",
        ignored: Sequence[str] = (),
    ) -> None:
        self.model = model.to(device).eval()
        self.device = torch.device(device)
        self.source = source  # where it comes from, for messages
        self.ignored = tuple(ignored)  # what a published checkpoint has that is of no use here

    @classmethod
    def open(cls, source: Path | str, device: torch.device | str = "cpu") -> Self:
        """The folder of a run of an sg2im recipe (its bank is not needed), or a `.pt` file in the
        published layout."""
        path = Path(source)
        if is_published(path):
            network, ignored = load_published_sg2im(path)
            return cls(network, device, path, ignored)
        return cls(load_sg2im(path, torch.device(device)), device, path)

    @property
    def vocabulary(self) -> Vocabulary:
        """The names that a graph may use."""
        return self.model.vocabulary

    def generate(
        self,
        graph: SceneGraph,
        *,
        boxes: Sequence[Box] | None = None,
        seed: int = 0,
        rescale: bool = True,
    ) -> NDArray[np.uint8]:
        """The picture (H, W, 3) of a graph; masks are always predicted.

        boxes    where each object lies; by default the graph's own where it has some, else
                 predicted, as they come: sides may lie outside the picture
        seed     of the layout's noise
        rescale  brighten and stretch to the full range, as the published sampling does
        """
        batch = self._batch(graph)
        places = graph.boxes if boxes is None else boxes
        given = None
        if places is not None:
            if len(places) != len(graph.objects):
                raise UserError(
                    f"the graph has {len(graph.objects)} objects, but {len(places)} boxes were "
                    f"given"
                )
            given = torch.tensor([*places, WHOLE], dtype=torch.float32, device=self.device)
        with torch.no_grad():
            noise = torch.Generator().manual_seed(seed)  # on the CPU: the same on every device
            images = self.model.generate(batch, noise, given).images
        picture: NDArray[np.uint8] = pictures(images, rescale=rescale)[0].numpy()
        return picture

    def predict_boxes(self, graph: SceneGraph) -> tuple[Box, ...]:
        """Where the network puts each object, as it says: at least 0, perhaps over 1."""
        batch = self._batch(graph)
        with torch.no_grad():
            encoding: GraphEncoding = self.model(batch.nodes, batch.triples)
        return tuple(Box(*sides) for sides in encoding.boxes[: len(graph.objects)].tolist())

    def _batch(self, graph: SceneGraph) -> GraphBatch:
        if not graph.objects:
            raise UserError("the graph has no objects: give at least one")
        check_names(graph, self.vocabulary, str(self.source))
        return graph_tensors([(graph.objects, graph.relations)], self.vocabulary).to(self.device)
