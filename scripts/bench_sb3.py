"""stable-baselines3's A2C, timed: run by an interpreter that has it (see bench_rl.py). Prints JSON.

Its defaults for these environments (5 steps of 16 environments an update, NatureCNN or 64-64 tanh, RMSProp), in one
process; one torch thread if not told otherwise.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import resource
import time

import ale_py
import gymnasium
import torch
from stable_baselines3 import A2C
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_atari_env, make_vec_env
from stable_baselines3.common.vec_env import VecFrameStack

ENVS, WARM_UP = 16, 5


def cpu_seconds() -> float:
    """Of this process, all threads."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


class Clock(BaseCallback):
    """Times from the end of a few updates to the end of training; ``seconds`` at least."""

    def __init__(self, seconds: float):
        super().__init__()
        self.seconds, self.updates, self.begun = seconds, 0, None

    def _on_rollout_start(self) -> None:
        self.updates += 1
        if self.updates == WARM_UP:
            self.begun = time.perf_counter(), cpu_seconds(), self.num_timesteps

    def _on_step(self) -> bool:
        return self.begun is None or time.perf_counter() - self.begun[0] < self.seconds

    def rates(self) -> dict[str, float]:
        """Environment steps per second, and per second of the processor."""
        then, used, steps = self.begun
        steps = self.num_timesteps - steps
        return {
            "per second": steps / (time.perf_counter() - then),
            "per CPU second": steps / (cpu_seconds() - used),
        }


def main() -> None:
    """Time one environment."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("environment", choices=["CartPole-v1", "ALE/Pong-v5"])
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    gymnasium.register_envs(ale_py)
    if options.environment == "CartPole-v1":
        policy, env = "MlpPolicy", make_vec_env(options.environment, ENVS, seed=0)
    else:
        games = {"frameskip": 1, "repeat_action_probability": 0.25, "full_action_space": False}
        policy = "CnnPolicy"
        env = VecFrameStack(make_atari_env(options.environment, ENVS, seed=0, env_kwargs=games), 4)
    clock = Clock(options.seconds)
    A2C(policy, env, ent_coef=0.01, device="cpu", seed=0).learn(10**9, callback=clock)
    versions = {name: importlib.metadata.version(name) for name in ("stable_baselines3", "torch", "gymnasium")}
    print(json.dumps({**clock.rates(), "versions": versions}))


if __name__ == "__main__":
    main()
