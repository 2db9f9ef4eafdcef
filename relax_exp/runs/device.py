"""The device of a run: which one, what stands in its way, and how it computes there."""

from __future__ import annotations

import os
import re
import shutil
import sys
import sysconfig
import warnings
from pathlib import Path

import torch

from relax_exp.errors import SettingError

DRIVER = Path("/proc/driver/nvidia/version")
OLDEST_DRIVER = {12: 525, 13: 580}  # by the major version of CUDA that PyTorch was built for (NVIDIA's release notes)


def available() -> bool:
    """Tell whether torch can use a GPU here; its warning about an old driver is left to `obstacle`, which says more."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.cuda.is_available()


def choose(name: str, gains: bool = True) -> torch.device:
    """Return the device for ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.

    ``auto`` is the first GPU where there is one and the task ``gains`` by it, else the CPU.

    Raises:
        SettingError: a GPU is asked for that is not there; with the reason, if there is an NVIDIA driver.
    """
    if name == "cpu" or (name == "auto" and not (gains and available())):
        return torch.device("cpu")
    index = int(name.partition(":")[2] or 0)
    if not available():
        reason = f" ({found})" if (found := obstacle()) else ""
        raise SettingError(f"device={name}, but torch sees no CUDA device here{reason}; use device=cpu or device=auto")
    if index >= (count := torch.cuda.device_count()):
        raise SettingError(f"device={name}, but there are {count} CUDA devices here: the last one is cuda:{count - 1}")
    return torch.device("cuda", index)


def remark(name: str, task: str, gains: bool) -> str | None:
    """Say what the user of ``device=auto`` should know: that there is a GPU which is not used, and why."""
    if name != "auto":
        return None
    if available():
        small = f"on the CPU: task={task} is so small that a GPU would be slower (device=cuda uses it all the same)"
        return None if gains else small
    found = obstacle() if gains else None
    return f"on the CPU: {found}" if found else None


def obstacle() -> str | None:
    """Say why torch cannot use the GPU that an NVIDIA driver serves; None where there is no such driver."""
    version = driver_version()
    if version is None:
        return None
    built = torch.version.cuda
    if built is None:
        return f"NVIDIA driver {version} is installed, but this PyTorch ({torch.__version__}) is built for the CPU only"
    oldest = OLDEST_DRIVER.get(int(built.split(".")[0]))
    if oldest and int(version.split(".")[0]) < oldest:
        return (
            f"NVIDIA driver {version} is too old for this PyTorch, which is built for CUDA {built} and needs driver "
            f"{oldest} or newer: update the driver, or install a PyTorch build for an older CUDA"
        )
    return f"NVIDIA driver {version} is installed, but torch finds no GPU (is CUDA_VISIBLE_DEVICES set?)"


def driver_version() -> str | None:
    """Return the version of the NVIDIA driver that is loaded, such as 580.65.06; None where there is none."""
    try:
        found = re.search(r"Kernel Module(?: for \S+)?\s+([\d.]+)", DRIVER.read_text())
    except OSError:
        return None
    return found and found[1]


def find_compiler(device: torch.device) -> str | None:
    """Find the compiler that torch.compile calls: of C++ on the CPU, of C on a GPU (by Triton)."""
    cpp = "clang++" if sys.platform == "darwin" else "g++"
    names = [os.environ.get("CXX", cpp)] if device.type == "cpu" else [os.environ.get("CC", "cc"), "gcc", "clang"]
    return next(filter(None, map(shutil.which, names)), None)


def compile_obstacle(device: torch.device) -> str | None:
    """Say what torch.compile lacks here; None where it can work. Triton, on a GPU, needs the headers of Python too."""
    if not find_compiler(device):
        return "no compiler found that torch.compile could use"
    headers = Path(sysconfig.get_path("include"), "Python.h")
    if device.type == "cuda" and not headers.exists():
        return f"{headers} is missing, which torch.compile needs on a GPU (a package such as python3-dev has it)"
    return None


def stop_compiling() -> None:
    """End the processes in which torch.compile is compiling; Python would wait for them before it ends."""
    for pool in list(getattr(sys.modules.get("torch._inductor.async_compile"), "_pool_set", ())):
        main = getattr(pool, "process", None)
        for process in [*filter(None, [main]), *(getattr(pool, "_processes", None) or {}).values()]:
            process.kill()


def prepare(device: torch.device, allow_tf32: bool = False, deterministic: bool = True) -> None:
    """Set how products and convolutions are computed, and on which device CUDA graphs are captured.

    allow_tf32: on a GPU, products and convolutions in TF32, that is with ten bits of mantissa. deterministic: on a GPU,
    only algorithms whose result is the same each time, which continuing a run bit by bit needs.
    """
    there = device.type == "cuda"
    torch.set_float32_matmul_precision("high" if allow_tf32 and there else "highest")
    torch.backends.cudnn.allow_tf32 = allow_tf32 and there
    if not there:
        return
    torch.cuda.set_device(device)
    torch.backends.cudnn.benchmark = False  # it chooses algorithms by the clock
    torch.backends.cudnn.deterministic = deterministic
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(deterministic, warn_only=True)
    # Every number is written before it is read. (torch makes this attribute when it is loaded.)
    torch.utils.deterministic.fill_uninitialized_memory = False  # pyright: ignore[reportAttributeAccessIssue]
    import torch._inductor.config as inductor

    inductor.deterministic = deterministic


def description(device: torch.device) -> str:
    """Return the device by name: ``cpu``, or ``cuda:0 NVIDIA H100``."""
    return f"{device} {torch.cuda.get_device_name(device)}" if device.type == "cuda" else str(device)
