"""From grey values to what a run sees. Values are uint8 in 0..255 or floats in [0, 1]; results are uint8."""

from collections.abc import Callable
from functools import partial

import numpy as np

SEED = 5  # of the static binarisation in the REBAR and RELAX code
BLOCK = 100  # images drawn at a time: the stream is that of one large draw, without its memory


def binarizer(how: str) -> Callable[[np.ndarray], np.ndarray]:
    """Return the function that maps values (N, pixels) to uint8 (N, pixels).

    static: one Bernoulli draw per pixel from RandomState(5), which goes on from one call to the next, so the order of
    the calls matters. threshold: value > 0.5. dynamic and none: nothing is drawn, grey values 0..255 are
    returned, from which a run draws pixels anew at each step, or which it models as they are.
    """
    if how == "static":
        return partial(_bernoulli, np.random.RandomState(SEED))
    return {"threshold": _threshold, "dynamic": _grey, "none": _grey}[how]


def _bernoulli(random: np.random.RandomState, values: np.ndarray) -> np.ndarray:
    """Draw each pixel as [uniform < value], as `np.random.rand(*values.shape) < values` gives it."""
    probability = np.arange(256) / 255
    bits = np.empty(values.shape, np.uint8)
    for start in range(0, len(values), BLOCK):
        block = values[start : start + BLOCK]
        mean = probability[block] if block.dtype == np.uint8 else block
        np.less(random.rand(*block.shape), mean, out=bits[start : start + BLOCK].view(bool))
    return bits


def _threshold(values: np.ndarray) -> np.ndarray:
    return (values > (127 if values.dtype == np.uint8 else 0.5)).view(np.uint8)


def _grey(values: np.ndarray) -> np.ndarray:
    return values if values.dtype == np.uint8 else np.rint(values * 255).astype(np.uint8)
