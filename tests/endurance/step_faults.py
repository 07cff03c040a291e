"""What `step_mutants` changes: a training step's modules, faults in them, and what is no fault.

A module that moves or is renamed is renamed here, once.
"""

from dataclasses import dataclass

TRAINER = "model/retrievegan/trainer.py"
NETWORK = "model/retrievegan/network.py"
COMPOSITION = "model/retrievegan/composition.py"
DECODER = "model/retrievegan/decoder.py"
DISCRIMINATORS = "model/retrievegan/discriminators.py"
GREEDY = "model/retrieval/greedy.py"
RELAXATION = "model/retrieval/relaxation.py"
EMBEDDING = "model/retrieval/embedding.py"
CHOICE = "model/retrieval/choice.py"
LOSSES = "model/losses.py"
PADDING = "model/padding.py"
PIXELS = "model/pixels.py"
BATCH = "model/batch.py"
GRAPH = "model/graph/network.py"
LOOP = "model/loop.py"

COMMON = (
    "tests/model/retrievegan", "tests/model/retrieval", "tests/model/test_losses.py",
    "tests/model/test_padding.py", "tests/model/test_pixels.py",
)  # fmt: skip


@dataclass(frozen=True)
class Module:
    file: str
    tests: tuple[str, ...] = COMMON  # files and folders whose tests should kill its mutants
    functions: tuple[str, ...] = ()  # only these get operator mutants; none named: all


MODULES = (
    Module(TRAINER),
    Module(NETWORK),
    Module(COMPOSITION),
    Module(DECODER),
    Module(DISCRIMINATORS),
    Module(GREEDY),
    Module(RELAXATION),
    Module(EMBEDDING),
    Module(CHOICE),
    Module(PADDING),
    Module(PIXELS),
    Module(BATCH, functions=("with_truth", "moved")),
    Module(GRAPH, functions=("twice",)),
    Module(LOSSES, (*COMMON, "tests/model/sg2im/test_trainer.py")),
    Module(
        LOOP,
        (*COMMON, "tests/model/sg2im/test_trainer.py"),
        ("__init__", "generator", "new_optimiser", "_initial_rate", "set_learning_rates", "update",
         "finite"),
    ),
)  # fmt: skip


@dataclass(frozen=True)
class Fault:
    """A slip that could have been made: `found`, once in the file, is replaced."""

    file: str
    found: str
    replaced: str
    meaning: str


@dataclass(frozen=True)
class Unchanged:
    """A survivor that computes the same. `before` and `after` as they are printed."""

    file: str
    function: str
    before: str
    after: str
    reason: str


