"""Shared by all tests: one thread, so that numbers do not depend on how many cores the machine has."""

import pytest
import torch


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    torch.set_num_threads(1)
