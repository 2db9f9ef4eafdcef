"""Omniglot in 28 x 28, the file of Burda et al. (github.com/yburda/iwae): 23,000 / 1,345 / 8,070 images.

Order, binarisation and split follow `datasets.py` of REBAR and RELAX: turn upright, draw with seed 5 (training file,
then test file), shuffle the training file with seed 123, validate on its last 1,345 images.
"""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np

from relax_exp.data.download import STALL_SECONDS, damaged, fetch, warn_unless_published

IMAGE_SHAPE = (28, 28)
TRAIN = 23_000
SHUFFLE_SEED = 123
URL = "https://github.com/yburda/iwae/raw/master/datasets/OMNIGLOT/chardata.mat"
MD5 = "21ecaf34373511aa7691cf2e0802aa3d"
SHAPES = {"data": (784, 24_345), "testdata": (784, 8_070)}


def splits(root: Path, binarized: Callable[[np.ndarray], np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return train, valid and test images ``(N, 784)`` from `<root>/omniglot/chardata.mat`."""
    path = root / "omniglot" / "chardata.mat"
    if not path.exists():
        fetch("Omniglot", path.parent, [path.name], [URL], _download)
    columns = _read(path)
    warn_unless_published({path: MD5})
    train, test = (binarized(_upright(columns[key])) for key in SHAPES)
    train = train[np.random.RandomState(SHUFFLE_SEED).permutation(len(train))]
    return train[:TRAIN], train[TRAIN:], test


def _upright(columns: np.ndarray) -> np.ndarray:
    """Turn columns (784, N), each an image stored column by column, into float32 rows (N, 784), stored row by row."""
    images = columns.T.astype(np.float32).reshape(-1, 28, 28)
    return images.transpose(0, 2, 1).reshape(-1, 784)


def _read(path: Path) -> dict[str, np.ndarray]:
    import scipy.io

    with path.open("rb") as file:
        try:
            arrays = scipy.io.loadmat(file)  # all of it, so that no truncated end goes unseen
        except Exception as error:  # whatever the bytes provoke: zlib.error, IndexError, TypeError, ...
            raise damaged(path, f"cannot be read as a .mat file ({error or type(error).__name__})") from error
    for key, shape in SHAPES.items():
        if key not in arrays:
            raise damaged(path, f"has no variable {key!r}")
        array = arrays[key]
        if array.shape != shape:
            raise damaged(path, f"has {key!r} of shape {array.shape}, {shape} expected")
        if array.dtype.kind not in "fiub":
            raise damaged(path, f"has {key!r} of type {array.dtype}, numbers expected")
        if not (array.min() >= 0 and array.max() <= 1):  # also false for NaN
            raise damaged(path, f"has values outside [0, 1] in {key!r}")
    return arrays


def _download(scratch: Path) -> Path:
    import pooch

    pooch.get_logger().setLevel("WARNING")  # it would name the scratch folder; `fetch` has named the real one
    downloader = pooch.HTTPDownloader(progressbar=True, chunk_size=2**16, timeout=STALL_SECONDS)
    private = pooch.retrieve(URL, f"md5:{MD5}", "private", scratch, downloader=downloader)  # pyright: ignore[reportArgumentType]  # pooch's own
    # pooch's file is readable by its owner only; data folders are shared.
    shutil.copyfile(private, scratch / "chardata.mat")
    return scratch
