"""Files with the layout and sizes of the published ones, and contents that tests can recognise."""

import numpy as np
import scipy.io
import torch

from relax_exp.data import omniglot


def idx(shape, content=b""):
    """An IDX file: header, then `content`, padded with zeros or cut to the size that the header promises."""
    size = int(np.prod(shape))
    header = b"".join(n.to_bytes(4, "big") for n in (0x0800 + len(shape), *shape))
    return header + content[:size].ljust(size, b"\0")


def l_shape():
    """A grey image with no symmetry: a bar down the left, a dimmer one along the bottom."""
    image = np.zeros((28, 28), np.uint8)
    image[2:26, 3:6] = 255
    image[23:26, 3:20] = 102
    return image


def omniglot_arrays(value=0.0):
    """Zeros of Omniglot's shapes, every column but the first of `testdata` equal to `value`; that one is the L."""
    arrays = {key: np.full(shape, value, np.float32) for key, shape in omniglot.SHAPES.items()}
    arrays["testdata"][:, 0] = (l_shape() > 0).flatten(order="F")
    return arrays


def write_omniglot(root, arrays):
    path = root / "omniglot" / "chardata.mat"
    path.parent.mkdir(parents=True)
    scipy.io.savemat(path, arrays, do_compression=True)
    return path


def same(first, second):
    return all(torch.equal(getattr(first, k), getattr(second, k)) for k in ("train", "valid", "test", "mean"))
