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
LOSSES = "model/losses.py"
LOOP = "model/loop.py"

COMMON = ("tests/model/retrievegan", "tests/model/retrieval", "tests/model/test_losses.py")


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
    Module(LOSSES, (*COMMON, "tests/model/sg2im/test_trainer.py")),
    Module(
        LOOP,
        (*COMMON, "tests/model/sg2im/test_trainer.py"),
        ("__init__", "noise", "new_optimiser", "_full_rate", "set_learning_rates", "update",
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
    # Issue 10: these passed all tests of September.
    Fault(
        TRAINER,
        "losses.discriminator_loss(verdict[:n], verdict[n:])",
        "losses.discriminator_loss(verdict[n:], verdict[:n])",
        "real and fake pictures swapped for the discriminator",
    ),
    Fault(
        TRAINER,
        "losses.discriminator_loss(seen.real[:objects], seen.real[objects:])",
        "losses.discriminator_loss(seen.real[objects:], seen.real[:objects])",
        "real and fake objects swapped for the discriminator",
    ),
    Fault(
        TRAINER,
        "losses.reconstruction(rebuilt, real)",
        "losses.reconstruction(composed, real)",
        "reconstruction of the image from retrieved patches",
    ),
    Fault(
        TRAINER,
        "fake = torch.cat([fakes.composed, fakes.rebuilt]).detach()",
        "fake = torch.cat([fakes.composed, fakes.composed]).detach()",
        "discriminators never see the image from true patches",
    ),
    Fault(
        TRAINER,
        "torch.cat([image + i * n for i in range(times)])",
        "torch.cat([image for i in range(times)])",
        "all crops from the first of the stacked image sets",
    ),
    Fault(
        TRAINER,
        "pixels(batch.truth, self.config.generator.crop_px)",
        "pixels(batch.truth, self.config.generator.crop_px).roll(1, 0)",
        "true patches moved on by one object",
    ),
    Fault(
        TRAINER,
        "losses.co_occurrence(grid.spread(vectors), grid.present)",
        "losses.co_occurrence(grid.spread(vectors).detach(), grid.present)",
        "no gradient from L_occur",
    ),
    Fault(
        TRAINER,
        "torch.cat([batch.boxes, batch.boxes])",
        "torch.cat([encoding.boxes[:objects], encoding.boxes[:objects]])",
        "predicted boxes in training",
    ),
    Fault(DISCRIMINATORS, "spectral_norm(conv),", "conv,", "no spectral normalisation"),
    Fault(
        LOOP,
        "self._full_rate(name), self.config.betas)",
        "self._full_rate(name))",
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
        TRAINER,
        "selected = model.selected_pixels(candidates, chosen.weights)",
        "selected = model.selected_pixels(candidates, chosen.weights).roll(1, 0)",
        "chosen patches handed to the next object",
    ),
    # The step: what is trained by what
    Fault(
        TRAINER,
        "fake = torch.cat([fakes.composed, fakes.rebuilt]).detach()",
        "fake = torch.cat([fakes.composed, fakes.rebuilt])",
        "the discriminators' loss reaches the generator",
    ),
    Fault(
        TRAINER,
        """        fake = torch.cat([fakes.composed, fakes.rebuilt])
""",
        """        fake = torch.cat([fakes.composed, fakes.rebuilt]).detach()
""",
        "no adversarial gradient",
    ),
    Fault(
        TRAINER,
        """        fake = torch.cat([fakes.composed, fakes.rebuilt])
""",
        """        fake = torch.cat([fakes.composed.detach(), fakes.rebuilt])
""",
        "adversarial gradient of the image from true patches only",
    ),
    Fault(
        TRAINER,
        "losses.generator_loss(self.image_discriminator(fake))",
        "losses.generator_loss(-self.image_discriminator(fake))",
        "the generator learns to be found out",
    ),
    Fault(
        TRAINER,
        'updates = {"generator": ("model",), "discriminator": judges}',
        'updates = {"generator": ("model",), "discriminator": ("image_discriminator",)}',
        "D_obj is never trained",
    ),
    Fault(
        TRAINER,
        'updates = {"generator": ("model",), "discriminator": judges}',
        'updates = {"generator": ("model", *judges), "discriminator": judges}',
        "the generator's optimiser moves the discriminators too",
    ),
    Fault(
        TRAINER,
        "terms = fakes.terms | self.adversarial_terms(batch, fakes)",
        "terms = self.adversarial_terms(batch, fakes)",
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
        """        judged = self.discriminator_terms(batch, fakes)
        self.update("discriminator", sum(judged.values(), torch.zeros((), device=self.device)))
        terms = fakes.terms | self.adversarial_terms(batch, fakes)
        total = losses.weighted(self.config.losses, terms)
        named = self.finite(terms | judged | {"total": total})
        self.update("generator", total)
""",
        """        terms = fakes.terms | self.adversarial_terms(batch, fakes)
        total = losses.weighted(self.config.losses, terms)
        self.update("generator", total)
        judged = self.discriminator_terms(batch, fakes)
        self.update("discriminator", sum(judged.values(), torch.zeros((), device=self.device)))
        named = self.finite(terms | judged | {"total": total})
""",
        "the generator is updated before the discriminators",
    ),
    Fault(
        TRAINER,
        "self.noise(self.step_number))",
        "self.noise(0))",
        "the same draws at every step",
    ),
    Fault(
        TRAINER,
        "        self.set_learning_rates()\n",
        "",
        "learning rates never fall",
    ),
    # Both passes
    Fault(
        TRAINER,
        "features, truth = embedded[:, :-1], embedded[:, -1]",
        "features, truth = embedded[:, :-1], embedded[:, -1].detach()",
        "the true patch's embedding learns nothing from L_gt",
    ),
    Fault(
        TRAINER,
        "model.choose(candidates, features, grid, generator, noise=noise)",
        "model.choose(candidates, features, grid, generator, noise=not noise)",
        "noise in held-out scenes, none in training",
    ),
    Fault(
        TRAINER,
        "model.selected_pixels(candidates, chosen.weights)",
        "model.selected_pixels(candidates, chosen.weights.detach())",
        "no gradient from the picture to the choice",
    ),
    Fault(
        TRAINER,
        "chosen.weights, candidates.occurrence)",
        "candidates.valid.float(), candidates.occurrence)",
        "L_occur of all candidates, not of the chosen ones",
    ),
    Fault(
        TRAINER,
        "composed, rebuilt = both.chunk(2)",
        "rebuilt, composed = both.chunk(2)",
        "composed and rebuilt images swapped",
    ),
    Fault(
        TRAINER,
        "                features = embedded\n",
        "",
        "truth among the candidates without its embedding",
    ),
    Fault(
        TRAINER,
        "torch.cat([graph.object_image, graph.object_image + images])",
        "torch.cat([graph.object_image, graph.object_image])",
        "both passes drawn on the first pass's canvases",
    ),
    Fault(
        TRAINER,
        "nn.functional.cross_entropy(seen.category[:objects], categories)",
        "nn.functional.cross_entropy(seen.category[objects : 2 * objects], categories)",
        "D_obj learns its categories on fakes",
    ),
    # Choice
    Fault(
        GREEDY,
        "share = torch.softmax(flat / temperature, dim=-1).view_as(logits)",
        "share = torch.softmax(flat, dim=-1).view_as(logits)",
        "temperature ignored in the exclusion",
    ),
    Fault(
        GREEDY,
        "picked = torch.softmax(own / temperature, dim=-1)",
        "picked = torch.softmax(own, dim=-1)",
        "temperature ignored in the choice",
    ),
    Fault(
        GREEDY,
        "        bias = bias + log_exclusion(share)\n",
        "",
        "eq. 2's exclusion left out",
    ),
    Fault(
        GREEDY,
        "bias = bias + log_exclusion(share)",
        "bias = bias + log_exclusion(share.detach())",
        "no gradient through the exclusion",
    ),
    Fault(
        GREEDY,
        "logits.masked_fill(~(allowed & open_objects[:, :, None]), CLOSED)",
        "logits.masked_fill(~open_objects[:, :, None], CLOSED)",
        "padding may be chosen",
    ),
    Fault(
        GREEDY,
        "gathered = gathered + active[:, None] * feature",
        "gathered = gathered + active[:, None] * feature.detach()",
        "no gradient from a choice to earlier ones",
    ),
    Fault(
        GREEDY,
        "gathered = gathered + active[:, None] * feature",
        "gathered = active[:, None] * feature * (step + 1)",
        "the query is the last patch, not the mean",
    ),
    Fault(
        GREEDY,
        "logits = (-distances(query, spread) / temperature).masked_fill(~allowed, CLOSED)",
        "logits = -distances(query, spread) / temperature",
        "padding takes a share from the truth",
    ),
    Fault(
        GREEDY,
        "active[:, None] * true[everyone, winner]",
        "active[:, None] * spread[everyone, winner, reach.argmax(-1) * 0]",
        "teacher forcing by a candidate instead of the truth",
    ),
    Fault(
        GREEDY,
        "query = gathered = true[everyone, start]",
        "query = gathered = true[:, 0]",
        "the first object is always the first query",
    ),
    Fault(
        GREEDY,
        "(order == slots - 1).int().argmax(-1)",
        "order[:, -1]",
        "the shuffle's index taken for its inverse",
    ),
    Fault(
        RELAXATION,
        "hard.detach() + (soft - soft.detach())",
        "hard.detach() + (soft - soft).detach()",
        "straight-through without a gradient",
    ),
    Fault(
        NETWORK,
        "grid.place != start[grid.image]",
        "grid.place != start[grid.image] + 1",
        "the mean of L_gt counts another object as the start",
    ),
    Fault(
        NETWORK,
        "grid, start, self.config.retrieval.temperature",
        "grid, start, 1.0",
        "temperature ignored in L_gt",
    ),
    Fault(
        NETWORK,
        'torch.einsum("ok,okchw->ochw", weights, seen)',
        'torch.einsum("ok,okchw->ochw", weights, seen.flip(1))',
        "pixels of other candidates than the chosen ones",
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
        "to_subject, predicates, to_other = heard.split(",
        "to_other, predicates, to_subject = heard.split(",
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
        "still + self.flow(maps).permute(0, 2, 3, 1)",
        "still",
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
        "hidden.detach(), \"amax\"",
        "hidden, \"amax\"",
        "gradient through the softmax's stabiliser",
    ),
    Fault(
        COMPOSITION,
        ".clamp_max(0.0)) * inside",
        ".clamp_max(0.0))",
        "objects that do not cover a cell take a share of it",
    ),
    Fault(
        COMPOSITION,
        "ground.index_add(0, object_image, share * values)",
        "ground.index_add(0, object_image, values)",
        "objects add up instead of competing",
    ),
    Fault(
        DECODER,
        "out: Tensor = x + self.body(x)",
        "out: Tensor = self.body(x)",
        "residual block without its residual",
    ),
    Fault(
        DECODER,
        "seen = torch.cat([seen, features], 1)",
        "seen = torch.cat([torch.zeros_like(seen), features], 1)",
        "only the first module sees the canvas",
    ),
    Fault(
        DISCRIMINATORS,
        "images.index_select(0, object_image)",
        "images.detach().index_select(0, object_image)",
        "no gradient through crops",
    ),
    Fault(
        DISCRIMINATORS,
        "x, y = (at * 2 - 1).unbind(-1)",
        "y, x = (at * 2 - 1).unbind(-1)",
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
