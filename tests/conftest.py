"""What all tests share."""

import warnings

import pytest
import torch

warnings.filterwarnings("ignore", category=FutureWarning, module="torch")


@pytest.fixture(autouse=True)
def _steady():
    """The same random numbers in every test, whatever ran before."""
    torch.manual_seed(0)
