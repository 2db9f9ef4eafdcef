"""Image data sets of the VAE experiments: found, downloaded, checked, binarised.

`load` is the whole interface. torch, scipy, scikit-learn and torchvision are imported when it is called, not before.
"""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple, get_args

from relax_exp.errors import DataError

if TYPE_CHECKING:
    import torch

__all__ = [
    "BINARIZATIONS",
    "DATASETS",
    "GREY",
    "PIXELS",
    "Binarization",
    "DataError",
    "Dataset",
    "ImageData",
    "default_root",
    "load",
]

Dataset = Literal["mnist", "omniglot", "digits"]
Binarization = Literal["static", "dynamic", "threshold", "none"]
GREY: tuple[Binarization, ...] = ("dynamic", "none")  # those whose images are grey values 0..255
PIXELS: dict[Dataset, int] = {"mnist": 784, "omniglot": 784, "digits": 64}  # of an image
DATASETS: tuple[Dataset, ...] = get_args(Dataset)
BINARIZATIONS: tuple[Binarization, ...] = get_args(Binarization)


class ImageData(NamedTuple):
    """Images as rows of pixels, row-major, in the order in which they are used.

    Attributes:
        name: Of the data set.
        train: ``(N, pixels)`` uint8, {0, 1} when `binarize` is static or threshold, grey values 0..255 when it is
            dynamic (whoever uses them divides by 255 and draws, from noise of its own) or none (divides by 255).
        valid: Likewise.
        test: Likewise.
        mean: The mean of `train`, ``(pixels,)`` float64, divided by 255 where they are grey values.
        image_shape: Height and width.
        binarize: How the images were made of grey values, one of `BINARIZATIONS`.
    """

    name: str
    train: torch.Tensor
    valid: torch.Tensor
    test: torch.Tensor
    mean: torch.Tensor
    image_shape: tuple[int, int]
    binarize: str


def default_root() -> Path:
    """Return the folder named by RELAX_EXP_DATA, else `relax-exp` in the user's cache folder."""
    if root := os.environ.get("RELAX_EXP_DATA"):
        return Path(root).expanduser()
    cache = Path(os.environ.get("XDG_CACHE_HOME", ""))
    # The XDG specification asks that relative paths be ignored.
    return (cache if cache.is_absolute() else Path.home() / ".cache") / "relax-exp"


def load(name: str, root: str | os.PathLike[str] | None = None, binarize: str = "static") -> ImageData:
    """Load the images of the data set `name`.

    There are 50,000 / 10,000 / 10,000 for mnist, 23,000 / 1,345 / 8,070 for omniglot, and 1,297 / 250 / 250 for digits.
    The same arguments give the same tensors, and no global random state is read or changed. A UserWarning says where a
    sound file is not the published one.

    Args:
        name: "mnist", "omniglot" or "digits".
        root: Where files are looked for, and downloaded to if missing (None: `default_root()`); digits needs none.
        binarize: "static", "threshold", "dynamic" or "none", see `relax_exp.data.binarization`.

    Raises:
        ValueError: The name or the binarisation is unknown.
        DataError: Files are missing and cannot be downloaded, are damaged, or cannot be read.
    """
    if name not in DATASETS:
        raise ValueError(f"unknown dataset {name!r}: choose one of {', '.join(DATASETS)}")
    if binarize not in BINARIZATIONS:
        raise ValueError(f"unknown binarization {binarize!r}: choose one of {', '.join(BINARIZATIONS)}")

    import torch

    from relax_exp.data.binarization import binarizer

    dataset = importlib.import_module(f"{__name__}.{name}")
    root = default_root() if root is None else Path(root).expanduser()
    try:
        train, valid, test = dataset.splits(root, binarizer(binarize))
    except OSError as error:
        raise DataError(
            f"cannot read the {name} data in {root}: {error}. Check its permissions or choose another data_root."
        ) from error
    mean = train.sum(axis=0, dtype="int64") / len(train) / (255 if binarize in GREY else 1)
    tensors = [torch.from_numpy(array) for array in (train, valid, test, mean)]
    return ImageData(name, tensors[0], tensors[1], tensors[2], tensors[3], dataset.IMAGE_SHAPE, binarize)
