"""Files that are another, damaged, missing, downloaded or not. The only network is a server on this machine."""

import gc
import gzip
import hashlib
import http.server
import socket
import threading
import time
import urllib.error
import urllib.request
import warnings
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from synthetic_data import idx, l_shape, omniglot_arrays, same, write_omniglot

from relax_exp import data
from relax_exp.data import download, mnist, omniglot

TRAIN_IMAGES = "train-images-idx3-ubyte"


@pytest.mark.parametrize("name", ["mnist", "omniglot"])
def test_other_checksum_warns_once(name, mnist_root, omniglot_root):
    root, path, published = {
        "mnist": (mnist_root, mnist_root / "MNIST" / "raw" / TRAIN_IMAGES, mnist.FILES[TRAIN_IMAGES][1]),
        "omniglot": (omniglot_root, omniglot_root / "omniglot" / "chardata.mat", omniglot.MD5),
    }[name]
    with warnings.catch_warnings(record=True) as record:
        warnings.simplefilter("always")
        data.load(name, root, "dynamic")
    (warning,) = record
    assert warning.category is UserWarning and warning.filename == __file__
    for part in (str(path), hashlib.md5(path.read_bytes()).hexdigest(), published, "not the published"):
        assert part in str(warning.message)


def test_right_checksum_does_not_warn(omniglot_root, monkeypatch):
    content = (omniglot_root / "omniglot" / "chardata.mat").read_bytes()
    monkeypatch.setattr(omniglot, "MD5", hashlib.md5(content).hexdigest())
    data.load("omniglot", omniglot_root, "threshold")


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "truncated"),
        (idx((60_000, 28, 28))[:10], "truncated"),
        (idx((60_000, 28, 28))[:-1], "47040015 bytes, 47040016 expected"),
        (idx((60_000, 28, 28)) + b"x", "47040017 bytes"),
        (idx((60_000, 784)), "0x00000802"),
        (gzip.compress(b"x" * 100), "not an IDX file"),
        (idx((10, 28, 28)), r"\(10, 28, 28\), \(60000, 28, 28\) expected"),
    ],
    ids=["empty", "header", "short", "long", "magic", "gzip", "count"],
)
def test_damaged_mnist(tmp_path, content, problem):
    folder = tmp_path / "MNIST" / "raw"
    folder.mkdir(parents=True)
    for name in mnist.FILES:
        (folder / name).write_bytes(content)
    with pytest.raises(data.DataError, match=rf"{TRAIN_IMAGES}.*{problem}.*Delete the file"):
        data.load("mnist", tmp_path)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda arrays: arrays.pop("testdata"), "no variable 'testdata'"),
        (lambda arrays: arrays.update(data=arrays["data"].T), r"\(345, 784\), \(784, 345\) expected"),
        (lambda arrays: arrays["data"].__setitem__((5, 5), np.nan), r"outside \[0, 1\] in 'data'"),
        (lambda arrays: arrays["testdata"].__setitem__((5, 5), -0.1), r"outside \[0, 1\] in 'testdata'"),
        (lambda arrays: arrays["testdata"].__imul__(255), r"outside \[0, 1\] in 'testdata'"),
        (lambda arrays: arrays.update(data=arrays["data"].astype(np.complex64) * 1j), "complex64, numbers expected"),
    ],
    ids=["key", "shape", "nan", "negative", "scale", "type"],
)
def test_wrong_omniglot(tmp_path, monkeypatch, change, problem):
    monkeypatch.setattr(omniglot, "SHAPES", {"data": (784, 345), "testdata": (784, 70)})
    arrays = omniglot_arrays()
    change(arrays)
    write_omniglot(tmp_path, arrays)
    with pytest.raises(data.DataError, match=rf"chardata.mat has .*{problem}.*Delete the file"):
        data.load("omniglot", tmp_path)


@pytest.mark.parametrize("kept", [0, 60, 200, 0.5, -1])
def test_truncated_omniglot(tmp_path, omniglot_root, kept):
    content = (omniglot_root / "omniglot" / "chardata.mat").read_bytes()
    path = tmp_path / "omniglot" / "chardata.mat"
    path.parent.mkdir()
    path.write_bytes(content[: int(kept * len(content)) if isinstance(kept, float) else kept])
    with pytest.raises(data.DataError, match=r"chardata.mat (cannot be read|has no variable).*Delete the file"):
        data.load("omniglot", tmp_path)


def test_omniglot_that_is_no_mat_file(tmp_path):
    path = tmp_path / "omniglot" / "chardata.mat"
    path.parent.mkdir()
    path.write_bytes(b"<html>not found</html>" * 100)
    with pytest.raises(data.DataError, match=r"cannot be read as a \.mat file"):
        data.load("omniglot", tmp_path)


@pytest.mark.parametrize("name", ["mnist", "omniglot"])
def test_unreadable_files(name, mnist_root, omniglot_root, monkeypatch):
    def denied(self, *args, **kwargs):
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "open", denied)  # file modes do not stop root, who runs the tests in containers
    with pytest.raises(data.DataError, match=r"Permission denied.*permissions"):
        data.load(name, {"mnist": mnist_root, "omniglot": omniglot_root}[name])


def test_a_folder_in_place_of_a_file(tmp_path):
    (tmp_path / "omniglot" / "chardata.mat").mkdir(parents=True)
    with pytest.raises(data.DataError, match="directory"):
        data.load("omniglot", tmp_path)


# Files that are not there

EXPECTED = {"mnist": ("MNIST/raw", *mnist.FILES), "omniglot": ("omniglot", "chardata.mat")}


