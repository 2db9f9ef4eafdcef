"""What identifies a run: the part of a configuration that changes numbers, its hash and its path."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from relax_exp.config import added_keys

MACHINE_KEYS = ("out", "data_root", "device", "threads", "compile", "deterministic")  # where and how


PATH_KEYS = ("out", "data_root", "estimator.path")  # whose values are paths, perhaps of one machine


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested keys with dots: ``{"task.t": 0.499}``."""
    flat = {}
    for key, value in tree.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat


def replicas(config: dict) -> list[tuple[int, float]]:
    """Return (seed, lr) of every replica, in the order in which they are stacked."""
    return [(seed, lr) for seed in config["seeds"] for lr in config["lrs"]]


def label(seed: int, lr: float) -> str:
    """Return the name of a replica in folders and files, with the rate in short, unless that is another rate."""
    short = f"{lr:g}"
    return f"seed-{seed}_lr-{short if float(short) == lr else lr}"


def numbers(config: dict) -> dict:
    """Return the part of the configuration that changes the numbers.

    Keys at the value that they had before they were keys are left out.
    """
    return {key: value for key, value in added_keys.without(config).items() if key not in MACHINE_KEYS}


def run_hash(config: dict, without: Iterable[str] = ()) -> str:
    """Return ten hexadecimal digits over `numbers`, seeds and learning rates included unless they are ``without``."""
    kept = {key: value for key, value in numbers(config).items() if key not in without}
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()[:10]


def group_key(config: dict) -> str:
    """Return the hash without the seeds: runs that differ in nothing else belong to one row of a report."""
    return run_hash(config, without=["seeds"])


def run_path(config: dict) -> Path:
    """Return where the run is written: ``out``, else ``runs/TASK/ESTIMATOR-HASH``."""
    if config["out"] is not None:
        return Path(config["out"]).expanduser()
    return Path("runs", config["task"]["name"], f"{config['estimator']['name']}-{run_hash(config)}")
