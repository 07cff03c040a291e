"""A PyTorch Dataset over memory maps: the scenes of a batch are looked up at once."""

from collections.abc import Iterator
from itertools import count

from torch.utils.data import BatchSampler, DataLoader, Dataset, RandomSampler

from benchmarks.loaders.scenes import Batch, Collate, MappedScenes, SceneCopy


class Batches(Dataset[Batch]):
    """Places of scenes -> their batch."""

    def __init__(self, scenes: MappedScenes, collate: Collate) -> None:
        self.scenes, self.collate = scenes, collate

    def __len__(self) -> int:
        return len(self.scenes)

    def __getitem__(self, places: list[int]) -> Batch:
        return self.collate([self.scenes[place] for place in places])


def convert(copy: SceneCopy) -> None:
    """The copy itself is read."""


def batches(copy: SceneCopy, batch_size: int, candidates: int, workers: int) -> Iterator[Batch]:
    dataset = Batches(copy.scenes(), copy.collate(candidates))
    loader = DataLoader(
        dataset,
        sampler=BatchSampler(RandomSampler(range(len(dataset))), batch_size, drop_last=False),
        batch_size=None,
        num_workers=workers,
        persistent_workers=workers > 0,
    )
    for _ in count():
        yield from loader
