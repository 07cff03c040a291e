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
SEARCH = "model/retrieval/search.py"
TRUTH = "model/retrieval/truth.py"
DISTANCE = "model/retrieval/distance.py"
RELAXATION = "model/retrieval/relaxation.py"
EMBEDDING = "model/retrieval/embedding.py"
CHOICE = "model/retrieval/choice.py"
CROPS = "model/retrieval/crops.py"
DRAWS = "model/draws.py"
PADDING = "model/padding.py"
PIXELS = "model/pixels.py"
RESIZING = "model/resizing.py"
GRAPH = "model/graph/network.py"
BATCH = "model/batch.py"
BOXES = "model/boxes.py"
LOSSES = "model/losses.py"
LOOP = "model/loop.py"
PARALLEL = "model/parallel.py"
ROWS = "model/rows.py"
RESIZING = "model/resizing.py"
PRECISION = "model/precision.py"
SHAPES = "model/fixed_shapes.py"

COMMON = (
    "tests/model/retrievegan", "tests/model/retrieval", "tests/model/test_losses.py",
    "tests/model/test_boxes.py", "tests/model/test_padding.py", "tests/model/test_pixels.py",
    "tests/model/test_fixed_shapes.py", "tests/model/test_precision.py",
)  # fmt: skip


@dataclass(frozen=True)
class Module:
    file: str
    tests: tuple[str, ...] = COMMON  # files and folders whose tests should kill its mutants
    functions: tuple[str, ...] = ()  # only these get operator mutants; none named: all


MODULES = (
    Module(TRAINER, (*COMMON, "tests/model/test_loop.py")),
    *map(Module, (NETWORK, COMPOSITION, DECODER, DISCRIMINATORS)),
    *map(Module, (GREEDY, SEARCH, TRUTH, DISTANCE, RELAXATION, EMBEDDING, CHOICE, CROPS)),
    *map(Module, (BOXES, PADDING, PIXELS)),
    Module(ROWS, ("tests/model/test_rows.py", "tests/model/test_padding.py")),
    Module(RESIZING, (*COMMON, "tests/model/test_resizing.py")),
    Module(PRECISION, ("tests/model/test_precision.py",)),
    Module(
        SHAPES,
        ("tests/model/test_fixed_shapes.py",),
        ("of", "scenes", "_fillers", "_graph", "_padding", "_longer", "_more_objects", "_boxes",
         "_orders"),
    ),
    Module(DRAWS, (*COMMON, "tests/model/test_draws.py")),
    Module(GRAPH, (*COMMON, "tests/model/graph"), ("twice", "box_sides")),
    Module(BATCH, (*COMMON, "tests/model/test_batch.py"), ("with_truth", "moved", "to")),
    Module(LOSSES, (*COMMON, "tests/model/sg2im/test_trainer.py")),
    Module(
        LOOP,
        (*COMMON, "tests/model/sg2im/test_trainer.py"),
        ("__init__", "new_optimiser", "_initial_rate", "set_learning_rates", "update", "step",
         "without_effect", "laid_out"),
    ),
    Module(PARALLEL, (*COMMON, "tests/model/test_parallel.py"), ("add_up", "run_phases")),
)  # fmt: skip


@dataclass(frozen=True)
class Fault:
    """A slip that people make: `before`, once in the file, becomes `after`."""

    file: str
    before: str
    after: str
    meaning: str


@dataclass(frozen=True)
class Unchanged:
    """Survivors that compute the same, for one reason. Lines as they are printed."""

    reason: str
    file: str
    function: str
    changes: tuple[tuple[str, str], ...]  # before, after


