"""The digits that come with scikit-learn: how they are split and scaled, before `load` makes tensors of them."""

from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits

from relax_exp.data import digits

NOWHERE = Path("no such folder")


def test_the_binariser_sees_all_images_once_as_grey_values():
    seen = []
    digits.splits(NOWHERE, lambda values: seen.append(values) or values)
    (values,) = seen
    assert values.shape == (1797, 64) and values.dtype == np.uint8
    assert (values.min(), values.max()) == (0, 255)  # 0 and 16 there
    assert values.sum() == np.rint(load_digits().data * 255 / 16).sum()


def test_parts_follow_one_another_in_the_shuffled_order():
    train, valid, test = digits.splits(NOWHERE, lambda values: values)
    assert [len(part) for part in (train, valid, test)] == [1297, 250, 250]
    order = np.random.RandomState(123).permutation(1797)
    grey = np.rint(load_digits().data * 255 / 16)
    np.testing.assert_array_equal(train[0], grey[order[0]])
    np.testing.assert_array_equal(valid[0], grey[order[1297]])
    np.testing.assert_array_equal(test[-1], grey[order[-1]])


def test_the_same_split_each_time_whatever_was_drawn_before():
    first = digits.splits(NOWHERE, lambda values: values)
    np.random.rand()
    state = np.random.get_state()[1].copy()
    second = digits.splits(NOWHERE, lambda values: values)
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(state, np.random.get_state()[1])
