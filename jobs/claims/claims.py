"""The paper's claims as data: what is trained for each, what is compared, and which difference was
named beforehand.

A claim, a training or a way of choosing is added here and nowhere else.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

# The run's own embedding, that of its network before the first step, or the hidden styles.
Chooser = Literal["trained", "untrained", "start-conditioned oracle", "global oracle"]


@dataclass(frozen=True)
class Training:
    """A run of recipe demo with some other settings."""

    name: str
    flags: tuple[str, ...] = ()  # of model.train


@dataclass(frozen=True)
class Method:
    """A way of choosing patches, which has a score for every seed of its training."""

    name: str
    training: Training
    chooser: Chooser = "trained"
    # Fields of RetrievalConfig with which patches are chosen, in place of those trained with.
    choice: Mapping[str, Any] = field(default_factory=dict)
    noise: bool = False


class Comparison(NamedTuple):
    """Two methods by name, the one that is to have the higher compatibility first."""

    better: str
    worse: str


@dataclass(frozen=True, kw_only=True)
class Claim:
    name: str
    statement: str
    source: str  # where the paper says so; of a claim of ours, what it is about
    methods: tuple[Method, ...]
    # Where there are several, the claim is shown where all of them are.
    primary: tuple[Comparison, ...]
    further: tuple[Comparison, ...] = ()
    steps: int = 500  # of each training

    @property
    def trainings(self) -> tuple[Training, ...]:
        return tuple(dict.fromkeys(method.training for method in self.methods))

    def of(self, training: Training) -> list[Method]:
        """The methods that choose by a run of that training."""
        return [method for method in self.methods if method.training == training]


PAPER = Training("recipe demo")
WITHOUT_TRUTH = Training("without L_gt_selection", ("--losses.gt-selection", "0"))
WITHOUT_COOCCURRENCE = Training("without L_cooccurrence", ("--losses.cooccurrence", "0"))
IMAGE_LOSSES = Training("image losses alone", WITHOUT_TRUTH.flags + WITHOUT_COOCCURRENCE.flags)
SOFT = Training("image losses, soft", (*IMAGE_LOSSES.flags, "--relaxation", "soft"))
MARGINAL = Training("image losses, marginal", (*IMAGE_LOSSES.flags, "--relaxation", "marginal"))
TRUTH_OFFERED = Training(
    "image losses, true patch offered", (*IMAGE_LOSSES.flags, "--gt-in-candidates")
)
FIXED_QUERY = Training("fixed query", ("--retrieval.query", "fixed"))

LEARNED = Method("learned", PAPER)

COMPATIBLE = Claim(
    name="compatible",
    statement="Patches that are chosen by learned retrieval go together.",
    source=(
        "Figure 4: in a user study the patches were preferred to those of PasteGAN, which takes "
        "the nearest by an embedding of the graph (`predefined`)."
    ),
    methods=(
        LEARNED,
        Method("learned, noise on", PAPER, noise=True),
        Method("untrained", PAPER, "untrained"),
        Method("predefined", PAPER, choice={"mode": "predefined"}),
        Method("random", PAPER, choice={"mode": "random"}),
        Method("start-conditioned oracle", PAPER, "start-conditioned oracle"),
        Method("global oracle", PAPER, "global oracle"),
    ),
    primary=(Comparison("learned", "predefined"),),
    further=(
        Comparison("learned", "random"),
        Comparison("learned", "untrained"),
        Comparison("start-conditioned oracle", "learned"),
        Comparison("global oracle", "learned"),
    ),
)

LOSSES = Claim(
    name="losses",
    statement=(
        "Both selection losses matter: without either one, the chosen patches go together less."
    ),
    source=(
        "Figure 4: the user study preferred the patches of the whole model to those without "
        "ground-truth selection loss and to those without co-occurrence loss."
    ),
    methods=(
        Method("both losses", PAPER),
        Method("without ground-truth selection", WITHOUT_TRUTH),
        Method("without co-occurrence", WITHOUT_COOCCURRENCE),
        Method("without both", IMAGE_LOSSES),
        Method("untrained", PAPER, "untrained"),
    ),
    primary=(
        Comparison("both losses", "without ground-truth selection"),
        Comparison("both losses", "without co-occurrence"),
    ),
    further=(
        Comparison("both losses", "without both"),
        Comparison("without co-occurrence", "without both"),
        Comparison("without ground-truth selection", "without both"),
        Comparison("without both", "untrained"),
    ),
)

GENERATOR = Claim(
    name="generator",
    statement=(
        "The generator trains the retrieval: by the image losses alone, through the differentiable "
        "choice, the patch embedding comes to choose patches that go together."
    ),
    source=(
        "Conclusion: being differentiable, the retrieval learns a better embedding with the image "
        "generation process."
    ),
    methods=(
        Method("untrained", IMAGE_LOSSES, "untrained"),
        Method("straight-through", IMAGE_LOSSES),
        Method("soft", SOFT),
        Method("marginal", MARGINAL),
        Method("straight-through, true patch offered", TRUTH_OFFERED),
        Method("random", IMAGE_LOSSES, choice={"mode": "random"}),
    ),
    primary=(Comparison("straight-through", "untrained"),),
    further=(
        Comparison("soft", "untrained"),
        Comparison("marginal", "untrained"),
        Comparison("straight-through, true patch offered", "untrained"),
        Comparison("soft", "straight-through"),
        Comparison("marginal", "straight-through"),
        Comparison("straight-through, true patch offered", "straight-through"),
    ),
)

GREEDY = Claim(
    name="greedy",
    statement=(
        "Greedy retrieval matters: a query that is updated by what was chosen gives patches that "
        "go together more than the start's own patch as the query throughout."
    ),
    source="Section 2.1: at each step the patch most compatible with those chosen is selected.",
    methods=(
        Method("updated query", PAPER),
        Method("fixed query", FIXED_QUERY),
        Method("fixed query in choosing alone", PAPER, choice={"query": "fixed"}),
        Method(
            "fixed query in training alone",
            FIXED_QUERY,
            choice={"query": "updated"},
        ),
        Method("start-conditioned oracle", PAPER, "start-conditioned oracle"),
    ),
    primary=(Comparison("updated query", "fixed query"),),
    further=(
        Comparison("updated query", "fixed query in choosing alone"),
        Comparison("updated query", "fixed query in training alone"),
    ),
)

CLAIMS: Mapping[str, Claim] = {
    claim.name: claim for claim in (COMPATIBLE, LOSSES, GENERATOR, GREEDY)
}


def asked_for(name: str) -> Sequence[Claim]:
    """The claim of that name; of "all" each."""
    return tuple(CLAIMS.values()) if name == "all" else (CLAIMS[name],)
