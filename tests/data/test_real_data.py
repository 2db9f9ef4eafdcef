"""The real files, where this machine has them: RELAX_EXP_TEST_DATA, else ../shared/data beside the repository."""

import hashlib
import os
from pathlib import Path

import pytest
import torch

from relax_exp import data

ROOT = Path(os.environ.get("RELAX_EXP_TEST_DATA") or Path(__file__).parents[3] / "shared" / "data")

needs_mnist = pytest.mark.skipif(not (ROOT / "MNIST" / "raw").exists(), reason="no MNIST: set RELAX_EXP_TEST_DATA")
needs_omniglot = pytest.mark.skipif(not (ROOT / "omniglot").exists(), reason="no Omniglot: set RELAX_EXP_TEST_DATA")


@needs_mnist
def test_mnist():
    grey, static = data.load("mnist", ROOT, "dynamic"), data.load("mnist", ROOT)
    assert [len(x) for x in (static.train, static.valid, static.test)] == [50_000, 10_000, 10_000]
    assert float(grey.mean.mean()) == pytest.approx(0.1310, abs=5e-4)
    assert float((static.mean - grey.mean).abs().max()) < 5.5 * 0.5 / 50_000**0.5
    assert int(static.train.max()) == 1
    # The first image is a 5: its first row of ink is row 5, its last row 24.
    rows = grey.train[0].reshape(28, 28).amax(1).nonzero().flatten()
    assert (int(rows[0]), int(rows[-1])) == (5, 24)
    # Numbers in published tables belong to this draw.
    digest = hashlib.md5(torch.cat([static.train, static.valid, static.test]).numpy().tobytes()).hexdigest()
    assert digest == "cb3b794ec923f58229040ee42ff5793c"


@needs_omniglot
@pytest.mark.filterwarnings("ignore:.*not the published one:UserWarning")
def test_omniglot():
    grey, static = data.load("omniglot", ROOT, "dynamic"), data.load("omniglot", ROOT)
    assert [len(x) for x in (static.train, static.valid, static.test)] == [23_000, 1_345, 8_070]
    assert float(grey.mean.mean()) == pytest.approx(0.083, abs=2e-3)
    assert float((static.mean - grey.mean).abs().max()) < 5.5 * 0.5 / 23_000**0.5
    assert int(static.train.max()) == 1
