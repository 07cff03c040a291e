"""The network, in the order of the paper's Figure 2: encode, retrieve, compose, decode."""

from collections.abc import Callable
from functools import cache, partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from model.batch import CandidateBatch, SceneBatch, with_truth
from model.config import RetrieveGANConfig
from model.graph.network import GraphBatch, GraphEncoder, twice
from model.padding import Padding
from model.pixels import to_float
from model.precision import in_float32
from model.retrieval.choice import choose
from model.retrieval.embedding import PatchEmbedding
from model.retrieval.greedy import Selection
from model.retrieval.truth import add_truth, all_pairs, ground_truth_selection
from model.retrievegan.composition import CropEncoder, CropRefinement, Fuser, Nodes
from model.retrievegan.decoder import CascadedDecoder, ResidualBlock
from model.rows import gather
from pipeline.scene import Vocabulary


class Retrieved(NamedTuple):
    """What the two passes of section 2.2 make of a batch."""

    # (O,) -log probability of the true patch, 0 at each image's first query; None unless
    # retrieval is learned
    gt_selection: Tensor | None
    candidates: CandidateBatch  # those that `selection` chooses among
    selection: Selection
    cooccurrence: Tensor | None  # (O, F) of the selected patches; None unless retrieval is learned


class Images(NamedTuple):
    """Of each scene, about [-1, 1]."""

    composed: Tensor  # (N, 3, H, W) from the selected patches
    rebuilt: Tensor  # (N, 3, H, W) from the true patches


class Output(NamedTuple):
    """What one forward pass makes of a batch. Objects are placed by their true boxes."""

    box_sides: Tensor  # (O, 4) predicted boxes before the last ReLU: sides may be below 0
    gt_selection: Tensor | None  # this and the next three: as in Retrieved
    candidates: CandidateBatch
    selection: Selection
    cooccurrence: Tensor | None
    images: Images | None  # None while training where no loss looks at them


