"""The forward pass, in the order of the paper's Figure 2: encode, retrieve, compose."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from model.batch import CandidateBatch, pixels
from model.config import TrainConfig
from model.graph.network import GraphBatch, GraphEncoder, GraphEncoding
from model.retrieval.embedding import PatchEmbedding
from model.retrieval.greedy import (
    Grid,
    Retrieved,
    add_truth,
    grid_of,
    ground_truth_selection,
    medoid_start,
    random_start,
    retrieve,
    retrieve_best,
)
from model.retrieval.relaxation import gumbel
from model.retrievegan.composition import CropEncoder, Fuser, Nodes, Refinement
from model.retrievegan.decoder import CascadedDecoder, ResidualBlock
from pipeline.scene import Vocabulary

NEAREST = 3  # `predefined` draws among so many in training, as PasteGAN does


class Selection(NamedTuple):
    """What the ground-truth pass says."""

    losses: Tensor  # (O,) -log share of the true patch; 0 at each image's first query
    counted: Tensor  # (O,) True where it counts


class RetrieveGAN(nn.Module):
    """Scene graph + candidates -> one patch per object -> image."""

    def __init__(self, config: TrainConfig, vocabulary: Vocabulary) -> None:
        super().__init__()
        self.config = config
        sizes = config.generator
        self.graph = GraphEncoder(
            vocabulary,
            embedding=config.graph.width,
            hidden=config.graph.hidden,
            layers=config.graph.layers,
            masks=False,
        )
        self.embedding = PatchEmbedding(config.retrieval.channels, config.retrieval.width)
        self.crop_encoder = CropEncoder(sizes.crop_channels, sizes.crop_width)
        self.predicates = nn.Embedding(len(vocabulary.predicates), sizes.crop_width)
        self.refinement = nn.ModuleList(
            Refinement(sizes.crop_width, sizes.crop_width, sizes.refine_hidden)
            for _ in range(sizes.refine_layers)
        )
        self.fuser = Fuser(
            config.graph.width + sizes.crop_width, sizes.crop_width, sizes.canvas_width
        )
        self.residual = nn.Sequential(
            *(ResidualBlock(sizes.canvas_width) for _ in range(sizes.residual_blocks))
        )
        self.decoder = CascadedDecoder(sizes.canvas_width, sizes.decoder)

    def encode(self, graph: GraphBatch) -> GraphEncoding:
        """Object vectors (V, D) and predicted boxes (V, 4)."""
        encoding: GraphEncoding = self.graph(graph.nodes, graph.triples)
        return encoding

    def box_sides(self, vectors: Tensor) -> Tensor:
        """Predicted boxes (V, 4) before the last ReLU, for the loss."""
        return self.graph.box_sides(vectors)

    def embed(self, patches: Tensor) -> Tensor:
        """E_p: patches (..., P, P, 3) uint8 -> (..., E)."""
        seen = pixels(patches, self.config.retrieval.patch_px)
        flat: Tensor = self.embedding(seen.flatten(0, -4))
        return flat.reshape(*patches.shape[:-3], -1)

    def choose(
        self,
        candidates: CandidateBatch,
        features: Tensor | None,
        grid: Grid,
        generator: torch.Generator | None,
        *,
        noise: bool,
    ) -> Retrieved:
        """One patch per object, by the run's way of retrieving.

        features (O, K, E) of the candidates; None unless retrieval is learned. `generator` draws
        start and noise. With `noise` off, predefined takes the nearest.
        """
        rule, valid = self.config.retrieval, candidates.valid
        if features is None:
            return _fixed_choice(valid, rule.mode, generator, among=NEAREST if noise else 1)
        drawn = gumbel(tuple(valid.shape), generator).to(valid.device) if noise else None
        if rule.start == "best":
            return retrieve_best(
                features, valid, grid,
                noise=drawn, temperature=rule.temperature, relaxation=rule.relaxation,
            )  # fmt: skip
        query = (
            random_start(features, valid, grid, generator)
            if rule.start == "random"
            else medoid_start(features, valid, grid)
        )
        return retrieve(
            features, valid, grid, query,
            noise=drawn, temperature=rule.temperature, relaxation=rule.relaxation,
        )  # fmt: skip

    def ground_truth_pass(
        self,
        features: Tensor,
        valid: Tensor,
        truth: Tensor,
        grid: Grid,
        generator: torch.Generator | None,
    ) -> Selection:
        """One true patch of each image asks for the others (section 2.2).

        features (O, K, E) of the candidates, truth (O, E) of the true patches.
        """
        joined, allowed, slot = add_truth(features, valid, truth, generator)
        places = grid.present.float().cpu()
        start = torch.multinomial(places, 1, generator=generator)[:, 0].to(valid.device)
        losses = ground_truth_selection(
            joined, allowed, truth, slot, grid, start, self.config.retrieval.temperature
        )
        return Selection(losses, grid.place != start[grid.image])

    def generate(
        self, vectors: Tensor, graph: GraphBatch, patches: Tensor, boxes: Tensor
    ) -> Tensor:
        """Compose and decode.

        vectors (V, D) graph vectors, patches (O, 3, P, P) in [-1, 1], boxes (O, 4) -> images
        (N, 3, H, W), about [-1, 1].
        """
        subject, predicate, other = graph.triples.unbind(1)
        objects = len(graph.object_image)
        encoded = self.crop_encoder(patches)
        h, w = encoded.shape[-2:]
        blank = encoded.new_zeros((len(vectors) - objects, *encoded.shape[1:]))
        maps = torch.cat([encoded, blank])  # the picture itself has no patch
        messages = self.predicates(predicate)[:, :, None, None].expand(-1, -1, h, w)
        for layer in self.refinement:
            refined, messages = layer(maps, messages, subject, other)
            maps = maps + refined
        member = predicate == 0  # `__in_image__`, once per object
        in_image = messages.new_zeros((objects, *messages.shape[1:]))
        in_image = in_image.index_copy(0, subject[member], messages[member])
        nodes = Nodes(vectors, maps, in_image)
        canvas = self.fuser(nodes, boxes, graph.object_image, self.config.generator.canvas_px)
        image: Tensor = self.decoder(self.residual(canvas), self.config.image_px)
        return image

    def selected_pixels(self, candidates: CandidateBatch, weights: Tensor) -> Tensor:
        """Weights (O, K) over candidates -> the patches that go on the canvas, (O, 3, P, P)."""
        seen = pixels(candidates.patches, self.config.generator.crop_px)
        return torch.einsum("ok,okchw->ochw", weights, seen)


def grid_of_batch(graph: GraphBatch) -> Grid:
    """The grid of a graph batch: its objects, without the picture nodes."""
    return grid_of(graph.object_image, len(graph.nodes) - len(graph.object_image))


def _fixed_choice(
    valid: Tensor, mode: str, generator: torch.Generator | None, among: int
) -> Retrieved:
    """Without a learned embedding: any candidate, or one of the `among` nearest."""
    share = valid.float().cpu()
    if mode == "predefined":
        share[:, among:] = 0
    chosen = torch.multinomial(share, 1, generator=generator)[:, 0].to(valid.device)
    weights = torch.nn.functional.one_hot(chosen, valid.shape[1]).float()
    return Retrieved(weights, chosen, torch.zeros_like(chosen))
