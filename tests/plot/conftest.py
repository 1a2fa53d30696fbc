"""The tests of pictures draw from torch's generator, seeded for each test, so that INTERP_SEED repeats them."""

import pytest
import torch
from grid import SEED


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(SEED)
