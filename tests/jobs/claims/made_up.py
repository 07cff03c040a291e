"""Records of measurements that nobody made."""

from jobs.claims.record import MethodRecord, Record, Settings, TrainingRecord
from jobs.claims.scoring import Scores


def scores(compatibility, ground_truth=None):
    return Scores(
        compatibility=compatibility,
        unlike_choices=0.75,
        styles_shown=2.5,
        ground_truth=ground_truth,
    )


def record_of(claim, values):
    """values: the compatibility of each seed by the method's name; of those not named, 0.5."""
    seeds = len(next(iter(values.values())))
    return Record(
        claim=claim.name,
        command=f"python -m jobs.reproduce --claim {claim.name}",
        settings=Settings(
            seeds=seeds,
            steps=500,
            scenes=1500,
            candidates=20,
            draws=10,
            content_digest="c" * 64,
        ),
        photos=7000,
        derived_digest="d" * 64,
        chance=0.084,
        scoring_seconds=360.0,
        machine="CPU, 2 cores",
        trainings=tuple(
            TrainingRecord(
                name=training.name,
                command=f"python -m model.train {' '.join(training.flags)}",
                seconds=(90.0,) * seeds,
            )
            for training in claim.trainings
        ),
        methods=tuple(
            MethodRecord(
                name=method.name,
                training=method.training.name,
                scores=tuple(scores(v) for v in values.get(method.name, (0.5,) * seeds)),
            )
            for method in claim.methods
        ),
    )
