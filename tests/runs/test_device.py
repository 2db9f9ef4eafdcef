"""Which device a run gets, what it is told about it, and how products are computed there; torch is told of GPUs."""

import os
import shutil
import sys
import sysconfig
import warnings
from types import SimpleNamespace

import pytest
import torch

from relax_exp.errors import RunError
from relax_exp.runs import device

NVIDIA = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  {}  Wed Sep  3 12:00:00 UTC 2025\nGCC version: 12\n"


@pytest.fixture
def gpus(monkeypatch):
    """Sets the number of GPUs that torch says it sees."""

    def there(count: int) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)

    there(0)
    return there


@pytest.fixture
def driver(monkeypatch, tmp_path):
    """Sets the version of the driver that the kernel says it has loaded, and the CUDA that torch is built for."""

    def there(version: str | None, built: str | None) -> None:
        (tmp_path / "version").write_text(NVIDIA.format(version))
        monkeypatch.setattr(device, "DRIVER", tmp_path / ("version" if version else "none"))
        monkeypatch.setattr(torch.version, "cuda", built)

    there(None, None)
    return there


@pytest.mark.parametrize(
    "name, gains, count, expected",
    [
        ("auto", True, 0, "cpu"),
        ("auto", True, 1, "cuda:0"),
        ("auto", False, 1, "cpu"),
        ("cpu", True, 1, "cpu"),
        ("cuda", False, 1, "cuda:0"),
        ("cuda:1", True, 2, "cuda:1"),
    ],
)
def test_the_device_goes_by_name_task_and_machine(gpus, name, gains, count, expected):
    gpus(count)
    assert str(device.choose(name, gains)) == expected


def test_a_device_that_is_not_there(gpus, driver):
    with pytest.raises(RunError, match="device=cuda, but torch sees no CUDA device here; use device=cpu"):
        device.choose("cuda")
    driver("535.129.03", "13.0")
    with pytest.raises(RunError, match=r"no CUDA device here \(NVIDIA driver 535.129.03 is too old"):
        device.choose("cuda:1")
    gpus(2)
    with pytest.raises(RunError, match="device=cuda:2, but there are 2 CUDA devices here: the last one is cuda:1"):
        device.choose("cuda:2")


@pytest.mark.parametrize(
    "version, built, said",
    [
        (None, "13.0", None),
        ("535.129.03", "13.0", "built for CUDA 13.0 and needs driver 580 or newer"),
        ("510.39", "12.6", "needs driver 525 or newer"),
        ("580.65.06", None, "is built for the CPU only"),
        ("580.65.06", "13.0", "torch finds no GPU"),
    ],
)
def test_what_stands_in_the_way_of_a_gpu(gpus, driver, version, built, said):
    driver(version, built)
    found = device.remark("auto", "vae", True)
    assert found is None if said is None else found.startswith("on the CPU: ") and said in found
    assert device.remark("cpu", "vae", True) is None
    assert device.remark("auto", "toy", False) is None  # it would not be used anyway


def test_a_gpu_that_is_left_alone_is_mentioned(gpus):
    gpus(1)
    assert device.remark("auto", "toy", False).startswith("on the CPU: task=toy is so small")
    assert device.remark("auto", "vae", True) is None


def test_torch_does_not_warn_twice(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: bool(warnings.warn("old driver", stacklevel=1)))
    assert not device.available()


def test_the_compiler_is_the_one_that_torch_calls(monkeypatch):
    monkeypatch.setenv("CXX", "my-c++")
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(shutil, "which", lambda name: f"/bin/{name}" if name in ("my-c++", "gcc") else None)
    assert device.find_compiler(torch.device("cpu")) == "/bin/my-c++"
    assert device.find_compiler(torch.device("cuda")) == "/bin/gcc"


def test_what_compiling_lacks(monkeypatch, tmp_path):
    cpu, cuda = torch.device("cpu"), torch.device("cuda", 0)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert "no compiler found" in device.compile_obstacle(cuda)
    monkeypatch.setattr(shutil, "which", lambda name: f"/bin/{name}")
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path))
    assert "Python.h is missing" in device.compile_obstacle(cuda)
    assert device.compile_obstacle(cpu) is None
    (tmp_path / "Python.h").touch()
    assert device.compile_obstacle(cuda) is None


@pytest.fixture
def settings(monkeypatch):
    """What torch is set to, put back afterwards."""
    import torch._inductor.config as inductor

    current = []
    monkeypatch.setattr(torch.cuda, "set_device", current.append)
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")
    before = inductor.deterministic
    yield lambda: (
        torch.get_float32_matmul_precision(),
        torch.backends.cuda.matmul.allow_tf32,
        torch.backends.cudnn.allow_tf32,
        torch.are_deterministic_algorithms_enabled(),
        torch.backends.cudnn.deterministic,
        inductor.deterministic,
        os.environ.get("CUBLAS_WORKSPACE_CONFIG"),
        [str(device) for device in current],
    )
    device.prepare(torch.device("cpu"))
    torch.use_deterministic_algorithms(False)
    torch.utils.deterministic.fill_uninitialized_memory = True
    torch.backends.cudnn.deterministic, inductor.deterministic = False, before


def test_tf32_off_is_off_everywhere_and_kernels_are_deterministic(settings):
    gpu = torch.device("cuda", 1)
    device.prepare(gpu)
    assert settings() == ("highest", False, False, True, True, True, ":4096:8", ["cuda:1"])
    device.prepare(gpu, allow_tf32=True, deterministic=False)
    assert settings()[:6] == ("high", True, True, False, False, False)
    device.prepare(torch.device("cpu"), allow_tf32=True)
    assert settings()[:3] == ("highest", False, False)


def test_processes_that_compile_are_ended(monkeypatch):
    class Process:
        ended = False

        def kill(self):
            self.ended = True

    alone, several = Process(), [Process(), Process()]
    pools = [SimpleNamespace(process=alone), SimpleNamespace(_processes=dict(enumerate(several)))]
    monkeypatch.setitem(sys.modules, "torch._inductor.async_compile", SimpleNamespace(_pool_set=pools))
    device.stop_compiling()
    assert all(process.ended for process in (alone, *several))
    monkeypatch.delitem(sys.modules, "torch._inductor.async_compile")
    device.stop_compiling()  # nothing has been compiled