FAULTS = (
    # Issue 10's eleven, and one more: these passed the tests of that time.
    Fault(
        TRAINER,
        "image_logits[:n], image_logits[n:]",
        "image_logits[n:], image_logits[:n]",
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
        "                made.rebuilt, self._real(batch), batch.counts.images",
        "                made.composed, self._real(batch), batch.counts.images",
        "reconstruction of the image from selected patches",
    ),
    Fault(
        TRAINER,
        "made.composed.detach(), made.rebuilt.detach()]",
        "made.composed.detach(), made.composed.detach()]",
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
        "torch.cat([selected, of_patches[:, -1]])",
        "torch.cat([selected, of_patches[:, -1].roll(1, 0)])",
        "true patches moved on by one object",
    ),
    Fault(
        NETWORK,
        '"ok,okf->of", selection.weights,',
        '"ok,okf->of", selection.weights.detach(),',
        "no gradient from L_occur",
    ),
    Fault(
        NETWORK,
        "torch.cat([batch.boxes, batch.boxes])",
        "torch.cat([box_sides.clamp_min(0)] * 2)",
        "predicted boxes in training",
    ),
    Fault(DISCRIMINATORS, "spectral_norm(conv),", "conv,", "no spectral normalisation"),
    Fault(
        LOOP,
        "named, rate, self.config.betas, fused=True",
        "named, rate, fused=True",
        "Adam's default betas",
    ),
    Fault(NETWORK, "maps = maps + refined", "maps = refined", "no residual around the refinement"),
    Fault(
        NETWORK,
        "nodes = Nodes(vectors, maps, gather(messages, graph.in_image))",
        "nodes = Nodes(vectors, maps, 0 * gather(messages, graph.in_image))",
        "`__in_image__` messages zeroed",
    ),
    Fault(
        NETWORK,
        "mixed(of_patches, retrieved.selection.weights)",
        "mixed(of_patches, retrieved.selection.weights).roll(1, 0)",
        "selected patches handed to the next object",
    ),
    # The step: what is trained by what
    Fault(
        TRAINER,
        "made.composed.detach(), made.rebuilt.detach()]",
        "made.composed, made.rebuilt]",
        "the discriminators' loss reaches the generator",
    ),
    Fault(
        TRAINER,
        "fake = torch.cat([made.composed, made.rebuilt])",
        "fake = torch.cat([made.composed, made.rebuilt]).detach()",
        "no adversarial gradient",
    ),
    Fault(
        TRAINER,
        "fake = torch.cat([made.composed, made.rebuilt])",
        "fake = torch.cat([made.composed.detach(), made.rebuilt])",
        "no adversarial gradient of the image from selected patches",
    ),
    Fault(
        TRAINER,
        "fake = torch.cat([made.composed, made.rebuilt])",
        "fake = torch.cat([made.rebuilt, made.rebuilt])",
        "the generator's image loss on the rebuilt image only",
    ),
    Fault(
        TRAINER,
        "losses.generator_loss(self.image_discriminator(fake), ",
        "losses.generator_loss(-self.image_discriminator(fake), ",
        "the generator's image loss with its sign turned",
    ),
    Fault(
        TRAINER,
        "losses.generator_loss(logits.real, ",
        "losses.generator_loss(logits.real[: len(batch.boxes)], ",
        "adversarial object loss of the first set only",
    ),
    Fault(
        TRAINER,
        '"discriminator": tuple(discriminators)}',
        '"discriminator": ("image_discriminator",)}',
        "D_obj is never trained",
    ),
    Fault(
        TRAINER,
        '"generator": ("model",),',
        '"generator": ("model", *discriminators),',
        "the generator's optimiser moves the discriminators too",
    ),
    Fault(
        TRAINER,
        "self.retrieval_terms(part, output) | of_images)",
        "of_images)",
        "the terms of images only",
    ),
    Fault(
        TRAINER,
        "self.retrieval_terms(part, output) | of_images)",
        "self.retrieval_terms(part, output))",
        "no terms of images",
    ),
    Fault(
        TRAINER,
        "losses.weighted(self.config.losses, terms)",
        "torch.stack([*terms.values()]).sum()",
        "weights of the terms ignored",
    ),
    Fault(
        TRAINER,
        "return torch.stack([*terms.values()]).sum(), terms",
        "return torch.stack([*terms.values()])[0], terms",
        "the discriminators' first loss only",
    ),
    Fault(
        TRAINER,
        "                output: Output = self.model(part)\n",
        """\
                self.model.embedding.requires_grad_(False)
                output: Output = self.model(part)
""",
        "E_p frozen",
    ),
    Fault(
        TRAINER,
        """\
        of_both = yield from self.update("discriminator", parts, of_discriminators)
        values = yield from self.update("generator", parts, of_generator)
""",
        """\
        outputs.append(self.model(parts[0]))
        values = yield from self.update("generator", parts, of_generator)
        of_both = yield from self.update("discriminator", parts, of_discriminators)
""",
        "the generator is updated by the discriminators before their update",
    ),
    Fault(
        DRAWS,
        "([seed, position], np.uint64)",
        "([seed, 0], np.uint64)",
        "the same draws for all scenes",
    ),
    Fault(
        LOOP, "        self.set_learning_rates()\n", "        pass\n", "learning rates never fall"
    ),
    Fault(
        TRAINER,
        "object_logits.category[:objects], categories",
        "object_logits.category[objects : 2 * objects], categories",
        "D_obj learns its categories on fakes",
    ),
    Fault(
        TRAINER,
        "batch.graph.nodes[: len(batch.boxes)].repeat(2)",
        "batch.graph.nodes[: len(batch.boxes)].roll(1).repeat(2)",
        "categories of other objects",
    ),
    Fault(
        TRAINER,
        "batch.boxes.repeat(sets, 1)",
        "batch.boxes.repeat_interleave(sets, 0)",
        "boxes of other objects for the crops",
    ),
    Fault(
        TRAINER,
        "rule, self.config.seed, noise=False)",
        "rule, self.config.seed)",
        "noise in image grids",
    ),
    Fault(
        TRAINER,
        "losses.box_l1(output.box_sides, ",
        "losses.box_l1(output.box_sides.detach(), ",
        "boxes never learned",
    ),
    # Both passes
    Fault(
        NETWORK,
        "true_features = joined_features[:, :-1], joined_features[:, -1]",
        "true_features = joined_features[:, :-1], joined_features[:, -1].detach()",
        "the true patch's embedding learns nothing from L_gt",
    ),
    Fault(
        NETWORK,
        "true_features = joined_features[:, :-1], joined_features[:, -1]",
        "true_features = joined_features[:, 1:], joined_features[:, 0]",
        "the nearest candidate taken for the truth",
    ),
    Fault(
        NETWORK,
        '"ok,okchw->ochw", weights, pixels',
        '"ok,okchw->ochw", weights.detach(), pixels',
        "no gradient from the image to the choice",
    ),
    Fault(
        NETWORK,
        '"ok,okchw->ochw", weights, pixels',
        '"ok,okchw->ochw", weights, pixels.flip(1)',
        "pixels of other candidates than the selected ones",
    ),
    Fault(
        NETWORK,
        "selection.weights, candidates.cooccurrence)",
        "candidates.valid.float(), candidates.cooccurrence)",
        "L_occur of all candidates, not of the selected ones",
    ),
    Fault(
        NETWORK,
        "Images(*images.chunk(2))",
        "Images(*reversed(images.chunk(2)))",
        "composed and rebuilt images swapped",
    ),
    Fault(
        NETWORK,
        "candidates, features = joined, joined_features",
        "candidates = joined",
        "truth among the candidates without its embedding",
    ),
    Fault(
        CHOICE,
        "Draws(truth, draw_choice(rule, valid, padding, uniforms, noise=noise))",
        "Draws(truth, draw_choice(rule, valid, padding, uniforms, noise=not noise))",
        "noise in image grids, none in training",
    ),
    Fault(
        NETWORK,
        "torch.cat([vectors[:objects]] * 2 + [vectors[objects:]] * 2)",
        "torch.cat([vectors, vectors])",
        "graph vectors twice in another order than the graph",
    ),
    Fault(
        NETWORK,
        "padding, draws.first, rule.temperature",
        "padding, draws.first, 1.0",
        "temperature ignored in L_gt",
    ),
    Fault(
        NETWORK,
        "rule.temperature, rule.query\n",
        "rule.temperature\n",
        "L_gt always updates its query",
    ),
    Fault(
        NETWORK,
        "gather(messages, graph.in_image)",
        "gather(messages, graph.in_image.flip(0))",
        "`__in_image__` messages handed to other objects",
    ),
    Fault(
        NETWORK,
        "gather(messages, graph.in_image)",
        "gather(messages, graph.in_image * 0)",
        "another predicate taken for `__in_image__`",
    ),
    Fault(
        NETWORK,
        "layer(maps, messages, subject, other)",
        "layer(maps, messages, other, subject)",
        "subjects and objects of the triples swapped",
    ),
    Fault(
        GRAPH,
        "torch.cat([graph.object_image, graph.object_image + images])",
        "torch.cat([graph.object_image, graph.object_image])",
        "both passes drawn on the first pass's canvases",
    ),
    Fault(
        BATCH,
        "batch.true_cooccurrence[:, None]]",
        "torch.zeros_like(batch.true_cooccurrence[:, None])]",
        "the true patch among the candidates has no F_occur",
    ),
    # Choice
    Fault(
        GREEDY,
        "torch.softmax(logits.flatten(1) / temperature, dim=-1)",
        "torch.softmax(logits.flatten(1), dim=-1)",
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
        "        bias = bias + log_exclusion(_probabilities(logits, temperature))\n",
        "",
        "eq. 2's exclusion left out",
    ),
    Fault(
        GREEDY,
        " bias = bias + log_exclusion(_probabilities(logits, temperature))",
        " bias = bias + log_exclusion(_probabilities(logits, temperature).detach())",
        "no gradient through the exclusion",
    ),
    Fault(
        GREEDY,
        "noiseless_bias = noiseless_bias + log_exclusion(_probabilities(noiseless, 1.0))",
        "noiseless_bias = noiseless_bias + log_exclusion(_probabilities(logits, 1.0))",
        "the exclusions of `marginal` from logits with noise",
    ),
    Fault(
        GREEDY,
        "            noiseless_bias = noiseless_bias + log_exclusion(_probabilities(noiseless, 1.0))\n",
        "",
        "`marginal` without exclusions",
    ),
    Fault(
        GREEDY,
        "(noiseless_bias - reach).masked_fill(closed, MASKED)",
        "(bias - reach).masked_fill(closed, MASKED)",
        "the gradient of `marginal` with noise",
    ),
    Fault(
        GREEDY,
        'if relaxation != "soft":',
        'if relaxation == "straight-through":',
        "`marginal` shows a mixture",
    ),
    Fault(
        GREEDY,
        """\
        if query_rule == "updated":
            query = feature_sum / (step + 1)
""",
        "        query = feature_sum / (step + 1)\n",
        "a fixed query is updated",
    ),
    Fault(
        CHOICE,
        """\
        features, valid, padding, query, noise=draws.noise, temperature=rule.temperature,
        relaxation=rule.relaxation, query_rule=rule.query, crops=unlike,
""",
        """\
        features, valid, padding, query, noise=draws.noise, temperature=rule.temperature,
        relaxation=rule.relaxation, crops=unlike,
""",
        "the rule's query ignored",
    ),
    Fault(
        GREEDY,
        "~(open_slots(allowed, taken) & unassigned[:, :, None])",
        "(~unassigned[:, :, None]).expand_as(allowed)",
        "padding and taken crops may be selected",
    ),
    Fault(
        GREEDY,
        "taken = taken | same_crop(crop, padded_crops)",
        "taken = same_crop(crop, padded_crops)",
        "only the last crop is taken",
    ),
    Fault(
        GREEDY,
        "crop = Crops(*(part[winner_slot][:, None, None] for part in padded_crops))",
        "crop = Crops(*(part[every_image, 0, 0][:, None, None] for part in padded_crops))",
        "the first object's crop is taken, not the winner's",
    ),
    Fault(
        CROPS,
        "(left.photo == right.photo) & (intersection > SAME_CROP_IOU * union)",
        "intersection > SAME_CROP_IOU * union",
        "boxes alone say which crop it is",
    ),
    Fault(
        CROPS,
        "torch.where(free.any(-1, keepdim=True), free, valid)",
        "free",
        "an object whose slots are all taken is left without any",
    ),
    Fault(
        CHOICE,
        "taken = taken | same_crop(crop, Crops(photo, box))",
        "pass",
        "predefined and random repeat patches",
    ),
    Fault(
        CHOICE,
        "unlike = None if rule.same_patch_allowed else crops",
        "unlike = crops",
        "recipe paper repeats no patch either",
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
        "bias = padding.pad(noise) if noise is not None else",
        "bias = padding.pad(noise * 0) if noise is not None else",
        "noise ignored",
    ),
    Fault(
        TRUTH,
        "(-distances(query, padded) / temperature).masked_fill(~allowed, MASKED)",
        "-distances(query, padded) / temperature",
        "padding takes a part of the truth's probability",
    ),
    Fault(
        TRUTH,
        "active[:, None] * of_winner(true, winning)",
        "active[:, None] * of_winner(padded, winning)[:, 0]",
        "teacher forcing by a candidate instead of the truth",
    ),
    Fault(
        TRUTH,
        "query = feature_sum = of_winner(true, started)",
        "query = feature_sum = true[:, 0]",
        "the first object is always the first query",
    ),
    Fault(
        TRUTH,
        "(order == valid.shape[1]).int().argmax(-1)",
        "order[:, -1]",
        "the order's index taken for its inverse",
    ),
    Fault(
        RELAXATION,
        "hard.detach() + (soft - soft.detach())",
        "hard.detach() + (soft - soft).detach()",
        "straight-through without a gradient",
    ),
    Fault(
        CHOICE,
        "gumbel(uniforms.objects(valid.shape)) if noise else None",
        "gumbel(uniforms.objects(valid.shape))",
        "noise on where it is off",
    ),
    Fault(
        CHOICE,
        "return medoid_start(features, valid, padding)",
        "return medoid_start(features, valid, padding) * 0",
        "medoid start ignored",
    ),
    # All pairs
    Fault(
        TRUTH,
        "& present[:, None] & ~itself",
        "& present[:, None]",
        "a true patch is its own query",
    ),
    Fault(
        TRUTH,
        "(losses * counted).sum(1) / present.sum(1, keepdim=True)",
        "(losses * counted).sum(1)",
        "an object counts by how many others its image has",
    ),
    Fault(
        TRUTH,
        "(losses * counted).sum(1) / present.sum(1, keepdim=True)",
        "(losses * counted).sum(2) / present.sum(1, keepdim=True)",
        "losses of the query, not of its target",
    ),
    Fault(
        TRUTH,
        "other = (alike & apart)[:, None]",
        "other = alike[:, None]",
        "the own image's objects of a category are negatives",
    ),
    Fault(
        TRUTH,
        "alike = padding.pad(categories)[:, :, None] == categories",
        "alike = padding.pad(categories)[:, :, None] >= 0 * categories",
        "objects of every category are negatives",
    ),
    Fault(
        TRUTH,
        "other = (alike & apart)[:, None]",
        "other = (alike & ~alike)[:, None]",
        "nothing of other images is a negative",
    ),
    Fault(
        TRUTH,
        "        apart = apart & padding.real\n",
        "        pass\n",
        "fillers are negatives",
    ),
    Fault(
        TRUTH,
        "to_candidates.masked_fill(~allowed[:, None], MASKED)",
        "to_candidates",
        "padding is a negative",
    ),
    Fault(
        TRUTH,
        "to_true = -between(true, true)",
        "to_true = -between(true.detach(), true)",
        "the query learns nothing from its target",
    ),
    Fault(
        TRUTH,
        "to_others = -between(true.flatten(0, 1), truth.float())",
        "to_others = -between(true.flatten(0, 1), truth.float().detach())",
        "negatives of other images learn nothing",
    ),
    Fault(
        TRUTH,
        "torch.log_softmax(logits / temperature, dim=-1)",
        "torch.log_softmax(logits, dim=-1)",
        "temperature ignored by all pairs",
    ),
    Fault(
        NETWORK,
        'if rule.objective == "pairs":',
        "if False:",
        "the objective is the path, whatever is asked for",
    ),
    Fault(
        NETWORK,
        "categories = batch.graph.nodes[: len(truth)]",
        "categories = batch.graph.object_image",
        "images taken for categories",
    ),
    # The tightest set
    Fault(
        CHOICE,
        "relaxation=rule.relaxation, passes=rule.passes, crops=unlike,",
        "relaxation=rule.relaxation, crops=unlike,",
        "the rule's passes ignored",
    ),
    Fault(
        SEARCH,
        "        sets, reach = refined(space, sets, reach)\n",
        "        pass\n",
        "no pass is made",
    ),
    Fault(
        SEARCH,
        "for place in range(len(places)):",
        "for place in range(len(places) - 1):",
        "a pass leaves the last object as it is",
    ),
    Fault(
        SEARCH,
        "        reach = reach.changed(space, slots[..., place], -there)\n",
        "",
        "a patch is chosen once more near to itself",
    ),
    Fault(
        SEARCH,
        ".float().masked_fill(~valid, torch.inf)",
        ".float()",
        "sets from padding",
    ),
    Fault(
        SEARCH,
        "spread(space, slots).masked_fill(worse, torch.inf).argmin(1, keepdim=True)",
        "valid.int().argmax(1, keepdim=True)",
        "the first start's set, not the tightest",
    ),
    Fault(
        SEARCH,
        "mean = self.summed / self.number.clamp_min(1)",
        "mean = self.summed",
        "distances summed, so that noise counts for less with each patch",
    ),
    Fault(
        SEARCH,
        "winner = reach.cost(space)",
        "winner = reach._replace(shown=reach.shown * 0).cost(space)",
        "sets grow by crops that they show, until a pass",
    ),
    Fault(
        SEARCH,
        "(pairs & _of_pairs(space.same, slots)).sum((2, 3))",
        "(pairs & _of_pairs(space.same, slots)).sum((2, 3)).clamp_max(1)",
        "two repeats are no worse than one",
    ),
    Fault(
        SEARCH,
        "(mean - space.bonus[:, None]).masked_fill(shut, torch.inf)",
        "mean.masked_fill(shut, torch.inf)",
        "noise plays no part in how sets grow",
    ),
    Fault(
        SEARCH,
        "return total / partners - (noise * present).sum(2)",
        "return total / partners",
        "noise plays no part in which set is kept",
    ),
    Fault(
        SEARCH,
        "return total / partners - (noise * present).sum(2)",
        "return total - (noise * present).sum(2)",
        "noise counts for less the more objects there are",
    ),
    Fault(
        SEARCH,
        "worse = repeated > repeated.amin(1, keepdim=True)",
        "worse = ~valid",
        "a set that shows a crop twice is kept where it is the tightest",
    ),
    Fault(
        SEARCH,
        "            shown = shown + by * rows(space.same, slots)\n",
        "            pass\n",
        "sets grow by crops that they show",
    ),
    Fault(
        SEARCH,
        "        waiting = waiting & ~wins\n",
        "        waiting = waiting & ~wins & (step < 1)\n",
        "objects after the second have no patch",
    ),
    Fault(
        SEARCH,
        "space = search_space(apart.detach(), noise, valid, padding, crops)",
        "space = search_space(apart.detach(), None, valid, padding, crops)",
        "noise ignored by the tightest set",
    ),
    Fault(
        SEARCH,
        "F.one_hot(slots, apart.shape[1]).to(apart.dtype) @ apart",
        "F.one_hot(slots, apart.shape[1]).to(apart.dtype) @ apart.detach()",
        "no gradient from the tightest set",
    ),
    Fault(
        SEARCH,
        "mean = others.to(apart.dtype) @ from_chosen / others.sum",
        "mean = space.present[:, None].to(apart.dtype) @ from_chosen / others.sum",
        "weights by the distance to the own patch too",
    ),
    Fault(
        SEARCH,
        "@ from_chosen / others.sum(2, keepdim=True).clamp_min(1)",
        "@ from_chosen",
        "weights by summed distance",
    ),
    Fault(
        SEARCH,
        "shut = own_slots(reach.cost(space).isinf(), space) & ~chosen.bool()",
        "shut = own_slots(reach.cost(space).isinf(), space)",
        "a patch that repeats a crop needlessly has no weight",
    ),
    Fault(
        SEARCH,
        "masked_fill(shut, MASKED)  # (N, M, K)",
        "masked_fill(~space.allowed, MASKED)  # (N, M, K)",
        "weights of crops that others show",
    ),
    Fault(
        SEARCH,
        "logits = noiseless + space.bonus.view_as(noiseless)",
        "logits = noiseless",
        "weights of the tightest set without noise",
    ),
    Fault(
        SEARCH,
        "torch.softmax(logits / temperature, dim=-1)",
        "torch.softmax(logits, dim=-1)",
        "temperature ignored by the tightest set",
    ),
    Fault(
        SEARCH,
        "soft = torch.softmax(noiseless, dim=-1)",
        "soft = torch.softmax(logits, dim=-1)",
        "the gradient of `marginal` with noise, in the tightest set",
    ),
    Fault(
        SEARCH,
        'weights = soft if relaxation == "soft" else straight_through(soft, chosen)',
        "weights = straight_through(soft, chosen)",
        "`soft` shows one patch of the tightest set",
    ),
    Fault(
        SEARCH,
        "parts = (weights, slots % k, steps, entropy)",
        "parts = (weights, slots % k, steps.amax(1, keepdim=True) - steps, entropy)",
        "steps of the tightest set told backwards",
    ),
    Fault(
        DISTANCE,
        '"donot_use_mm_for_euclid_dist"',
        '"use_mm_for_euclid_dist"',
        "equal features lie apart",
    ),
    # E_p
    Fault(
        NETWORK,
        "            stem_stride=of_patches.stem_stride,\n",
        "",
        "the stem's stride ignored",
    ),
    Fault(
        NETWORK,
        "pooling=of_patches.pooling,",
        'pooling="last",',
        "the pooling ignored",
    ),
    Fault(
        EMBEDDING,
        "self.head(self.norm(moments))",
        "self.head(moments)",
        "moments of all layers not brought to one scale",
    ),
    Fault(
        EMBEDDING,
        'every_map if self.pooling == "all" else every_map[-1:]',
        "[maps] * (len(every_map) if self.pooling == 'all' else 1)",
        "the last layer's maps in place of all",
    ),
    Fault(
        EMBEDDING,
        "strides = (stem_stride, *(2 for _ in channels[1:]))",
        "strides = (stem_stride,) * len(channels)",
        "every layer has the stem's stride",
    ),
    Fault(
        EMBEDDING,
        "kernel = stride + stride // 2",
        "kernel = stride",
        "kernels that do not overlap",
    ),
    # No images
    Fault(
        TRAINER,
        "if not self.config.losses.of_images:",
        "if False:",
        "images are asked for where no loss looks at them",
    ),
    Fault(
        NETWORK,
        "if self.training and not self.config.losses.of_images:",
        "if not self.config.losses.of_images:",
        "no images in sample grids",
    ),
    Fault(
        NETWORK,
        "if self.training and not self.config.losses.of_images:",
        "if False:",
        "images are made where no loss looks at them",
    ),
    Fault(
        TRAINER,
        "return self.weighted(part, output, self.retrieval_terms(part, output))\n",
        'return self.weighted(part, output, {"boxes": self.retrieval_terms(part, output)["boxes"]})\n',
        "without images only boxes are learned",
    ),
    # Canvas and image
    Fault(
        COMPOSITION,
        "to_subject, predicates, to_other = messages.split(",
        "to_other, predicates, to_subject = messages.split(",
        "messages to subject and object swapped",
    ),
    Fault(
        COMPOSITION,
        "self.pooled(total / counts[:, None, None, None])",
        "self.pooled(total)",
        "messages summed, not averaged",
    ),
    Fault(COMPOSITION, "warped = warp(maps, self.flow(maps))", "warped = maps", "no warp"),
    Fault(
        COMPOSITION,
        "at_x = _between(cell % w + x",
        "at_x = _between(cell % w + y",
        "warped along y by both parts of the flow",
    ),
    Fault(
        COMPOSITION,
        "(at_y[..., None] * at_x[..., None, :])",
        "(at_x[..., None] * at_y[..., None, :])",
        "a warp with x and y swapped",
    ),
    Fault(
        COMPOSITION,
        "torch.where(cells == low + 1, share, 0.0)",
        "torch.where(cells == low + 1, share.detach(), 0.0)",
        "half of the gradient of a flow",
    ),
    Fault(
        COMPOSITION,
        "flow.float().permute",
        "flow.permute",
        "a warp placed in bf16",
    ),
    Fault(
        BOXES,
        "x, y = x * inside_x, y * inside_y",
        "pass",
        "patches smeared beyond their boxes",
    ),
    Fault(
        COMPOSITION,
        ".clamp_max(0.0)) * inside",
        ".clamp_max(0.0))",
        "objects that do not cover a cell take a part of it",
    ),
    Fault(
        COMPOSITION,
        "columns = attention[..., None] * x[:, :, None]",
        "columns = x[:, :, None].expand(-1, -1, side, -1, -1)",
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
        "features = stage(resized(canvas, size), features)",
        "features = stage(resized(canvas, size) * (features is None), features)",
        "only the first stage sees the canvas",
    ),
    Fault(
        BOXES,
        "gather(images, box_image)",
        "gather(images.detach(), box_image)",
        "no gradient through crops",
    ),
    Fault(
        BOXES,
        "return y @ gather(images, box_image) @ x.mT",
        "return x @ gather(images, box_image) @ y.mT",
        "crops with x and y swapped",
    ),
    # Terms and updates
    Fault(
        LOSSES,
        "generator_loss(real, count, rows) + mean(",
        "generator_loss(real, count, rows) + 0 * mean(",
        "no loss on fakes",
    ),
    Fault(
        LOSSES,
        "per_object.sum() / (objects - images).clamp_min(1)",
        "per_object.sum() / objects",
        "L_gt averaged over the first objects too",
    ),
    Fault(
        LOSSES,
        "(distance * (pairs & upper)).sum() / count",
        "(distance * (pairs & upper)).sum()",
        "L_occur summed over images",
    ),
    Fault(
        LOOP, "        optimiser.zero_grad(set_to_none=True)\n", "", "gradients of all steps add up"
    ),
    # What several processes make of it
    Fault(
        LOSSES,
        "values.sum() / (count * values[0].numel())",
        "values.mean()",
        "each process's mean over its own part",
    ),
    Fault(
        LOSSES,
        "mean(F.softplus(fake.float()), count * sets, of_fake)",
        "mean(F.softplus(fake.float()), count, of_fake)",
        "fakes count once for each set of them",
    ),
    Fault(
        TRAINER,
        "losses.gt_selection(output.gt_selection, *counts)",
        "losses.gt_selection(output.gt_selection, torch.tensor(len(batch.images)), torch.tensor(len(batch.boxes)))",
        "L_gt averaged over the process's own objects",
    ),
    Fault(
        TRAINER,
        "batch.boxes, counts.objects, real)",
        "batch.boxes, torch.tensor(len(batch.boxes)), real)",
        "boxes averaged over the process's own objects",
    ),
    Fault(
        TRAINER,
        "(2 * count for count in batch.counts)",
        "(count for count in batch.counts)",
        "fakes counted once for both images",
    ),
    Fault(
        PARALLEL,
        "            tensor.copy_(total.view_as(tensor))\n",
        "            pass\n",
        "each process goes along its own gradient",
    ),
    Fault(LOOP, "yield [*gradients, values]", "yield gradients", "losses of one process alone"),
    Fault(LOOP, "yield [*gradients, values]", "yield [values]", "each process's own gradient"),
    Fault(
        PARALLEL,
        "            ranks.add_up(next(phases))\n",
        "            next(phases)\n",
        "nothing is added up over the processes",
    ),
    # Fillers
    Fault(
        LOSSES,
        "values = values.masked_fill(~rows.reshape(-1, *[1] * (values.dim() - 1)), 0)",
        "pass",
        "fillers count in every loss",
    ),
    Fault(
        TRAINER,
        "real = batch.padding.twice().real",
        "real = None",
        "the generator's losses count fillers",
    ),
    Fault(
        TRAINER,
        "object_logits.real[objects:], counts.objects, real",
        "object_logits.real[objects:], counts.objects, None",
        "D_obj's loss counts fillers",
    ),
    Fault(
        LOSSES,
        "None if rows is None else rows.repeat(sets)",
        "None",
        "fillers count among the fakes",
    ),
    Fault(
        PADDING,
        "self.image * self.present.shape[1] + self.place, self.real)",
        "self.image * self.present.shape[1] + self.place)",
        "fillers get what the first object of the first image has",
    ),
    Fault(
        SHAPES,
        "triples[:, end] += more * (triples[:, end] >= objects)",
        "triples[:, end] += 0",
        "images are mistaken for fillers in the graph",
    ),
    Fault(
        SHAPES,
        "last = objects + more - 1",
        "last = objects - 1",
        "triples fill up at a real object",
    ),
    # Sums and resizing as a GPU makes them
    Fault(
        ROWS,
        "gradient = move(gradients[0], Places(row_back, kept_back), Places(row, kept))",
        "gradient = move(gradients[0], Places(row_back), Places(row))",
        "gradients go where nothing was kept",
    ),
    Fault(
        ROWS,
        "return (_ones(at, rows, values).mT @",
        "return (_ones(at, rows, values).mT.cumsum(1).clamp_max(1) @",
        "sums by products take other rows in",
    ),
    Fault(
        RESIZING,
        "columns = torch.bmm(weights.expand(n * side, -1, -1),",
        "columns = torch.bmm(weights.flip(0).expand(n * side, -1, -1),",
        "resized maps mirrored",
    ),
    # Parts of a batch
    Fault(
        TRAINER,
        "            discriminator.train(first)\n",
        "            discriminator.train()\n",
        "a power iteration in every part",
    ),
    Fault(
        TRAINER,
        "with torch.set_grad_enabled(whole):",
        "with torch.set_grad_enabled(True):",
        "a part's maps are kept for a gradient that nobody takes",
    ),
    Fault(
        LOOP,
        "loss.backward(inputs=parameters)",
        "loss.backward()",
        "an update takes gradients of other networks' weights",
    ),
    Fault(
        LOOP,
        "loss.backward(inputs=parameters)",
        "[(2 * loss / 2).backward(inputs=parameters, retain_graph=i == 0) for i in range(2)]",
        "each gradient is summed twice",
    ),
    Fault(LOOP, "torch.stack(of_parts).sum(0)", "of_parts[-1]", "the last part's losses alone"),
    # A dry run
    Fault(
        LOOP,
        "[b for network in self.networks.values() for b in network.buffers()]",
        "[b for network in [*self.networks.values()][:-1] for b in network.buffers()]",
        "a dry run moves the spectral norms of D_obj",
    ),
    Fault(
        LOOP,
        "        self.diverged.fill_(1)  # so no optimiser updates anything\n",
        "",
        "a dry run updates weights",
    ),
    # bf16
    Fault(
        PRECISION,
        "torch.autocast(device.type, enabled=False)",
        "torch.autocast(device.type, enabled=torch.is_autocast_enabled(device.type))",
        "retrieval, places and spectral norms are rounded to bf16",
    ),
    Fault(LOSSES, "F.softplus(-logits.float())", "F.softplus(-logits)", "losses of rounded logits"),
    # A loss that is not finite
    Fault(
        LOOP,
        "        self.diverged.logical_or_(~(values.isfinite().all() & norm.isfinite()))\n",
        "",
        "nothing is latched",
    ),
    Fault(
        LOOP,
        "self.diverged.logical_or_(~(",
        "self.diverged.copy_(~(",
        "the next finite loss ends it",
    ),
    Fault(LOOP, " & norm.isfinite())", ")", "a gradient that is not finite goes unnoticed"),
    Fault(
        LOOP,
        "optimiser.found_inf = self.diverged",
        "optimiser.found_inf = None",
        "updates go on after a loss that is not finite",
    ),
    Fault(
        LOOP,
        'config.lr_generator if name == "generator" else config.lr_discriminator',
        "config.lr_generator",
        "one learning rate for all",
    ),
    Fault(
        DRAWS,
        "([seed, position], np.uint64)",
        "([0, position], np.uint64)",
        "seed ignored in the draws",
    ),
)