def leftovers(root):
    return [path for path in root.rglob("*") if path.is_file() or ".download" in path.name]


@pytest.mark.parametrize("name", EXPECTED)
def test_offline(name, tmp_path, monkeypatch):
    def offline(*args, **kwargs):
        raise urllib.error.URLError("Name or service not known")

    monkeypatch.setattr(urllib.request, "urlopen", offline)
    with pytest.raises(data.DataError) as caught:
        data.load(name, tmp_path / "root")
    folder, *names = EXPECTED[name]
    for part in (str(tmp_path / "root" / folder), *names, "Name or service not known", "task.dataset=digits"):
        assert part in str(caught.value)
    assert not (tmp_path / "root").exists()


@pytest.mark.parametrize("name", EXPECTED)
def test_a_network_that_says_nothing(name, tmp_path, monkeypatch):
    release = threading.Event()
    monkeypatch.setattr(urllib.request, "urlopen", lambda *args, **kwargs: release.wait(10))
    monkeypatch.setattr(download, "ANSWER_SECONDS", 0.2)
    start = time.monotonic()
    with pytest.raises(data.DataError, match=r"no answer in 0.2 s"):
        data.load(name, tmp_path / "root")
    release.set()
    assert time.monotonic() - start < 5
    assert not (tmp_path / "root").exists()


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A web server on this machine: the folder that it serves and its address."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    folder = tmp_path / "served"
    folder.mkdir()
    monkeypatch.setenv("no_proxy", "*")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder))) as httpd:
        thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        url = f"http://127.0.0.1:{httpd.server_port}/"
        monkeypatch.setattr(omniglot, "URL", url + "chardata.mat")
        monkeypatch.setattr(mnist.torchvision_mnist().MNIST, "mirrors", [url])
        yield folder
        httpd.shutdown()
        thread.join()


def archives(folder, mnist_root, monkeypatch):
    """Write the four .gz files of the synthetic MNIST into `folder`, and make them the published ones."""
    resources = []
    for name, (shape, _) in mnist.FILES.items():
        content = (mnist_root / "MNIST" / "raw" / name).read_bytes()
        (folder / f"{name}.gz").write_bytes(gzip.compress(content, 1))
        resources.append((f"{name}.gz", hashlib.md5((folder / f"{name}.gz").read_bytes()).hexdigest()))
        monkeypatch.setitem(mnist.FILES, name, (shape, hashlib.md5(content).hexdigest()))
    monkeypatch.setattr(mnist.torchvision_mnist().MNIST, "resources", resources)


def test_mnist_is_downloaded(server, mnist_root, tmp_path, monkeypatch, capfd):
    archives(server, mnist_root, monkeypatch)
    images = data.load("mnist", tmp_path / "root", "dynamic")
    assert sorted(path.name for path in leftovers(tmp_path / "root")) == sorted(mnist.FILES)
    np.testing.assert_array_equal(images.test[0].numpy().reshape(28, 28), l_shape())
    assert "100%" in capfd.readouterr().err
    assert socket.getdefaulttimeout() is None
    kept = tmp_path / "root" / "MNIST" / "raw" / TRAIN_IMAGES
    before = kept.stat()
    kept.with_name("t10k-labels-idx1-ubyte").unlink()
    assert same(images, data.load("mnist", tmp_path / "root", "dynamic"))
    assert kept.stat() == before


def test_mnist_archives_are_unpacked_offline(mnist_root, tmp_path, monkeypatch):
    folder = tmp_path / "MNIST" / "raw"
    folder.mkdir(parents=True)
    archives(folder, mnist_root, monkeypatch)
    monkeypatch.setattr(mnist.torchvision_mnist().MNIST, "mirrors", ["http://127.0.0.1:9/"])  # refuses
    assert len(data.load("mnist", tmp_path, "dynamic").train) == 50_000


def test_omniglot_is_downloaded(server, omniglot_root, tmp_path, monkeypatch, capfd):
    content = (omniglot_root / "omniglot" / "chardata.mat").read_bytes()
    (server / "chardata.mat").write_bytes(content)
    monkeypatch.setattr(omniglot, "MD5", hashlib.md5(content).hexdigest())
    data.load("omniglot", tmp_path / "root", "threshold")
    (path,) = leftovers(tmp_path / "root")
    assert path == tmp_path / "root" / "omniglot" / "chardata.mat"
    (tmp_path / "ordinary").touch()
    assert path.stat().st_mode == (tmp_path / "ordinary").stat().st_mode
    assert "100%" in capfd.readouterr().err


@pytest.mark.parametrize("name", EXPECTED)
@pytest.mark.parametrize("served", [None, b"not what was published"], ids=["absent", "other"])
@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")  # pooch leaves failed responses to the collector
def test_failed_download(name, served, server, tmp_path):
    if served:
        for file in (f"{TRAIN_IMAGES}.gz", "chardata.mat"):
            (server / file).write_bytes(served)
    with pytest.raises(data.DataError, match=r"(?s)download failed.*task.dataset=digits"):
        data.load(name, tmp_path / "root")
    gc.collect()
    assert leftovers(tmp_path / "root") == []
    assert socket.getdefaulttimeout() is None


@pytest.mark.parametrize("name", EXPECTED)
def test_download_into_a_place_that_is_no_folder(name, server, tmp_path):
    (tmp_path / "root").write_text("a file")
    with pytest.raises(data.DataError, match="Not a directory"):
        data.load(name, tmp_path / "root")
