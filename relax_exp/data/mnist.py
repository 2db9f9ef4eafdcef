"""MNIST (LeCun, Cortes and Burges) through torchvision: 50,000 / 10,000 / 10,000 images of 28 x 28.

The first 50,000 images of the training file train, its last 10,000 validate (the split of Larochelle, REBAR and RELAX).
The static binarisation is a draw of our own from the original grey values, not Larochelle's file.
"""

import math
import shutil
import struct
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np

from relax_exp.data.download import damaged, fetch, warn_unless_published

IMAGE_SHAPE = (28, 28)
TRAIN = 50_000
FILES = {  # name: (shape, md5 of the uncompressed original). torchvision's layout has the labels, which are not used.
    "train-images-idx3-ubyte": ((60_000, 28, 28), "6bbc9ace898e44ae57da46a324031adb"),
    "train-labels-idx1-ubyte": ((60_000,), "a25bea736e30d166cdddb491f175f624"),
    "t10k-images-idx3-ubyte": ((10_000, 28, 28), "2646ac647ad5339dbf082846283269ea"),
    "t10k-labels-idx1-ubyte": ((10_000,), "27ae3e4e09519cfbb04c329615203637"),
}


def splits(root: Path, binarized: Callable[[np.ndarray], np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return train, valid and test images ``(N, 784)``, drawn in this order, from `<root>/MNIST/raw`."""
    folder = root / "MNIST" / "raw"
    if not all((folder / name).exists() for name in FILES):
        _download(folder)
    for name, (shape, _) in FILES.items():
        _check(folder / name, shape)
    warn_unless_published({folder / name: md5 for name, (_, md5) in FILES.items()})
    # The reader instead of the class: MNIST(root) prefers old processed/*.pt files, which nothing has checked.
    read = torchvision_mnist().read_image_file
    paths = (str(folder / name) for name in FILES if "images" in name)
    train, test = (binarized(read(path).numpy().reshape(-1, 784)) for path in paths)
    return train[:TRAIN], train[TRAIN:], test


def _check(path: Path, shape: tuple[int, ...]) -> None:
    """Raise DataError unless `path` is a whole IDX file of bytes of this shape."""
    size, magic = path.stat().st_size, 0x0800 + len(shape)
    with path.open("rb") as file:
        header = file.read(4 * (1 + len(shape)))
    if len(header) < 4 * (1 + len(shape)):
        raise damaged(path, f"is truncated: it has {size} bytes, less than its header")
    found, *axes = struct.unpack(f">{1 + len(shape)}I", header)
    if found != magic:
        raise damaged(path, f"is not an IDX file of {len(shape)} axes: it begins with {found:#010x}, not {magic:#010x}")
    if size != len(header) + math.prod(axes):
        raise damaged(path, f"is truncated or damaged: it has {size} bytes, {len(header) + math.prod(axes)} expected")
    if tuple(axes) != shape:
        raise damaged(path, f"holds an array of shape {tuple(axes)}, {shape} expected")


def _download(folder: Path) -> None:
    mnist = torchvision_mnist().MNIST
    archives = [folder / archive for archive, _ in mnist.resources]
    have_archives = all(archive.exists() for archive in archives)
    missing = [name for name in FILES if not (folder / name).exists()]

    def download(scratch: Path) -> Path:
        raw = scratch / "MNIST" / "raw"
        raw.mkdir(parents=True)
        for archive in archives:  # torchvision unpacks those that are sound, and downloads the others
            if archive.exists():
                shutil.copyfile(archive, raw / archive.name)
        mnist(scratch, download=True)
        return raw

    fetch("MNIST", folder, missing, [] if have_archives else mnist.mirrors, download)


_OPERATORS = []  # keeps the declarations below alive


def torchvision_mnist() -> ModuleType:
    """Import torchvision.datasets.mnist, also where torchvision's binary part does not fit this build of torch.

    The wheel of torchvision on PyPI needs CUDA libraries. Beside a CPU build of torch its operators are missing, and
    its import ends in "operator torchvision::nms does not exist" although the data sets need none of them.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that image files cannot be read: there are none here
        try:
            from torchvision.datasets import mnist
        except RuntimeError as error:
            if "operator torchvision::" not in str(error):
                raise
            import torch

            library = torch.library.Library("torchvision", "FRAGMENT")
            for operator in ("nms", "qnms"):
                library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
            _OPERATORS.append(library)
            for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
                del sys.modules[name]  # left behind half-made by the failed import
            from torchvision.datasets import mnist
    return mnist
