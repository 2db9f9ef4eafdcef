"""The Atari task in a size for tests: two games, rows of noise for pictures."""

import torch

from relax_exp.models.nature_cnn import nature
from relax_exp.numerics.random_streams import stream
from relax_exp.runs.build import make_task
from relax_exp.tasks.atari import Atari

RELAX = {"name": "relax", "surrogate": "network", "depth": 1, "width": 8, "noise": "independent"}


def make(name="a2c", **options) -> Atari:
    options = {
        "envs": 2,
        "batch_size": 4,
        "dtype": torch.float64,
        "evaluate_episodes": 2,
        "variance_draws": 3,
        **options,
    }
    return make_task("atari", RELAX if name == "relax" else {"name": name}, **options)


def batch_for(task: Atari, params, seed=0) -> dict:
    """Rows of noise for pictures, with random actions and returns."""
    generator = stream(seed, "test")
    rows, size = task.batch_size, (task.batch_size, 4, 84, 84)
    observations = torch.randint(0, 256, size, generator=generator, dtype=torch.uint8)
    action = torch.randint(0, task.actions, (rows, 1), generator=generator)
    return {
        "observation": observations,
        "seen": nature(params, observations),
        "action": torch.nn.functional.one_hot(action, task.actions).to(task.dtype),
        "return": torch.randn(rows, generator=generator, dtype=task.dtype),
    }


def noise_for(task: Atari, seed=0) -> dict:
    generator = stream(seed, "noise")
    return {k: torch.rand(s, generator=generator, dtype=task.dtype) for k, s in task.noise_shapes().items()}


def params_of(trainer):
    return {k: v[0] for k, v in trainer.state.model.params.items()}