class RetrieveGAN(nn.Module):
    """Scene graph + candidates -> one patch per object -> image."""

    def __init__(self, config: RetrieveGANConfig, vocabulary: Vocabulary) -> None:
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
        of_patches = config.retrieval
        self.embedding = PatchEmbedding(
            of_patches.channels,
            of_patches.width,
            stem_stride=of_patches.stem_stride,
            pooling=of_patches.pooling,
        )
        self.crop_encoder = CropEncoder(sizes.crop_channels, sizes.crop_width)
        self.predicates = nn.Embedding(len(vocabulary.predicates), sizes.crop_width)
        self.refinement = nn.ModuleList(
            CropRefinement(sizes.crop_width, sizes.crop_width, sizes.refine_hidden)
            for _ in range(sizes.refine_layers)
        )
        self.fuser = Fuser(
            config.graph.width + sizes.crop_width, sizes.crop_width, sizes.canvas_width
        )
        self.residual = nn.Sequential(
            *(ResidualBlock(sizes.canvas_width) for _ in range(sizes.residual_blocks))
        )
        self.decoder = CascadedDecoder(sizes.canvas_width, sizes.decoder)

    def forward(self, batch: SceneBatch) -> Output:
        """Figure 2: encode the graph, retrieve, compose and decode; both passes of section 2.2.

        Images from selected and from true patches are made in one call, as one batch of 2 N.
        """
        graph, padding, objects = batch.graph, batch.padding, len(batch.boxes)
        with in_float32(batch.boxes.device):
            vectors = self.encode(graph)
            joined = with_truth(batch)
            pixels = cache(partial(to_float, joined.patches))  # (O, K + 1, 3, P, P) for each side P
            retrieved = self.retrieve(batch, joined, pixels)
            box_sides = self.graph.box_sides(vectors[:objects])
            if self.training and not self.config.losses.of_images:
                return Output(box_sides, *retrieved, images=None)
            of_patches = pixels(self.config.generator.patch_px)
            selected = mixed(of_patches, retrieved.selection.weights)
            patches = torch.cat([selected, of_patches[:, -1]])
        images = self.generate(
            torch.cat([vectors[:objects]] * 2 + [vectors[objects:]] * 2),
            twice(graph),
            padding.twice(),
            patches,
            torch.cat([batch.boxes, batch.boxes]),
        )
        return Output(box_sides, *retrieved, Images(*images.chunk(2)))

    def retrieve(
        self, batch: SceneBatch, joined: CandidateBatch, pixels: Callable[[int], Tensor]
    ) -> Retrieved:
        """Both passes of section 2.2: the choice of patches, and how probable the true ones are.

        joined  the candidates with the true patch behind them
        pixels  side P -> their pixels (O, K + 1, 3, P, P) in [-1, 1]
        """
        rule, padding, draws = self.config.retrieval, batch.padding, batch.draws
        candidates = batch.candidates
        if rule.mode != "learned":
            selection = choose(
                rule, None, candidates.valid, padding, draws.choice, candidates.crops
            )
            return Retrieved(None, candidates, selection, None)
        joined_features = self.embed_pixels(pixels(rule.patch_px))  # (O, K + 1, E)
        features, true_features = joined_features[:, :-1], joined_features[:, -1]
        gt_selection = self.ground_truth_pass(features, true_features, batch)
        if rule.gt_in_candidates:
            candidates, features = joined, joined_features
        selection = choose(
            rule, features, candidates.valid, padding, draws.choice, candidates.crops
        )
        cooccurrence = torch.einsum("ok,okf->of", selection.weights, candidates.cooccurrence)
        return Retrieved(gt_selection, candidates, selection, cooccurrence)

    def encode(self, graph: GraphBatch) -> Tensor:
        """Graph vectors (V, D)."""
        return self.graph.encode(graph.nodes, graph.triples)

    def embed(self, patches: Tensor) -> Tensor:
        """E_p: patches (..., P, P, 3) uint8 -> (..., E)."""
        return self.embed_pixels(to_float(patches, self.config.retrieval.patch_px))

    def embed_pixels(self, pixels: Tensor) -> Tensor:
        """E_p: pixels (..., 3, p, p) in [-1, 1], p being `retrieval.patch_px` -> (..., E)."""
        flat: Tensor = self.embedding(pixels.flatten(0, -4))
        return flat.reshape(*pixels.shape[:-3], -1)

    def ground_truth_pass(self, features: Tensor, truth: Tensor, batch: SceneBatch) -> Tensor:
        """How probable the true patches are, as the loss of section 2.2 sees it: (O,).

        features  (O, K, E)  of the candidates
        truth     (O, E)     of the true patches
        """
        rule, padding, valid = self.config.retrieval, batch.padding, batch.candidates.valid
        if rule.objective == "pairs":
            categories = batch.graph.nodes[: len(truth)]
            photos = batch.true_crops.photo
            return all_pairs(features, valid, truth, categories, photos, padding, rule.temperature)
        draws = batch.draws.truth
        assert draws is not None
        joined, allowed, slot = add_truth(features, valid, truth, draws.order)
        return ground_truth_selection(
            joined, allowed, truth, slot, padding, draws.first, rule.temperature, rule.query
        )

    def generate(
        self, vectors: Tensor, graph: GraphBatch, padding: Padding, patches: Tensor, boxes: Tensor
    ) -> Tensor:
        """Compose and decode.

        vectors  (V, D)        graph vectors
        patches  (O, 3, h, w)  in [-1, 1]
        boxes    (O, 4)

        Returns images (N, 3, H, W), about [-1, 1].
        """
        subject, predicate, other = graph.triples.unbind(1)
        objects = len(graph.object_image)
        encoded = self.crop_encoder(patches)
        h, w = encoded.shape[-2:]
        blank = encoded.new_zeros((len(vectors) - objects, *encoded.shape[1:]))
        maps = torch.cat([encoded, blank])  # an image node has no patch
        messages = self.predicates(predicate)[:, :, None, None].expand(-1, -1, h, w)
        for layer in self.refinement:
            refined, messages = layer(maps, messages, subject, other)
            maps = maps + refined
        nodes = Nodes(vectors, maps, gather(messages, graph.in_image))
        canvas = self.fuser(nodes, boxes, padding, self.config.generator.canvas_px)
        image: Tensor = self.decoder(self.residual(canvas), self.config.image_px)
        return image.float()


def mixed(pixels: Tensor, weights: Tensor) -> Tensor:
    """Patches (O, more than K, c, h, w), the first K of each object mixed by weights (O, K)."""
    return torch.einsum("ok,okchw->ochw", weights, pixels[:, : weights.shape[1]])
