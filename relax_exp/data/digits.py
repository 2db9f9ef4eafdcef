"""The handwritten digits that come with scikit-learn (UCI, Alpaydin and Kaynak): 1,297 / 250 / 250 images of 8 x 8.

Needs no files: for tests, CI and first steps. No paper reports numbers on this split.
"""

import importlib.util
from collections.abc import Callable
from pathlib import Path

import numpy as np

IMAGE_SHAPE = (8, 8)
TRAIN, VALID = 1_297, 250
SHUFFLE_SEED = 123


def splits(root: Path, binarized: Callable[[np.ndarray], np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return train, valid and test images ``(N, 64)``, shuffled before they are split; `root` is not used."""
    values = _values()
    order = np.random.RandomState(SHUFFLE_SEED).permutation(len(values))
    images = binarized(np.rint(values[order] * 255 / 16).astype(np.uint8))
    return images[:TRAIN], images[TRAIN : TRAIN + VALID], images[TRAIN + VALID :]


def _values() -> np.ndarray:
    """Return what scikit-learn's load_digits does, ``(1797, 64)`` in 0..16, without the second of its import."""
    spec = importlib.util.find_spec("sklearn")
    for folder in (spec and spec.submodule_search_locations) or []:
        file = Path(folder, "datasets", "data", "digits.csv.gz")
        if file.is_file():
            return np.loadtxt(file, delimiter=",", usecols=range(64))
    from sklearn.datasets import load_digits

    return load_digits(return_X_y=True)[0]
