"""A trained sg2im, opened for use: scene graph in, image out. A run or a published checkpoint."""

from collections.abc import Sequence
from pathlib import Path
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray

from model import checkpoint
from model.config import Sg2ImConfig, Which
from model.graph.network import GraphBatch, GraphEncoder, GraphEncoding, graph_tensors
from model.graph.vocabularies import check_names
from model.run_folder import read_config
from model.sg2im.imagenet import denormalised
from model.sg2im.network import Sg2Im
from model.sg2im.published import is_published, load_published_graph, load_published_sg2im
from pipeline.errors import UserError
from pipeline.scene import Box, SceneGraph, Vocabulary
from pipeline.wording import counted

WHOLE = Box(0.0, 0.0, 1.0, 1.0)


def load_network(run: Path, device: torch.device, which: Which | int = "last") -> Sg2Im:
    """The network of an sg2im run, in evaluation mode; the bank is not needed."""
    config, _ = read_config(run, Sg2ImConfig)
    folder = checkpoint.chosen(run, which)
    model = Sg2Im(checkpoint.read_state(folder).vocabulary, **config.sizes)
    checkpoint.fill_model(folder, model)
    return model.to(device).eval()


def load_graph_encoder(path: Path) -> GraphEncoder:
    """A frozen graph network: a `.safetensors` of ours, a published sg2im checkpoint (`.pt`), or
    the folder of an sg2im run."""
    if is_published(path):
        return load_published_graph(path).network
    if path.is_dir():
        return load_network(path, torch.device("cpu")).graph_part()
    return GraphEncoder.load(path).requires_grad_(False)


def graph_encoder_file(path: Path) -> Path:
    """The file that holds the weights which `load_graph_encoder` takes from `path`."""
    if not path.is_dir():
        return path
    read_config(path, Sg2ImConfig)
    return checkpoint.last(path) / checkpoint.MODEL


class Sg2ImRun:
    """An sg2im network. All that is random is a function of the given seed."""

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
        self.ignored = tuple(ignored)  # parts of a published checkpoint that are not used

    @classmethod
    def open(
        cls,
        source: Path | str,
        device: torch.device | str = "cpu",
        which: Which | int = "last",
    ) -> Self:
        """The folder of a run of an sg2im recipe (its bank is not needed), or a `.pt` file in the
        published layout."""
        path = Path(source)
        if is_published(path):
            network, ignored = load_published_sg2im(path)
            return cls(network, device, path, ignored)
        return cls(load_network(path, torch.device(device), which), device, path)

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
        """The image (H, W, 3) uint8 of a graph; masks are always predicted.

        boxes    where each object lies; by default the graph's own where it has some, else
                 predicted, as they come: sides may lie outside the image
        seed     of the layout's noise
        rescale  brighten and stretch to the full range, as the published sampling does
        """
        batch = self._batch(graph)
        boxes = graph.boxes if boxes is None else boxes
        node_boxes = None
        if boxes is not None:
            if len(boxes) != len(graph.objects):
                objects = counted(len(graph.objects), "object")
                raise UserError(f"{counted(len(boxes), 'box')} given for a graph of {objects}")
            node_boxes = torch.tensor([*boxes, WHOLE], dtype=torch.float32, device=self.device)
        with torch.no_grad():
            noise = torch.Generator().manual_seed(seed)  # on the CPU: the same on every device
            images = self.model.generate(batch, noise, node_boxes).images
        pixels: NDArray[np.uint8] = denormalised(images, rescale=rescale)[0].numpy()
        return pixels

    def predict_boxes(self, graph: SceneGraph) -> tuple[Box, ...]:
        """Where the network puts each object, unchanged: at least 0, perhaps over 1."""
        batch = self._batch(graph)
        with torch.no_grad():
            encoding: GraphEncoding = self.model(batch.nodes, batch.triples)
        return tuple(Box(*sides) for sides in encoding.boxes[: len(graph.objects)].tolist())

    def _batch(self, graph: SceneGraph) -> GraphBatch:
        if not graph.objects:
            raise UserError("the graph has no objects: give at least one")
        check_names(graph, self.vocabulary, str(self.source))
        return graph_tensors([(graph.objects, graph.relations)], self.vocabulary).to(self.device)
