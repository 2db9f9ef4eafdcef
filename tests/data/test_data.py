"""What `load` returns, on files that the tests write: splits, order, binarisation, names. No network, no real data."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from synthetic_data import l_shape, same, write_omniglot

from relax_exp import data
from relax_exp.data import mnist, omniglot
from relax_exp.data.binarization import binarizer

not_published = pytest.mark.filterwarnings("ignore:.*not the published one:UserWarning")


@pytest.mark.parametrize("binarize", data.BINARIZATIONS)
def test_digits(binarize, tmp_path):
    digits = data.load("digits", tmp_path / "absent", binarize)
    assert [tuple(x.shape) for x in (digits.train, digits.valid, digits.test)] == [(1297, 64), (250, 64), (250, 64)]
    assert (digits.name, digits.image_shape, digits.binarize) == ("digits", (8, 8), binarize)
    assert digits.train.dtype == torch.uint8 and digits.mean.dtype == torch.float64 and digits.mean.shape == (64,)
    assert int(digits.train.max()) == (255 if binarize in data.GREY else 1)
    scale = 255 if binarize in data.GREY else 1
    torch.testing.assert_close(digits.mean, digits.train.double().mean(0) / scale)
    assert not (tmp_path / "absent").exists()


def test_digits_are_all_there_once():
    from sklearn.datasets import load_digits

    digits = data.load("digits", binarize="dynamic")
    ours = torch.cat([digits.train, digits.valid, digits.test]).numpy()
    theirs = np.rint(load_digits().data * 255 / 16).astype(np.uint8)
    assert sorted(map(bytes, ours)) == sorted(map(bytes, theirs))


@not_published
def test_mnist(mnist_root):
    grey, static, hard = (data.load("mnist", mnist_root, how) for how in ("dynamic", "static", "threshold"))
    for images in (grey, static, hard):
        assert [len(x) for x in (images.train, images.valid, images.test)] == [50_000, 10_000, 10_000]
        assert images.train.shape[1:] == images.mean.shape == (784,) and images.image_shape == (28, 28)
        assert images.train.dtype == torch.uint8
    for part in (grey.train, grey.valid, grey.test):
        np.testing.assert_array_equal(part[0].numpy().reshape(28, 28), l_shape())
    assert torch.equal(hard.valid, (grey.valid.float() / 255 > 0.5).to(torch.uint8))
    # 5.5 standard deviations of a mean over 50,000 draws, for 784 pixels
    assert float((static.mean - grey.mean).abs().max()) < 5.5 * 0.5 / 50_000**0.5
    draw = np.random.RandomState(5).rand(50_100, 784)[50_000:]
    np.testing.assert_array_equal(static.valid[:100].numpy(), draw < grey.valid[:100].numpy() / 255)
    assert same(static, data.load("mnist", mnist_root, "static"))


@not_published
def test_mnist_ignores_the_processed_files_of_old_torchvision(mnist_root):
    processed = mnist_root / "MNIST" / "processed"
    processed.mkdir()
    for name in ("training.pt", "test.pt"):
        (processed / name).write_bytes(b"nothing")
    assert len(data.load("mnist", mnist_root, "dynamic").train) == 50_000


@not_published
def test_omniglot(omniglot_root):
    grey, static, hard = (data.load("omniglot", omniglot_root, how) for how in ("dynamic", "static", "threshold"))
    for images in (grey, static, hard):
        assert [len(x) for x in (images.train, images.valid, images.test)] == [23_000, 1_345, 8_070]
        assert images.train.shape[1:] == images.mean.shape == (784,) and images.image_shape == (28, 28)
    assert grey.train.unique().tolist() == [64] and hard.train.unique().tolist() == [0]
    for images in (static, hard):  # columns are stored column by column: upright only if transposed
        np.testing.assert_array_equal(images.test[0].numpy().reshape(28, 28), l_shape() > 0)
    assert float((static.mean - 0.25).abs().max()) < 5.5 * (0.25 * 0.75 / 23_000) ** 0.5
    assert same(static, data.load("omniglot", omniglot_root, "static"))


@not_published
def test_omniglot_follows_the_code_of_rebar(tmp_path, monkeypatch):
    """`read_omniglot` of tensorflow/models research/rebar/datasets.py, in its own terms, on fewer images."""
    monkeypatch.setattr(omniglot, "SHAPES", {"data": (784, 345), "testdata": (784, 70)})
    monkeypatch.setattr(omniglot, "TRAIN", 300)
    arrays = {key: np.random.RandomState(0).rand(*shape).astype(np.float32) for key, shape in omniglot.SHAPES.items()}
    write_omniglot(tmp_path, arrays)

    train, test = (array.T.reshape(-1, 28, 28).reshape((-1, 784), order="F") for array in arrays.values())
    random = np.random.RandomState(5)
    train, test = random.rand(*train.shape) < train, random.rand(*test.shape) < test
    train = train[np.random.RandomState(seed=123).permutation(len(train))]

    ours = data.load("omniglot", tmp_path)
    for part, expected in ((ours.train, train[:-45]), (ours.valid, train[-45:]), (ours.test, test)):
        np.testing.assert_array_equal(part.numpy(), expected)


@pytest.mark.parametrize("shape", [(0, 4), (99, 4), (250, 4)])
def test_static_draw_equals_one_large_draw(shape):
    values = np.random.RandomState(0).randint(0, 256, shape).astype(np.uint8)
    expected = np.random.RandomState(5).rand(*shape) < values / 255
    for given in (values, values / 255):
        np.testing.assert_array_equal(binarizer("static")(given), expected)


def test_load_leaves_global_random_state_alone():
    np.random.seed(1)
    torch.manual_seed(1)
    numpy_before, torch_before = np.random.get_state()[1].copy(), torch.get_rng_state()
    data.load("digits")
    np.testing.assert_array_equal(np.random.get_state()[1], numpy_before)
    assert torch.equal(torch.get_rng_state(), torch_before)


def test_unknown_names_list_the_known_ones():
    with pytest.raises(ValueError, match=r"'mnits'.*mnist, omniglot, digits"):
        data.load("mnits")
    with pytest.raises(ValueError, match=r"None.*static, dynamic, threshold"):
        data.load("digits", binarize=None)


def test_default_root(monkeypatch, tmp_path):
    for name in ("RELAX_EXP_DATA", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert data.default_root() == tmp_path / ".cache" / "relax-exp"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative/is/ignored")
    assert data.default_root() == tmp_path / ".cache" / "relax-exp"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert data.default_root() == tmp_path / "xdg" / "relax-exp"
    monkeypatch.setenv("RELAX_EXP_DATA", "~/mine")
    assert data.default_root() == tmp_path / "mine"


@not_published
def test_the_environment_variable_is_used(monkeypatch, omniglot_root):
    monkeypatch.setenv("RELAX_EXP_DATA", str(omniglot_root))
    assert len(data.load("omniglot", binarize="threshold").train) == 23_000


def test_import_is_light():
    heavy = "torch", "torchvision", "scipy", "sklearn", "pooch", "numpy"
    code = f"import sys, relax_exp.data; print([m for m in {heavy} if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


def test_torchvision_imports_beside_any_torch():
    assert len(mnist.torchvision_mnist().MNIST.resources) == len(mnist.FILES)
    assert mnist.torchvision_mnist() is sys.modules["torchvision.datasets.mnist"]
