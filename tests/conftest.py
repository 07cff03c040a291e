"""A small toy world and a bank built from it, once per test session."""

from pathlib import Path

import pytest

from jobs.build_bank import BuildBank, main
from pipeline.arithmetic import fix_products
from pipeline.toy.coco import write_toy
from pipeline.waiting import wait_passively

wait_passively()  # as every command does, before torch is loaded
fix_products()


@pytest.fixture(scope="session")
def toy_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 training and 40 other photos (20 val, 20 test); tests may read it, not change it."""
    folder = tmp_path_factory.mktemp("data") / "toy"
    write_toy(folder, train_photos=60, val_photos=40)
    return folder


@pytest.fixture(scope="session")
def toy_bank(toy_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished bank of 8 shards with hardly trained networks; not to be changed either."""
    out = tmp_path_factory.mktemp("bank") / "toy"
    main(
        BuildBank(
            dataset="toy",
            data=toy_data,
            out=out,
            shard_photos=16,
            encoder_steps=1,
            cooccurrence_steps=1,
        )
    )
    return out
