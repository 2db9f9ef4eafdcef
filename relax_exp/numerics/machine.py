"""The machine that numbers were computed on."""

from __future__ import annotations

import os
import platform
import sys
from pathlib import Path


def hardware() -> dict:
    """Return the CPU's model and usable cores, and the name of the GPU where torch is imported and sees one."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        cpu = platform.processor() or platform.machine()
    affinity = getattr(os, "sched_getaffinity", None)  # not on macOS
    cores = len(affinity(0)) if affinity else os.cpu_count()
    torch = sys.modules.get("torch")
    gpu = torch.cuda.get_device_name() if torch and torch.cuda.is_available() else None
    return {"cpu": cpu, "cores": cores, "gpu": gpu}