FAULTS = (
    # Each of these passed every test that there was before these were written.
    Fault(
        TRAINER,
        "losses.discriminator_loss(image_logits[:n], image_logits[n:])",
        "losses.discriminator_loss(image_logits[n:], image_logits[:n])",
        "real and fake images swapped for the discriminator",
    ),
    Fault(
        TRAINER,
        "object_logits.real[:objects], object_logits.real[objects:]",
        "object_logits.real[objects:], object_logits.real[:objects]",
        "real and fake objects swapped for the discriminator",
    ),
    Fault(
        TRAINER,
        "losses.reconstruction(output.rebuilt, ",
        "losses.reconstruction(output.composed, ",
        "reconstruction of the image from selected patches",
    ),
    Fault(
        TRAINER,
        "output.composed.detach(), output.rebuilt.detach()",
        "output.composed.detach(), output.composed.detach()",
        "discriminators never see the image from true patches",
    ),
    Fault(
        TRAINER,
        "torch.cat([batch.graph.object_image + i * n for i in range(sets)])",
        "torch.cat([batch.graph.object_image for i in range(sets)])",
        "all crops from the first of the stacked image sets",
    ),
    Fault(
        NETWORK,
        "to_float(batch.true_patches, self.config.generator.patch_px),",
        "to_float(batch.true_patches, self.config.generator.patch_px).roll(1, 0),",
        "true patches moved on by one object",
    ),
    Fault(
        TRAINER,
        "padding.pad(output.cooccurrence), padding.present",
        "padding.pad(output.cooccurrence).detach(), padding.present",
        "no gradient from L_occur",
    ),
    Fault(
        NETWORK,
        "torch.cat([batch.boxes, batch.boxes])",
        "self.graph.box_net(vectors[:objects]).repeat(2, 1)",
        "predicted boxes in training",
    ),
    Fault(DISCRIMINATORS, "spectral_norm(conv),", "conv,", "no spectral normalisation"),
    Fault(
        LOOP,
        "self._initial_rate(name), self.config.betas)",
        "self._initial_rate(name))",
        "Adam's default betas",
    ),
    Fault(NETWORK, "maps = maps + refined", "maps = refined", "no residual around the refinement"),
    Fault(
        NETWORK,
        "nodes = Nodes(vectors, maps, in_image)",
        "nodes = Nodes(vectors, maps, torch.zeros_like(in_image))",
        "`__in_image__` messages zeroed",
    ),
    Fault(
        NETWORK,
        "self.mix_pixels(candidates.patches, selection.weights),",
        "self.mix_pixels(candidates.patches, selection.weights).roll(1, 0),",
        "selected patches handed to the next object",
    ),
    # The step: what is trained by what
    Fault(
        TRAINER,
        "output.composed.detach(), output.rebuilt.detach()",
        "output.composed, output.rebuilt",
        "the discriminators' loss reaches the generator",
    ),
    Fault(
        TRAINER,
        "fake = torch.cat([output.composed, output.rebuilt])",
        "fake = torch.cat([output.composed, output.rebuilt]).detach()",
        "no adversarial gradient",
    ),
    Fault(
        TRAINER,
        "fake = torch.cat([output.composed, output.rebuilt])",
        "fake = torch.cat([output.composed.detach(), output.rebuilt])",
        "adversarial gradient of the image from true patches only",
    ),
    Fault(
        TRAINER,
        "losses.generator_loss(self.image_discriminator(fake))",
        "losses.generator_loss(-self.image_discriminator(fake))",
        "the generator learns to be recognised as fake",
    ),
    Fault(
        TRAINER,
        '"discriminator": tuple(discriminators)}',
        '"discriminator": ("image_discriminator",)}',
        "D_obj is never trained",
    ),
    Fault(
        TRAINER,
        'updates={"generator": ("model",), ',
        'updates={"generator": ("model", *discriminators), ',
        "the generator's optimiser moves the discriminators too",
    ),
    Fault(
        TRAINER,
        "self.generator_terms(batch, output) | self.adversarial_terms(batch, output)",
        "self.adversarial_terms(batch, output)",
        "adversarial terms only",
    ),
    Fault(
        TRAINER,
        "losses.weighted(self.config.losses, terms)",
        "sum(terms.values())",
        "weights of the terms ignored",
    ),
    Fault(
        TRAINER,
        """        discriminator_terms = self.discriminator_terms(batch, output)
        self.update("discriminator", torch.stack([*discriminator_terms.values()]).sum())
        terms = self.generator_terms(batch, output) | self.adversarial_terms(batch, output)
        total = losses.weighted(self.config.losses, terms)
        values = self.finite(terms | discriminator_terms | {"total": total})
        self.update("generator", total)
""",
        """        terms = self.generator_terms(batch, output)
        terms |= self.adversarial_terms(batch, output)
        total = losses.weighted(self.config.losses, terms)
        self.update("generator", total)
        discriminator_terms = self.discriminator_terms(batch, output)
        self.update("discriminator", torch.stack([*discriminator_terms.values()]).sum())
        values = self.finite(terms | discriminator_terms | {"total": total})
""",
        "the generator is updated before the discriminators",
    ),
    Fault(
        TRAINER,
        "self.generator(self.step_number))",
        "self.generator(0))",
        "the same draws at every step",
    ),
    Fault(
        TRAINER,
        "        self.set_learning_rates()\n",
        "",
        "learning rates never fall",
    ),
    Fault(
        TRAINER,
        "self.generator(0), noise=False)",
        "self.generator(0))",
        "noise in the images of held-out scenes",
    ),
    # Both passes
    Fault(
        NETWORK,
        "features, truth = joined_features[:, :-1], joined_features[:, -1]",
        "features, truth = joined_features[:, :-1], joined_features[:, -1].detach()",
        "the true patch's embedding learns nothing from L_gt",
    ),
    Fault(
        NETWORK,
        "self.mix_pixels(candidates.patches, selection.weights),",
        "self.mix_pixels(candidates.patches, selection.weights.detach()),",
        "no gradient from the image to the choice",
    ),
    Fault(
        NETWORK,
        "selection.weights, candidates.cooccurrence)",
        "candidates.valid.float(), candidates.cooccurrence)",
        "L_occur of all candidates, not of the selected ones",
    ),
    Fault(
        NETWORK,
        "selection.weights, candidates.cooccurrence)",
        "selection.weights.detach(), candidates.cooccurrence)",
        "no gradient from L_occur to the choice",
    ),
    Fault(
        NETWORK,
        "composed, rebuilt = images.chunk(2)",
        "rebuilt, composed = images.chunk(2)",
        "composed and rebuilt images swapped",
    ),
    Fault(
        NETWORK,
        "candidates, features = joined, joined_features",
        "candidates = joined",
        "true patch among the candidates without its embedding",
    ),
    Fault(
        NETWORK,
        "padding, generator, noise=noise)",
        "padding, generator, noise=not noise)",
        "noise in held-out scenes, none in training",
    ),
    Fault(
        GRAPH,
        "torch.cat([graph.object_image, graph.object_image + images])",
        "torch.cat([graph.object_image, graph.object_image])",
        "both passes drawn on the first pass's canvases",
    ),
    Fault(
        TRAINER,
        "object_logits.category[:objects], categories",
        "object_logits.category[objects : 2 * objects], categories",
        "D_obj learns its categories on fakes",
    ),
    Fault(
        BATCH,
        "candidates.cooccurrence, batch.true_cooccurrence[:, None]",
        "candidates.cooccurrence, batch.true_cooccurrence.roll(1, 0)[:, None]",
        "the next object's co-occurrence vector for the true patch",
    ),
    # Choice
    Fault(
        GREEDY,
        "probabilities = torch.softmax(flat / temperature, dim=-1).view_as(logits)",
        "probabilities = torch.softmax(flat, dim=-1).view_as(logits)",
        "temperature ignored in the exclusion",
    ),
    Fault(
        GREEDY,
        "own_weights = torch.softmax(own / temperature, dim=-1)",
        "own_weights = torch.softmax(own, dim=-1)",
        "temperature ignored in the choice",
    ),
    Fault(
        GREEDY,
        "        bias = bias + log_exclusion(probabilities)\n",
        "",
        "eq. 2's exclusion left out",
    ),
    Fault(
        GREEDY,
        "bias = bias + log_exclusion(probabilities)",
        "bias = bias + log_exclusion(probabilities.detach())",
        "no gradient through the exclusion",
    ),
    Fault(
        GREEDY,
        "logits.masked_fill(~(allowed & unassigned[:, :, None]), MASKED)",
        "logits.masked_fill(~unassigned[:, :, None], MASKED)",
        "padding may be selected",
    ),
    Fault(
        GREEDY,
        "feature_sum = feature_sum + active[:, None] * feature",
        "feature_sum = feature_sum + active[:, None] * feature.detach()",
        "no gradient from a choice to earlier ones",
    ),
    Fault(
        GREEDY,
        "feature_sum = feature_sum + active[:, None] * feature",
        "feature_sum = active[:, None] * feature * (step + 1)",
        "the query is the last patch, not the mean",
    ),
    Fault(
        GREEDY,
        "logits = (-distances(query, padded) / temperature).masked_fill(~allowed, MASKED)",
        "logits = -distances(query, padded) / temperature",
        "padding takes probability from the true patch",
    ),
    Fault(
        GREEDY,
        "active[:, None] * true[every_image, winner]",
        "active[:, None] * padded[every_image, winner, highest.argmax(-1) * 0]",
        "teacher forcing by a candidate instead of the true patch",
    ),
    Fault(
        GREEDY,
        "query = feature_sum = true[every_image, first]",
        "query = feature_sum = true[:, 0]",
        "the first object is always the first query",
    ),
    Fault(
        GREEDY,
        "(order == valid.shape[1]).int().argmax(-1)",
        "order[:, -1]",
        "the permutation taken for its inverse",
    ),
    Fault(
        RELAXATION,
        "hard.detach() + (soft - soft.detach())",
        "hard.detach() + (soft - soft).detach()",
        "straight-through without a gradient",
    ),
    Fault(
        CHOICE,
        "weights[:, NEAREST if noise else 1 :] = 0",
        "weights[:, 1 if noise else NEAREST :] = 0",
        "predefined draws among three in sampling, not in training",
    ),
    Fault(
        CHOICE,
        "drawn = gumbel(tuple(valid.shape), generator) if noise else None",
        "drawn = gumbel(tuple(valid.shape), generator)",
        "noise although it is off",
    ),
    Fault(
        NETWORK,
        "padding.place != draws.first[padding.image]",
        "padding.place != draws.first[padding.image] + 1",
        "the mean of L_gt counts another object as the first",
    ),
    Fault(
        NETWORK,
        "padding, draws.first, self.config.retrieval.temperature",
        "padding, draws.first, 1.0",
        "temperature ignored in L_gt",
    ),
    Fault(
        NETWORK,
        'torch.einsum("ok,okchw->ochw", weights, pixels)',
        'torch.einsum("ok,okchw->ochw", weights, pixels.flip(1))',
        "pixels of other candidates than the selected ones",
    ),
    Fault(
        PADDING,
        "first = counts.cumsum(0) - counts",
        "first = torch.zeros_like(counts)",
        "places counted over the batch, not within an image",
    ),
    Fault(
        PIXELS,
        "antialias=True)",
        "antialias=False)",
        "pixels skipped where images shrink",
    ),
    # Canvas and image
    Fault(
        NETWORK,
        "index_copy(0, subject[member], messages[member])",
        "index_copy(0, subject[member].flip(0), messages[member])",
        "`__in_image__` messages handed to other objects",
    ),
    Fault(
        COMPOSITION,
        "to_subject, predicates, to_other = messages.split(",
        "to_other, predicates, to_subject = messages.split(",
        "messages to subject and object swapped",
    ),
    Fault(
        COMPOSITION,
        "self.pooled(total / count[:, None, None, None])",
        "self.pooled(total)",
        "messages summed, not averaged",
    ),
    Fault(
        COMPOSITION,
        "coordinates + self.flow(maps).permute(0, 2, 3, 1)",
        "coordinates",
        "no warp",
    ),
    Fault(
        COMPOSITION,
        "return pasted * inside, inside",
        "return pasted, inside",
        "patches smeared beyond their boxes",
    ),
    Fault(
        COMPOSITION,
        'masked.detach(), "amax"',
        'masked, "amax"',
        "gradient through the softmax's stabiliser",
    ),
    Fault(
        COMPOSITION,
        ".clamp_max(0.0)) * inside",
        ".clamp_max(0.0))",
        "objects that do not cover a cell weigh in it",
    ),
    Fault(
        COMPOSITION,
        "background.index_add(0, object_image, attention * values)",
        "background.index_add(0, object_image, values)",
        "objects add up without attention",
    ),
    Fault(
        DECODER,
        "out: Tensor = x + self.body(x)",
        "out: Tensor = self.body(x)",
        "residual block without its residual",
    ),
    Fault(
        DECODER,
        "inputs = torch.cat([inputs, features], 1)",
        "inputs = torch.cat([torch.zeros_like(inputs), features], 1)",
        "only the first stage is given the canvas",
    ),
    Fault(
        DISCRIMINATORS,
        "images.index_select(0, object_image)",
        "images.detach().index_select(0, object_image)",
        "no gradient through crops",
    ),
    Fault(
        DISCRIMINATORS,
        "x, y = (points * 2 - 1).unbind(-1)",
        "y, x = (points * 2 - 1).unbind(-1)",
        "crops with x and y swapped",
    ),
    # Terms and updates
    Fault(
        LOSSES,
        "generator_loss(real) + F.binary_cross_entropy_with_logits(fake, torch.zeros_like(fake))",
        "generator_loss(real)",
        "no loss on fakes",
    ),
    Fault(
        LOSSES,
        "per_object.sum() / counted.sum().clamp_min(1)",
        "per_object.mean()",
        "L_gt averaged over the starts too",
    ),
    Fault(
        LOSSES,
        "(distance * (pairs & upper)).sum() / len(vectors)",
        "(distance * (pairs & upper)).sum()",
        "L_occur summed over images",
    ),
    Fault(
        LOOP,
        "        optimiser.zero_grad(set_to_none=True)\n",
        "",
        "gradients of all steps add up",
    ),
    Fault(
        LOOP,
        'config.lr_generator if name == "generator" else config.lr_discriminator',
        "config.lr_generator",
        "one learning rate for all",
    ),
    Fault(
        LOOP,
        "SeedSequence((self.config.seed, step))",
        "SeedSequence((0, step))",
        "seed ignored in the draws",
    ),
)  # fmt: skip

# Survivors that change nothing, each with the reason.
UNCHANGED: tuple[Unchanged, ...] = ()
