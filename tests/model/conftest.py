"""What the tests of a model share."""

from pathlib import Path

import pytest

from bank.bank import Bank


@pytest.fixture(scope="module")
def bank(toy_bank: Path) -> Bank:
    return Bank.open(toy_bank)
