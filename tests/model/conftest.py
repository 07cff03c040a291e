"""What the tests of a model share."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from bank.bank import Bank
from model.device import compute_deterministically


@pytest.fixture(scope="module")
def bank(toy_bank: Path) -> Bank:
    return Bank.open(toy_bank)


@pytest.fixture
def gpu() -> torch.device:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device on this machine")
    return torch.device("cuda")


@pytest.fixture
def deterministic(gpu: torch.device, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A GPU whose results are the same every time."""
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)
    fills = torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    compute_deterministically()
    yield
    torch.use_deterministic_algorithms(False)
    torch.utils.deterministic.fill_uninitialized_memory = fills  # type: ignore[attr-defined]
