"""One pass of the network: what each part is given, and where its results go (Figure 2)."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from model.batch import CandidateBatch, with_truth
from model.draws import ByPosition
from model.graph.network import graph_tensors, twice
from model.padding import padding_of
from model.pixels import to_float
from model.recipes import demo, paper
from model.retrieval.choice import ChoiceDraws, Draws, TruthDraws, draw_passes, numbers_per_object
from model.retrieval.crops import Crops
from model.retrieval.truth import all_pairs
from model.retrievegan.network import RetrieveGAN
from tests.model.retrievegan.small import (
    COMPOSED_PX,
    EMBEDDED_PX,
    SCENES,
    VOCABULARY,
    K,
    N,
    O,
    small_batch,
    small_config,
    with_draws,
)

PADDING = padding_of(torch.tensor([0, 0, 0, 1, 1]), 2)
# By hand: the slots of the true patches, the first queries, the starts (object * K + candidate).
ORDER = torch.tensor([[3, 0, 1, 2], [0, 3, 1, 2], [2, 1, 0, 3], [1, 2, 3, 0], [0, 1, 2, 3]])
FIRST = torch.tensor([2, 0])
START = torch.tensor([4, 1])


def small_network(**changes) -> RetrieveGAN:
    """With a warp that moves something: at the start of training all flows are 0."""
    torch.manual_seed(3)
    network = RetrieveGAN(small_config(**changes), VOCABULARY)
    with torch.no_grad():
        for layer in network.refinement:
            layer.flow[2].weight.normal_(0, 0.2)
            layer.flow[2].bias.normal_(0, 0.2)
    return network


def some_draws(network, *, noise=True):
    k = K + network.config.retrieval.gt_in_candidates
    drawn = torch.randn(O, k, generator=torch.Generator().manual_seed(8)) if noise else None
    return Draws(TruthDraws(ORDER, FIRST), ChoiceDraws(noise=drawn, start=START))


def generated(network, batch, patches):
    """The image of the given patches (O, P, P, 3) alone, in no batch with another."""
    vectors, pixels = network.encode(batch.graph), to_float(patches, COMPOSED_PX)
    return network.generate(vectors, batch.graph, batch.padding, pixels, batch.boxes)


def calls_of(module):
    """The (arguments, result) of every call of a module from now on."""
    calls = []
    module.register_forward_hook(lambda _, arguments, result: calls.append((arguments, result)))
    return calls


@pytest.fixture
def batch():
    return small_batch()


# Retrieval by numbers


def by_hand(features, valid, query, noise, temperature):
    """Eqs. 1 and 2 for one image in plain Python: weights (n, K) and the selected candidates."""
    objects, k = features.shape[:2]
    unassigned, bias = list(range(objects)), noise.clone()
    weights, selected, features_so_far = torch.zeros(objects, k), [0] * objects, []
    while unassigned:
        logits = {
            (o, i): (bias[o, i] - (query - features[o, i]).norm()).item()
            for o in unassigned for i in range(k) if valid[o, i]
        }  # fmt: skip
        winner, best = max(logits, key=logits.get)
        total = sum(torch.tensor(v / temperature).exp() for v in logits.values())
        for (o, i), value in logits.items():
            s = torch.tensor(value / temperature).exp() / total
            bias[o, i] += torch.log((1 - s).clamp_min(1e-38))
        weights[winner, best], selected[winner] = 1.0, best
        features_so_far.append(features[winner, best])
        query = torch.stack(features_so_far).mean(0)
        unassigned.remove(winner)
    return weights, selected


@pytest.mark.parametrize("noise", [True, False])
def test_the_generation_pass_chooses_by_the_equations_among_the_candidates(batch, noise):
    network = small_network(retrieval={"temperature": 0.8})
    draws = some_draws(network, noise=noise)
    with torch.no_grad():
        output = network(batch._replace(draws=draws))
        features = network.embed(batch.candidates.patches)
    drawn = draws.choice.noise if noise else torch.zeros(O, K)
    for image, start in enumerate(START):
        own = PADDING.image == image
        query = features[own].flatten(0, 1)[start]
        weights, selected = by_hand(
            features[own], batch.candidates.valid[own], query, drawn[own], 0.8
        )
        assert output.selection.selected[own].tolist() == selected
        torch.testing.assert_close(output.selection.weights[own], weights)
    assert output.candidates is batch.candidates


@pytest.mark.parametrize("query_rule", ["updated", "fixed"])
def test_the_ground_truth_pass_is_teacher_forced_by_the_true_patches(batch, query_rule):
    """Section 2.2 by hand: K + 1 candidates per object, the mean of true features as the query, or
    the first."""
    network = small_network(retrieval={"temperature": 0.6, "query": query_rule})
    output = network(batch._replace(draws=some_draws(network)))
    candidates, truth = (
        network.embed(patches) for patches in (batch.candidates.patches, batch.true_patches)
    )
    expected = torch.zeros(O)
    for image in range(N):
        own = torch.nonzero(PADDING.image == image)[:, 0].tolist()
        first = own[FIRST[image]]
        done, rest = [first], [o for o in own if o != first]
        while rest:
            query = truth[first] if query_rule == "fixed" else truth[done].mean(0)
            distance = {
                o: torch.cat([(query - candidates[o]).norm(dim=-1)[batch.candidates.valid[o]],
                              (query - truth[o]).norm()[None]])
                for o in rest
            }  # fmt: skip
            nearest = min(rest, key=lambda o: distance[o].min())
            expected[nearest] = -F.log_softmax(-distance[nearest] / 0.6, 0)[-1]
            done.append(nearest)
            rest.remove(nearest)
    torch.testing.assert_close(output.gt_selection, expected)
    # The gradient too: that of the candidates, of the true patches and of the queries.
    weights = [*network.embedding.parameters()]
    gradients = [
        torch.autograd.grad((losses * torch.arange(1.0, O + 1)).sum(), weights)
        for losses in (output.gt_selection, expected)
    ]
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-3)


def test_the_true_patch_stands_where_the_draws_say_and_changes_no_loss(batch):
    network = small_network()
    draws = some_draws(network)
    other = draws.truth._replace(order=ORDER.flip(1))
    with torch.no_grad():
        losses = [
            network(batch._replace(draws=draws._replace(truth=truth))).gt_selection
            for truth in (draws.truth, other)
        ]
    torch.testing.assert_close(*losses)


def test_the_cooccurrence_of_an_object_is_that_of_its_selected_patch(batch):
    network = small_network()
    with torch.no_grad():
        output = network(batch._replace(draws=some_draws(network)))
    for o, selected in enumerate(output.selection.selected):
        torch.testing.assert_close(
            output.cooccurrence[o], batch.candidates.cooccurrence[o, selected]
        )


def test_the_soft_relaxation_mixes_pixels_and_vectors_of_all_candidates(batch):
    network = small_network(retrieval={"relaxation": "soft"})
    with torch.no_grad():
        output = network(batch._replace(draws=some_draws(network)))
        weights = output.selection.weights
        assert ((weights > 0.01).sum(1) > 1).any()
        vectors = torch.einsum("ok,okf->of", weights, batch.candidates.cooccurrence)
        pixels = (weights[:, :, None, None, None] * batch.candidates.patches).sum(1)
        alone = generated(network, batch, pixels)
    torch.testing.assert_close(output.cooccurrence, vectors)
    torch.testing.assert_close(output.images.composed, alone, atol=1e-4, rtol=1e-3)


def test_the_true_patch_can_join_the_candidates_of_the_generation_pass(batch):
    network = small_network(retrieval={"gt_in_candidates": True})
    with torch.no_grad():
        output = network(batch._replace(draws=some_draws(network)))
        features = network.embed(
            torch.cat([batch.candidates.patches, batch.true_patches[:, None]], 1)
        )
    assert output.selection.weights.shape == (O, K + 1)
    assert torch.equal(output.candidates.ids[:, -1], batch.patch_ids)
    noise = some_draws(network).choice.noise
    valid = torch.cat([batch.candidates.valid, torch.ones(O, 1, dtype=torch.bool)], 1)
    for image, start in enumerate(START):
        own = PADDING.image == image
        query = features[own].flatten(0, 1)[start]
        _, selected = by_hand(features[own], valid[own], query, noise[own], 1.0)
        assert output.selection.selected[own].tolist() == selected
    vectors = torch.cat([batch.candidates.cooccurrence, batch.true_cooccurrence[:, None]], 1)
    for o, selected in enumerate(output.selection.selected):
        torch.testing.assert_close(output.cooccurrence[o], vectors[o, selected])


def test_retrieval_may_start_at_the_true_patch_where_it_is_a_candidate(batch):
    starts = {}
    for gt_in_candidates in (False, True):
        network = small_network(retrieval={"gt_in_candidates": gt_in_candidates})
        draws = [with_draws(batch, network.config, s).draws.choice for s in range(60)]
        slots = K + gt_in_candidates
        starts[gt_in_candidates] = {int(d.start[1]) % slots for d in draws}
        assert draws[0].noise.shape == (O, slots)
    assert starts == {False: set(range(K)), True: set(range(K + 1))}


def test_with_truth_every_field_gets_the_true_patch_behind_its_candidates(batch):
    joined = with_truth(batch)
    for o in range(O):
        assert joined.ids[o].tolist() == [*batch.candidates.ids[o].tolist(), 100 + o]
    assert torch.equal(joined.patches[:, :K], batch.candidates.patches)
    assert torch.equal(joined.patches[:, K], batch.true_patches)
    assert torch.equal(joined.valid[:, :K], batch.candidates.valid)
    assert joined.valid[:, K].all()
    assert torch.equal(joined.cooccurrence[:, :K], batch.candidates.cooccurrence)
    assert torch.equal(joined.cooccurrence[:, K], batch.true_cooccurrence)
    for field in ("photo", "box"):
        joined_field = getattr(joined.crops, field)
        assert torch.equal(joined_field[:, :K], getattr(batch.candidates.crops, field))
        assert torch.equal(joined_field[:, K], getattr(batch.true_crops, field))


@pytest.mark.parametrize("mode", ["predefined", "random"])
def test_without_learned_retrieval_the_drawn_candidates_are_composed(batch, mode):
    network = small_network(retrieval={"mode": mode})
    calls = calls_of(network.embedding)
    # Object 0 has two open candidates, all others three.
    draws = Draws(None, ChoiceDraws(rank=torch.tensor([0.5, 0.0, 0.7, 0.9, 0.4])))
    selected = torch.tensor([1, 0, 2, 2, 1])
    with torch.no_grad():
        output = network(batch._replace(draws=draws))
    assert torch.equal(output.selection.selected, selected)
    with torch.no_grad():
        alone = generated(network, batch, batch.candidates.patches[torch.arange(O), selected])
    torch.testing.assert_close(output.images.composed, alone, atol=1e-5, rtol=1e-4)
    assert not calls
    assert output.gt_selection is None
    assert output.cooccurrence is None


# Images


def test_both_images_are_those_of_the_true_boxes_and_of_each_objects_own_patch(batch):
    """Made in one call, they are what each would be alone: no patch goes to another object."""
    network = small_network()
    with torch.no_grad():
        output = network(batch._replace(draws=some_draws(network)))
        patches = batch.candidates.patches[torch.arange(O), output.selection.selected]
        composed, rebuilt = (generated(network, batch, p) for p in (patches, batch.true_patches))
    torch.testing.assert_close(output.images.composed, composed, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(output.images.rebuilt, rebuilt, atol=1e-5, rtol=1e-4)
    assert not torch.allclose(composed, rebuilt, atol=1e-3)
    for changed in (patches.roll(1, 0), patches.flip(0)):
        with torch.no_grad():
            assert not torch.allclose(generated(network, batch, changed), composed, atol=1e-3)


def test_a_batch_of_three_scenes_gives_three_images_of_each_kind(batch):
    network = small_network()
    twice = [*range(O), 3, 4]  # the second scene again
    part = batch.candidates
    three = batch._replace(
        graph=graph_tensors([*SCENES, SCENES[1]], VOCABULARY),
        boxes=batch.boxes[twice],
        patch_ids=batch.patch_ids[twice],
        true_patches=batch.true_patches[twice],
        true_cooccurrence=batch.true_cooccurrence[twice],
        true_crops=Crops(*(field[twice] for field in batch.true_crops)),
        candidates=CandidateBatch(
            *(field[twice] for field in part[:-1]), Crops(*(field[twice] for field in part.crops))
        ),
        padding=padding_of(torch.tensor([0, 0, 0, 1, 1, 2, 2]), 3),
    )
    uniforms = ByPosition(0, range(3), np.array([3, 2, 2]), numbers_per_object(K))
    valid = three.candidates.valid
    draws = draw_passes(network.config.retrieval, valid, three.padding, uniforms, noise=True)
    three = three._replace(draws=draws)
    with torch.no_grad():
        output = network(three)
        patches = three.candidates.patches[torch.arange(7), output.selection.selected]
        alone = [generated(network, three, p) for p in (patches, three.true_patches)]
    torch.testing.assert_close(output.images.composed, alone[0], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(output.images.rebuilt, alone[1], atol=1e-5, rtol=1e-4)


def test_a_scene_comes_out_the_same_alone_or_beside_another(batch):
    network = small_network()
    single = batch._replace(
        graph=graph_tensors(SCENES[1:], VOCABULARY),
        boxes=batch.boxes[3:],
        padding=padding_of(torch.tensor([0, 0]), 1),
    )
    with torch.no_grad():
        pair = generated(network, batch, batch.true_patches)
        alone = generated(network, single, batch.true_patches[3:])
    torch.testing.assert_close(pair[1:], alone, atol=1e-5, rtol=1e-4)


def test_predicted_boxes_are_those_of_the_objects_before_the_last_relu(batch):
    network = small_network()
    with torch.no_grad():
        output = network(batch._replace(draws=some_draws(network)))
        encoding = network.graph(batch.graph.nodes, batch.graph.triples)
    assert output.box_sides.shape == (O, 4)
    assert output.box_sides.min() < 0  # ... so that no side is stuck at 0
    torch.testing.assert_close(output.box_sides.clamp_min(0), encoding.boxes[:O])


def test_the_maps_of_patches_are_refined_along_the_triples_with_a_residual(batch):
    network = small_network()
    encoder, first, second, fuser = (
        calls_of(m) for m in (network.crop_encoder, *network.refinement, network.fuser)
    )
    patches = torch.rand(O, 3, COMPOSED_PX, COMPOSED_PX) * 2 - 1
    with torch.no_grad():
        vectors = network.encode(batch.graph)
        network.generate(vectors, batch.graph, batch.padding, patches, batch.boxes)
    subject, predicate, other = batch.graph.triples.T
    encoded = encoder[0][1]
    (maps, messages, *ends), (update, messages_1) = first[0]
    assert torch.equal(maps[:O], encoded)
    assert not maps[O:].any()  # image nodes have no patch
    assert torch.equal(messages[:, :, 0, 0], network.predicates(predicate))
    assert all(torch.equal(messages[:, :, i, j], messages[:, :, 0, 0]) for i, j in [(0, 1), (1, 0)])
    assert torch.equal(ends[0], subject)
    assert torch.equal(ends[1], other)
    (maps_1, messages_in, *ends_1), (update_1, messages_2) = second[0]
    assert torch.equal(maps_1, maps + update)
    assert torch.equal(messages_in, messages_1)
    assert torch.equal(ends_1[0], subject)
    assert torch.equal(ends_1[1], other)
    nodes, boxes, padding, side = fuser[0][0]
    assert torch.equal(nodes.maps, maps_1 + update_1)
    assert nodes.vectors is vectors
    assert torch.equal(boxes, batch.boxes)
    assert padding is batch.padding
    assert side == network.config.generator.canvas_px
    for o in range(O):  # each object's own `__in_image__` triple, wherever it stands
        own = [t for t in range(len(subject)) if subject[t] == o and predicate[t] == 0]
        assert len(own) == 1
        assert torch.equal(nodes.in_image[o], messages_2[own[0]])
    assert nodes.in_image.abs().sum() > 0


def test_the_canvas_goes_through_the_residual_blocks_to_the_decoder(batch):
    network = small_network()
    fuser, residual, decoder = (
        calls_of(m) for m in (network.fuser, network.residual, network.decoder)
    )
    with torch.no_grad():
        image = generated(network, batch, batch.true_patches)
    assert residual[0][0][0] is fuser[0][1]
    assert decoder[0][0][0] is residual[0][1]
    assert decoder[0][0][1] == network.config.image_px == image.shape[-1]
    assert torch.equal(image, decoder[0][1])


def test_two_copies_of_a_graph_in_one_batch_are_objects_twice_then_images_twice(batch):
    both = twice(batch.graph)
    nodes = batch.graph.nodes.tolist()
    assert both.nodes.tolist() == nodes[:O] * 2 + nodes[O:] * 2
    assert both.object_image.tolist() == [0, 0, 0, 1, 1, 2, 2, 2, 3, 3]
    triples = batch.graph.triples.tolist()

    def moved(node, copy):
        return node + copy * O if node < O else node + O + copy * N

    assert both.triples.tolist() == [
        [moved(s, copy), p, moved(o, copy)] for copy in (0, 1) for s, p, o in triples
    ]


def test_patches_are_resized_for_each_part_by_its_own_setting(batch):
    network = small_network()
    embedding, encoder = (calls_of(m) for m in (network.embedding, network.crop_encoder))
    with torch.no_grad():
        output = network(batch._replace(draws=some_draws(network)))
    joined = torch.cat([batch.candidates.patches, batch.true_patches[:, None]], 1).flatten(0, 1)
    assert torch.equal(embedding[0][0][0], to_float(joined, EMBEDDED_PX))
    selected = batch.candidates.patches[torch.arange(O), output.selection.selected]
    expected = to_float(torch.cat([selected, batch.true_patches]), COMPOSED_PX)
    torch.testing.assert_close(encoder[0][0][0], expected)


@pytest.mark.parametrize(
    ("mode", "embedded_px", "sides"),
    [("learned", 6, [6, 8]), ("learned", 8, [8]), ("random", 6, [8])],
)
def test_patches_are_resized_once_to_each_side_in_use(batch, monkeypatch, mode, embedded_px, sides):
    network = small_network(retrieval={"mode": mode})
    rule = replace(network.config.retrieval, patch_px=embedded_px)
    network.config = replace(network.config, retrieval=rule)
    made = []

    def counted(images, side):
        made.append(side)
        return to_float(images, side)

    monkeypatch.setattr("model.retrievegan.network.to_float", counted)
    with torch.no_grad():
        network(batch._replace(draws=some_draws(network)))
    assert made == sides


# Sizes


@pytest.mark.parametrize("recipe", [demo, paper])
def test_a_recipes_network_has_as_many_layers_and_channels_as_it_says(recipe):
    config = recipe()
    with torch.device("meta"):
        network = RetrieveGAN(config, VOCABULARY)
    sizes = config.generator
    assert len(network.refinement) == sizes.refine_layers
    assert len(network.residual) == sizes.residual_blocks
    assert len(network.decoder.stages) == len(sizes.decoder)
    assert network.graph.sizes["layers"] == config.graph.layers
    assert network.embedding.head.out_features == config.retrieval.width
    assert network.predicates.weight.shape == (len(VOCABULARY.predicates), sizes.crop_width)


def test_the_demo_recipe_has_under_a_million_parameters():
    network = RetrieveGAN(demo(), VOCABULARY)
    assert sum(p.numel() for p in network.parameters()) < 1_000_000


@pytest.mark.parametrize("same_patch_allowed", [False, True])
def test_no_crop_is_composed_twice_unless_the_rule_allows_it(batch, same_patch_allowed):
    """All candidates of a scene show the same patch, but for one other of each object."""
    network = small_network(retrieval={"same_patch_allowed": same_patch_allowed})
    photo = torch.tensor([[0, 1, 0], [0, 0, 2], [3, 0, 0], [0, 0, 4], [5, 0, 0]])
    crops = Crops(photo, torch.tensor([0.0, 0.0, 1.0, 1.0]).repeat(O, K, 1))
    patches = batch.candidates.patches.clone()
    patches[photo == 0] = patches[0, 0].clone()
    batch = batch._replace(candidates=batch.candidates._replace(patches=patches, crops=crops))
    twice = []
    for seed in range(12):
        with torch.no_grad():
            draws = with_draws(batch, network.config, seed).draws
            selected = network(batch._replace(draws=draws)).selection.selected
        chosen = photo[torch.arange(O), selected]
        twice += [int((chosen[own] == 0).sum()) > 1 for own in (slice(0, 3), slice(3, 5))]
    assert any(twice) == same_patch_allowed


def test_e_p_is_built_as_the_configuration_says():
    rule = demo().retrieval
    embedding = RetrieveGAN(replace(demo(), retrieval=rule), VOCABULARY).embedding
    assert embedding.trunk[0].stride == (rule.stem_stride, rule.stem_stride) == (4, 4)
    assert embedding.pooling == rule.pooling == "all"
    assert embedding.head.in_features == 2 * sum(rule.channels)


def test_all_pairs_are_of_the_batchs_patches_categories_and_photos(batch):
    """Where that is the objective: two objects of one category in two images, another photo each.
    The photos are those of the true patches."""
    nodes = torch.tensor([1, 2, 3, 2, 1, *batch.graph.nodes[O:].tolist()])
    crops = batch.true_crops._replace(photo=torch.tensor([0, 0, 0, 1, 1]))
    batch = batch._replace(graph=batch.graph._replace(nodes=nodes), true_crops=crops)
    network = small_network(retrieval={"objective": "pairs"})
    with torch.no_grad():
        found = network(batch).gt_selection
        features, truth = network.embed(batch.candidates.patches), network.embed(batch.true_patches)

    def expected(categories, photos):
        return all_pairs(
            features, batch.candidates.valid, truth, categories, photos, batch.padding,
            network.config.retrieval.temperature,
        )  # fmt: skip

    torch.testing.assert_close(found, expected(nodes[:O], crops.photo), rtol=1e-4, atol=1e-5)
    one = torch.zeros(O, dtype=torch.long)
    for others in (expected(one, crops.photo), expected(nodes[:O], one)):
        assert not torch.allclose(found, others, atol=1e-3)
