"""The whole of sg2im (Johnson et al. 2018): scene graph -> image, without retrieval.

Names and shapes of the parameters are those of the published checkpoints, so these load.
"""

from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from model.config import SG2IM_DECODER
from model.graph.network import GraphBatch, GraphEncoder, GraphEncoding, mlp
from model.padding import Padding, padding_of
from model.sg2im.cascaded_refinement import RefinementNetwork
from model.sg2im.layout import coverage, lay_out
from pipeline.scene import Vocabulary

SLOPE = 0.2  # of LeakyReLU


class Generated(NamedTuple):
    """What one forward pass makes of N graphs."""

    images: Tensor  # (N, 3, H, W) normalised by ImageNet's mean and standard deviation
    layout: Tensor  # (N, D, H, W) without noise
    encoding: GraphEncoding  # of all nodes


class Sg2Im(GraphEncoder):
    """The graph network, the layout of what it predicts, and a decoder from layout to image."""

    kind: ClassVar[str] = "sg2im, format 1"

    def __init__(
        self,
        vocabulary: Vocabulary,
        embedding: int = 128,
        hidden: int = 512,
        layers: int = 5,
        masks: bool = True,
        image_px: int = 64,
        noise: int = 32,
        decoder: tuple[int, ...] = SG2IM_DECODER,
        slope: float = SLOPE,
    ) -> None:
        """
        masks    False: boxes are filled, as sg2im with a mask size of 0
        noise    channels of noise beside the layout
        decoder  channels of the refinement modules, coarse to fine
        """
        super().__init__(vocabulary, embedding, hidden, layers, masks)
        self.image_px, self.noise = image_px, noise
        self.sizes |= {
            "image_px": image_px,
            "noise": noise,
            "decoder": list(decoder),
            "slope": slope,
        }
        # sg2im's files hold this head, whose loss has weight 0; here it is only carried.
        predicates = len(vocabulary.predicates)
        self.rel_aux_net = mlp(2 * embedding + 8, hidden, predicates)
        self.refinement_net = RefinementNetwork(embedding + noise, tuple(decoder), slope)
        # sg2im starts its graph convolutions by He's rule and leaves these heads to PyTorch.
        for layer in (*self.box_net, *self.rel_aux_net):
            if isinstance(layer, nn.Linear):
                layer.reset_parameters()

    def draw_noise(self, num_images: int, generator: torch.Generator) -> Tensor:
        """(N, noise, H, W), drawn on the generator's device, given on the network's."""
        shape = (num_images, self.noise, self.image_px, self.image_px)
        drawn = torch.randn(shape, generator=generator, device=generator.device)
        return drawn.to(self.obj_embeddings.weight.device)

    def lay_out(
        self, vectors: Tensor, boxes: Tensor, masks: Tensor | None, padding: Padding
    ) -> Tensor:
        """
        vectors  (V, D)
        boxes    (V, 4)       of objects and image nodes
        masks    (V, 16, 16)  None: filled boxes
        padding               of the objects

        Returns (N, D, H, W).
        """
        return lay_out(vectors, coverage(boxes, masks, self.image_px), padding)

    def decode(self, layout: Tensor, noise: Tensor) -> Tensor:
        """Layout (N, D, H, W) and noise (N, noise, H, W) -> images (N, 3, H, W)."""
        images: Tensor = self.refinement_net(torch.cat([layout, noise], 1))
        return images.float()

    def generate(
        self,
        graph: GraphBatch,
        noise: Tensor | torch.Generator,
        boxes: Tensor | None = None,
        masks: Tensor | None = None,
    ) -> Generated:
        """From graphs to images.

        noise  (N, noise, H, W), or what draws it
        boxes  (V, 4)       in place of the predicted ones
        masks  (V, 16, 16)  in place of the predicted ones
        """
        encoding: GraphEncoding = self(graph.nodes, graph.triples)
        layout = self.lay_out(
            encoding.vectors,
            encoding.boxes if boxes is None else boxes,
            encoding.masks if masks is None else masks,
            padding_of(graph.object_image, graph.num_images),
        )
        if isinstance(noise, torch.Generator):
            noise = self.draw_noise(graph.num_images, noise)
        return Generated(self.decode(layout, noise), layout, encoding)

    def graph_part(self) -> GraphEncoder:
        """A frozen copy of what encodes graphs, without what draws."""
        names = ("embedding", "hidden", "layers", "masks")
        part = GraphEncoder(self.vocabulary, **{name: self.sizes[name] for name in names})
        own = self.state_dict()
        part.load_state_dict({name: own[name] for name in part.state_dict()})
        return part.eval().requires_grad_(False)
