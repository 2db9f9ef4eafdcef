"""Shared by all tests: one thread and no GPU, so that numbers do not depend on the machine.

`RELAX_EXP_TEST_CUDA=1` shows the GPU to them, for the few that need one.
"""

import os

if not os.environ.get("RELAX_EXP_TEST_CUDA"):  # before torch looks
    os.environ["CUDA_VISIBLE_DEVICES"] = ""

import pytest
import torch


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    torch.set_num_threads(1)
