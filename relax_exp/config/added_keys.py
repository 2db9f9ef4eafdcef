"""Keys that configurations got after runs had been made without them.

An old configuration is read with the value under which its run was made, and at that value a key is left out of what
names a run (`relax_exp.config.identity.numbers`, its hash and its group). So old runs keep their names, and a new run
with the older value belongs to the same row of a table as they do.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

FIXED = {"schedule": "fixed", "minimum": 0.5, "rate": 1e-4, "anneal_every": 1000}  # of a temperature

# By section of the configuration, name of the task or estimator, and key: the value of older runs, or a function that
# gives it from the other keys of the section.
ADDED: dict[str, dict[str, dict[str, Any]]] = {
    "task": {
        "vae": {
            "decoder_hidden": lambda task: task.get("hidden") if task.get("model") == "nonlinear" else None,
            "first_epoch": "shuffled",
            "score_term": "kept",
            "initial_weights": "glorot",
            "moving_variance": None,
        },
        "categorical_vae": {
            "score_term": "kept",
            "initial_weights": "glorot",
            "optimizer": "adam",
            "train_images": "train",
            "warmup_epochs": 0,
            "cosine_epochs": None,
        },
        "sequence": {"score_term": "kept"},
        "atari": {"life_loss_ends": False},
        "continuous": {"surrogate_objective": "batch"},
        "cartpole": {"frame_skip": 1, "until_solved": False, "freeze_at": None},
    },
    "estimator": {
        "a2c": {"advantage": "correct"},
        "rebar": {"relaxation": "concrete", "bounded_eta": False, "baseline": "none", "shared": False},
        "relax": {"sampler": "correct"},
        "disarm": {"pairs": 1},
        "disarm_sb": {"order": "index"},
        "muprop": {"scales": "fixed"},
        "straight_through": FIXED,
        "gumbel_rao": FIXED,
        "gst": FIXED,
        "mve": {"temperature": None, "growth": 0.0, "anneal_every": 1000},
        "rodeo": {"operator": "gibbs"},
    },
}
ADDED_AT_THE_TOP = {"allow_tf32": False}  # the same for the keys of the run itself; all older runs were made on a CPU
REMOVED = ("tf32",)  # keys of older runs that had no effect on them: TF32 is a GPU's


def completed(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the configuration with the keys that it is too old to have, at the values of runs made without them."""
    new = _mapped(config, lambda section, older: {**section, **{k: v for k, v in older.items() if k not in section}})
    return new | {k: v for k, v in ADDED_AT_THE_TOP.items() if k not in new}


def without(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the configuration without the added keys whose value is that of older runs."""
    new = _mapped(config, lambda section, older: {k: v for k, v in section.items() if k not in older or v != older[k]})
    return {k: v for k, v in new.items() if k not in ADDED_AT_THE_TOP or v != ADDED_AT_THE_TOP[k]}


def _mapped(config: Mapping[str, Any], change) -> dict[str, Any]:
    """Return the configuration with ``change(section, older values)`` in place of its sections."""

    def one(kind: str, section: Any) -> Any:
        added = ADDED[kind].get(str(section.get("name")), {}) if isinstance(section, dict) else {}
        older = {key: value(section) if callable(value) else value for key, value in added.items()}
        return change(section, older) if older else section

    new = {k: v for k, v in config.items() if k not in REMOVED}
    for kind in ADDED:
        if kind in new:
            new[kind] = one(kind, new[kind])
    if isinstance(new.get("track"), dict):
        new["track"] = {name: one("estimator", section) for name, section in new["track"].items()}
    return new
