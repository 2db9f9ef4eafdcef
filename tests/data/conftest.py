"""Data folders that the tests write."""

import numpy as np
import pytest
from synthetic_data import idx, l_shape, omniglot_arrays, write_omniglot

from relax_exp.data import mnist


@pytest.fixture(scope="session")
def mnist_root(tmp_path_factory):
    """Files of MNIST's sizes; image n repeats image n mod 100, of which the first is the L."""
    root = tmp_path_factory.mktemp("mnist")
    folder = root / "MNIST" / "raw"
    folder.mkdir(parents=True)
    images = np.random.RandomState(0).randint(0, 256, (100, 28, 28)).astype(np.uint8)
    images[0] = l_shape()
    for name, (shape, _) in mnist.FILES.items():
        content = images.tobytes() * (shape[0] // 100) if "images" in name else b""
        (folder / name).write_bytes(idx(shape, content))
    return root


@pytest.fixture(scope="session")
def omniglot_root(tmp_path_factory):
    root = tmp_path_factory.mktemp("omniglot")
    write_omniglot(root, omniglot_arrays(0.25))
    return root