# Survivors that change nothing, by reason; the report counts them by the same words.
UNCHANGED: tuple[Unchanged, ...] = (
    Unchanged(
        "every row holds as much as the first",
        LOSSES,
        "mean",
        (
            (
                "return values.sum() / (count * values[0].numel())",
                "return values.sum() / (count * values[(-1)].numel())",
            ),
        ),
    ),
    Unchanged(
        "l1 is the same both ways round",
        TRAINER,
        "RetrieveGANTrainer.retrieval_terms",
        (
            (
                'terms = {"boxes": losses.box_l1(output.box_sides, batch.boxes, counts.objects, real)}',
                'terms = {"boxes": losses.box_l1(batch.boxes, output.box_sides, counts.objects, real)}',
            ),
        ),
    ),
    Unchanged(
        "l1 is the same both ways round",
        TRAINER,
        "RetrieveGANTrainer.image_terms",
        (
            (
                "made.rebuilt, self._real(batch), batch.counts.images",
                "self._real(batch), made.rebuilt, batch.counts.images",
            ),
        ),
    ),
    Unchanged(
        "on the CPU nothing moves; the tests marked gpu fail",
        TRAINER,
        "RetrieveGANTrainer.image_grid",
        (("batch = batch.to(self.device)", "pass"),),
    ),
    Unchanged(
        "for the type checker: what is None fails in the next line as well",
        NETWORK,
        "RetrieveGAN.ground_truth_pass",
        (("assert draws is not None", "pass"),),
    ),
    Unchanged(
        "a softmax does not depend on the number subtracted, so no gradient comes of it",
        COMPOSITION,
        "softmax_over_objects",
        (
            (
                "highest = masked.detach().amax(1, keepdim=True) # -inf where there is none",
                "highest = (masked).amax(1, keepdim=True) # -inf where there is none",
            ),
        ),
    ),
    Unchanged(
        "only objects outside their box lie above 0, and these are multiplied by 0",
        COMPOSITION,
        "softmax_over_objects",
        (
            (
                "weights = torch.exp((score - highest).clamp_max(0.0)) * inside",
                "weights = torch.exp((score - highest).clamp_max(1.0)) * inside",
            ),
        ),
    ),
    Unchanged(
        "maps at their own side have been returned",
        RESIZING,
        "resized",
        (("if side < maps.shape[-1]:", "if side <= maps.shape[-1]:"),),
    ),
    Unchanged(
        "maps are squares",
        RESIZING,
        "resized",
        (
            ("if side == maps.shape[-1]:", "if side == maps.shape[-2]:"),
            ("if side < maps.shape[-1]:", "if side < maps.shape[-2]:"),
        ),
    ),
    Unchanged(
        "floor has no gradient",
        COMPOSITION,
        "_between",
        (("low = at.detach().floor()", "low = (at).floor()"),),
    ),
    Unchanged(
        "there is one",
        ROWS,
        "_Move.backward",
        (
            (
                "gradient = move(gradients[0], Places(row_back, kept_back), Places(row, kept))",
                "gradient = move(gradients[(-1)], Places(row_back, kept_back), Places(row, kept))",
            ),
        ),
    ),
    Unchanged(
        "there is one channel",
        COMPOSITION,
        "Fuser.forward",
        (
            (
                "padding.pad(placed[:, 0]), padding.pad(covered(boxes, side)[:, 0])",
                "padding.pad(placed[:, (-1)]), padding.pad(covered(boxes, side)[:, 0])",
            ),
            (
                "padding.pad(placed[:, 0]), padding.pad(covered(boxes, side)[:, 0])",
                "padding.pad(placed[:, 0]), padding.pad(covered(boxes, side)[:, (-1)])",
            ),
        ),
    ),
    Unchanged(
        "a product of which one factor is float32 is in float32",
        COMPOSITION,
        "Fuser.forward",
        (
            (
                "score = (keys.float() * query.float()).sum(1, keepdim=True) / keys.shape[1] ** 0.5",
                "score = ((keys) * query.float()).sum(1, keepdim=True) / keys.shape[1] ** 0.5",
            ),
            (
                "score = (keys.float() * query.float()).sum(1, keepdim=True) / keys.shape[1] ** 0.5",
                "score = (keys.float() * (query)).sum(1, keepdim=True) / keys.shape[1] ** 0.5",
            ),
        ),
    ),
    Unchanged(
        "a canvas is a square, and which of two axes is named first plays no part",
        COMPOSITION,
        "paste_together",
        (
            ("side = attention.shape[-1]", "side = attention.shape[-2]"),
            (
                "rows = (y @ last).transpose(1, 2) # (N, side, M, w * C)",
                "rows = (y @ last).transpose(2, 1) # (N, side, M, w * C)",
            ),
        ),
    ),
    Unchanged(
        "maps are squares",
        COMPOSITION,
        "Fuser.forward",
        (
            (
                "vectors = nodes.vectors[:, :, None, None].expand(-1, -1, h, w)",
                "vectors = nodes.vectors[:, :, None, None].expand(-1, -1, w, h)",
            ),
        ),
    ),
    Unchanged(
        "maps are squares",
        NETWORK,
        "RetrieveGAN.generate",
        (
            (
                "messages = self.predicates(predicate)[:, :, None, None].expand(-1, -1, h, w)",
                "messages = self.predicates(predicate)[:, :, None, None].expand(-1, -1, w, h)",
            ),
        ),
    ),
    Unchanged(
        "there is one map of weights, and at the same side each value has itself",
        RESIZING,
        "_weights",
        (
            ("if side > h:", "if side >= h:"),
            (
                'return F.interpolate(one_hot, size=side, mode="linear")[0].mT',
                'return F.interpolate(one_hot, size=side, mode="linear")[(-1)].mT',
            ),
            (
                "return F.adaptive_avg_pool1d(one_hot, side)[0].mT",
                "return F.adaptive_avg_pool1d(one_hot, side)[(-1)].mT",
            ),
        ),
    ),
    Unchanged(
        "it is the default",
        SHAPES,
        "_orders",
        (
            (
                "kept = torch.arange(order.shape[1], dtype=order.dtype, device=order.device)",
                "kept = torch.arange(order.shape[1], device=order.device)",
            ),
        ),
    ),
    Unchanged(
        "there is one channel",
        DISCRIMINATORS,
        "ImageDiscriminator.forward",
        (
            (
                "out: Tensor = self.logits(self.trunk(images))[:, 0]",
                "out: Tensor = self.logits(self.trunk(images))[:, (-1)]",
            ),
        ),
    ),
    Unchanged(
        "there is one channel",
        DISCRIMINATORS,
        "ObjectDiscriminator.forward",
        (
            (
                "return ObjectLogits(self.real(hidden)[:, 0], self.category(hidden))",
                "return ObjectLogits(self.real(hidden)[:, (-1)], self.category(hidden))",
            ),
        ),
    ),
    Unchanged(
        "a side of exactly that length is given that length",
        BOXES,
        "_within",
        (
            (
                "extent = torch.where(extent.abs() < SMALLEST_SIDE, SMALLEST_SIDE, extent)",
                "extent = torch.where(extent.abs() <= SMALLEST_SIDE, SMALLEST_SIDE, extent)",
            ),
        ),
    ),
    Unchanged(
        "EDGE is above what rounding moves a centre, and no centre lies just that far outside",
        BOXES,
        "_inside",
        (
            (
                "inside = ((at - 0.5).abs() <= 0.5 + EDGE).to(at.dtype)",
                "inside = ((at - 0.5).abs() < 0.5 + EDGE).to(at.dtype)",
            ),
        ),
    ),
    Unchanged(
        "a number added to every logit changes no softmax and no arg max, and all features have one shape",
        GREEDY,
        "retrieve",
        (
            (
                "bias = padding.pad(noise) if noise is not None else torch.zeros_like(padded[..., 0])",
                "bias = padding.pad(noise) if noise is not None else torch.ones_like(padded[..., 0])",
            ),
            (
                "bias = padding.pad(noise) if noise is not None else torch.zeros_like(padded[..., 0])",
                "bias = padding.pad(noise) if noise is not None else torch.zeros_like(padded[..., (-1)])",
            ),
            (
                "noiseless_bias = torch.zeros_like(bias)",
                "noiseless_bias = torch.ones_like(bias)",
            ),
        ),
    ),
    Unchanged(
        "overwritten for every object; the padding's entries are dropped",
        GREEDY,
        "retrieve",
        (
            (
                "selected = torch.zeros_like(unassigned, dtype=torch.long)",
                "selected = torch.zeros_like(unassigned)",
            ),
            (
                "selected = torch.zeros_like(unassigned, dtype=torch.long)",
                "selected = torch.ones_like(unassigned, dtype=torch.long)",
            ),
            ("steps = torch.full_like(selected, -1)", "steps = torch.full_like(selected, -2)"),
            ("steps = torch.full_like(selected, -1)", "steps = torch.full_like(selected, -0)"),
            (
                "entropy = torch.zeros_like(bias[..., 0])",
                "entropy = torch.ones_like(bias[..., 0])",
            ),
            (
                "entropy = torch.zeros_like(bias[..., 0])",
                "entropy = torch.zeros_like(bias[..., 1])",
            ),
            (
                "entropy = torch.zeros_like(bias[..., 0])",
                "entropy = torch.zeros_like(bias[..., (-1)])",
            ),
        ),
    ),
    Unchanged(
        "the least sum is the least mean",
        GREEDY,
        "medoid_start",
        (
            (
                "total = (between(padded, padded) * allowed[:, None]).sum(-1)",
                "total = (between(padded, padded) * allowed[:, None]).mean(-1)",
            ),
        ),
    ),
    Unchanged(
        "the permutation reads the first K + 1 columns",
        TRUTH,
        "add_truth",
        (
            (
                "allowed = torch.cat([valid, torch.ones_like(valid[:, :1])], 1)",
                "allowed = torch.cat([valid, torch.ones_like(valid[:, :2])], 1)",
            ),
        ),
    ),
    Unchanged(
        "all entries of a feature have one shape",
        TRUTH,
        "ground_truth_selection",
        (
            ("losses = torch.zeros_like(true[..., 0])", "losses = torch.zeros_like(true[..., 1])"),
            (
                "losses = torch.zeros_like(true[..., 0])",
                "losses = torch.zeros_like(true[..., (-1)])",
            ),
        ),
    ),
    Unchanged(
        "after the last object none is active",
        TRUTH,
        "ground_truth_selection",
        (
            ("for step in range(places - 1):", "for step in range(places + 1):"),
            ("for step in range(places - 1):", "for step in range(places - 0):"),
        ),
    ),
    Unchanged(
        "the arg max that follows has no gradient",
        TRUTH,
        "ground_truth_selection",
        (
            (
                "highest = logits.detach().amax(-1).masked_fill(~unassigned, MASKED)",
                "highest = (logits).amax(-1).masked_fill(~unassigned, MASKED)",
            ),
        ),
    ),
    Unchanged(
        "a number added to every key changes no softmax",
        RELAXATION,
        "relaxed_subset",
        (("probabilities = torch.zeros_like(keys)", "probabilities = torch.ones_like(keys)"),),
    ),
    Unchanged(
        "the last axis is the default",
        RELAXATION,
        "relaxed_subset",
        (("top = total.topk(k, dim=-1).indices", "top = total.topk(k).indices"),),
    ),
    Unchanged(
        "for the type checker: what is None fails in the next line as well",
        CHOICE,
        "choose",
        (("assert features is not None", "pass"),),
    ),
    Unchanged(
        "for the type checker: what is None fails in the next line as well",
        CHOICE,
        "start_slot",
        (
            ('assert start == "random"', "pass"),
            ("assert draws.start is not None", "pass"),
        ),
    ),
    Unchanged(
        "there is one axis",
        PADDING,
        "padding_of",
        (("first = counts.cumsum(0) - counts", "first = counts.cumsum((-1)) - counts"),),
    ),
    Unchanged(
        "an image resized to its own size stays as it is",
        PIXELS,
        "to_float",
        (
            ("if resized.shape[-2:] != (side, side):", "if resized.shape[:-2] != (side, side):"),
            ("if resized.shape[-2:] != (side, side):", "if resized.shape[-3:] != (side, side):"),
            ("if resized.shape[-2:] != (side, side):", "if resized.shape[-1:] != (side, side):"),
        ),
    ),
    Unchanged(
        "whole numbers have no gradient",
        PIXELS,
        "to_uint8",
        (
            (
                "scaled = ((images.detach().float() + 1) * 127.5).round().clamp(0, 255)",
                "scaled = (((images).float() + 1) * 127.5).round().clamp(0, 255)",
            ),
        ),
    ),
    Unchanged(
        "a vector's distance to itself is 0, and all images of a batch are padded to one shape",
        LOSSES,
        "cooccurrence",
        (
            (
                "upper = torch.triu(torch.ones_like(pairs[0]), diagonal=1)",
                "upper = torch.triu(torch.ones_like(pairs[0]))",
            ),
            (
                "upper = torch.triu(torch.ones_like(pairs[0]), diagonal=1)",
                "upper = torch.triu(torch.ones_like(pairs[(-1)]), diagonal=1)",
            ),
            (
                "upper = torch.triu(torch.ones_like(pairs[0]), diagonal=1)",
                "upper = torch.triu(torch.ones_like(pairs[0]), diagonal=0)",
            ),
        ),
    ),
    Unchanged(
        "it is the default",
        LOOP,
        "Trainer.update",
        (("optimiser.zero_grad(set_to_none=True)", "optimiser.zero_grad()"),),
    ),
    Unchanged(
        "which of two crops stands left plays no part",
        CHOICE,
        "_in_graph_order",
        (
            (
                "taken = taken | same_crop(crop, Crops(photo, box))",
                "taken = taken | same_crop(Crops(photo, box), crop)",
            ),
        ),
    ),
    Unchanged(
        "which of two crops stands left plays no part",
        GREEDY,
        "retrieve",
        (
            (
                "taken = taken | same_crop(crop, padded_crops)",
                "taken = taken | same_crop(padded_crops, crop)",
            ),
        ),
    ),
    Unchanged(
        "which of two crops stands left plays no part",
        BOXES,
        "overlaps",
        (
            (
                "low = torch.maximum(left[..., :2], right[..., :2])",
                "low = torch.maximum(right[..., :2], left[..., :2])",
            ),
            (
                "high = torch.minimum(left[..., 2:], right[..., 2:])",
                "high = torch.minimum(right[..., 2:], left[..., 2:])",
            ),
            (
                "areas = [(box[..., 2:] - box[..., :2]).prod(-1) for box in (left, right)]",
                "areas = [(box[..., 2:] - box[..., :2]).prod(-1) for box in (right, left)]",
            ),
        ),
    ),
)
