"""The digits that come with scikit-learn, loaded once for all tests."""

import functools

from relax_exp import data


@functools.cache
def digits(binarize: str = "static") -> data.ImageData:
    """All of them, 8 x 8 pixels."""
    return data.load("digits", binarize=binarize)


@functools.cache
def patches(binarize: str = "static") -> data.ImageData:
    """Four pixels in the middle of each, few enough to enumerate images."""
    whole = digits(binarize)
    pixels = [27, 28, 35, 36]
    parts = {k: getattr(whole, k)[:, pixels] for k in ("train", "valid", "test")}
    return whole._replace(**parts, mean=whole.mean[pixels], image_shape=(2, 2))
