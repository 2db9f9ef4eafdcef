"""Environment steps a second at 16 environments: ours end to end, random actions alone, and stable-baselines3's A2C.

Part of ``make bench``; writes results/bench/rl.{json,md} after each environment, in about six minutes for all.
``--sb3 PYTHON`` is an interpreter that has stable-baselines3 (``pip install stable-baselines3 'gymnasium[atari]'
opencv-python-headless``, in an environment of its own). Contenders take turns, so that a drifting machine hits all
alike; medians with the smallest and largest. One torch thread each; steps per second of the processor count all
threads: the games of task=atari run beside it, and a helper while they wait.
"""

from __future__ import annotations

import argparse
import gc
import importlib.metadata
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from bench import show
from tabulate import tabulate

from relax_exp.envs import atari
from relax_exp.numerics.machine import hardware
from relax_exp.runs.build import build_trainer, make_task

ENVS, WARM_UP, REPEATS = 16, 3, 3
SCRIPT = Path(__file__).with_name("bench_sb3.py")
RELAX = {"surrogate": "network", "depth": 1, "width": 64}
Rates = dict[str, float]


def cpu_seconds() -> float:
    """Of this process, all threads."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def rates(advance: Callable[[], int], seconds: float) -> Rates:
    """Environment steps per second, and per second of the processor, of calls that return how many they took."""
    for _ in range(WARM_UP):
        advance()
    gc.freeze()  # as relax_exp.runs.run does after the first step
    begun, used, steps = time.perf_counter(), cpu_seconds(), 0
    while time.perf_counter() - begun < seconds:
        steps += advance()
    return {"per second": steps / (time.perf_counter() - begun), "per CPU second": steps / (cpu_seconds() - used)}


def random_actions(env) -> Callable[[], int]:
    """A hundred steps of a vector environment."""
    env.reset(seed=0)
    actions = np.random.default_rng(0).integers(0, env.single_action_space.n, (100, ENVS))

    def call() -> int:
        for chosen in actions:
            env.step(chosen)
        return 100 * ENVS

    return call


def pong(estimator: str) -> Callable[[], int]:
    """Updates of task=atari."""
    options = {"name": estimator, **(RELAX if estimator == "relax" else {})}
    steps = build_trainer(make_task("atari", options, envs=ENVS), [0], [7e-4], "cpu", True).advance(10**9)

    def call() -> int:
        next(steps)
        return 5 * ENVS

    return call


def cartpole(estimator: str) -> Callable[[], int]:
    """Updates of task=cartpole, 16 episodes each."""
    options = {"name": estimator, **({"surrogate": "network", "depth": 2, "width": 10} if estimator == "relax" else {})}
    task = make_task("cartpole", options, env="CartPole-v1", batch_size=ENVS)
    trainer = build_trainer(task, [0], [0.01], "cpu", True)
    steps = trainer.advance(10**9)

    def call() -> int:
        before = int(trainer.records.frames[0])
        next(steps)
        return int(trainer.records.frames[0]) - before

    return call


CONTENDERS: dict[str, dict[str, Callable[[], Callable[[], int]]]] = {
    "CartPole-v1": {
        "random actions": lambda: random_actions(
            gymnasium.make_vec("CartPole-v1", ENVS, vectorization_mode="vector_entry_point")
        ),
        "a2c": lambda: cartpole("a2c"),
        "relax": lambda: cartpole("relax"),
    },
    "ALE/Pong-v5": {
        "random actions": lambda: random_actions(atari.make("ALE/Pong-v5", ENVS, 1, repeat_action_probability=0.25)),
        "a2c": lambda: pong("a2c"),
        "relax": lambda: pong("relax"),
    },
}
THEIRS = "stable-baselines3 a2c"  # one torch thread, as all else here
MORE = 2  # torch threads, with which it is timed too where they help it


def ask(python: str, script: Path, *arguments: str) -> Rates:
    """The rates that a script prints last."""
    done = subprocess.run([python, str(script), *arguments], stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def bench(environment: str, python: str | None, seconds: float, repeats: int) -> list[dict]:
    """All rates in an environment and their ratios; every measurement in a process of its own."""
    rows, taken = [], defaultdict(list)
    for _ in range(repeats):
        for who in CONTENDERS[environment]:
            taken[who].append(ask(sys.executable, Path(__file__), "--one", environment, who, "--seconds", str(seconds)))
        if python:
            theirs = [python, SCRIPT, environment, "--seconds", str(seconds)]
            taken[THEIRS].append(ask(*theirs))
            if environment.startswith("ALE/"):
                taken[f"{THEIRS}, {MORE} threads"].append(ask(*theirs, "--threads", str(MORE)))
    for who, values in taken.items():
        row: dict[str, Any] = {"environment": environment, "who": who}
        for unit in ("per second", "per CPU second"):
            numbers = [value[unit] for value in values]
            row[unit] = {"median": statistics.median(numbers), "min": min(numbers), "max": max(numbers)}
        if python:
            for unit in ("per second", "per CPU second"):
                row[f"/ theirs, {unit}"] = row[unit]["median"] / statistics.median(v[unit] for v in taken[THEIRS])
        rows.append(row)
    return rows


def markdown(about: dict, rows: list[dict]) -> str:
    """What was measured, and where."""
    body = [[show(value) for value in row.values()] for row in rows]
    table = tabulate(body, list(rows[0]), tablefmt="github", disable_numparse=True)
    return (
        "# Benchmark: environment steps a second at 16 environments\n\n"
        f"```\n{json.dumps(about, indent=1)}\n```\n\nMedian (smallest-largest). "
        f"Theirs: stable-baselines3's A2C.\n\n{table}\n"
    )


def main() -> int:
    """Run and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sb3", metavar="PYTHON", help="a Python that has stable-baselines3: time it too")
    parser.add_argument("--one", nargs=2, metavar=("ENVIRONMENT", "WHO"), help="time this one alone; prints JSON")
    parser.add_argument("--seconds", type=float, default=5, help="of each repetition")
    parser.add_argument("--repeats", type=int, default=REPEATS)
    parser.add_argument("-o", "--out", type=Path, default=Path("results/bench"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    if options.one:
        environment, who = options.one
        with torch.no_grad():
            print(json.dumps(rates(CONTENDERS[environment][who](), options.seconds)))
        return 0
    about = {
        "torch threads, where not said otherwise": 1,
        "environments": ENVS,
        "hardware": hardware(),
        **{name: importlib.metadata.version(name) for name in ("torch", "gymnasium", "ale-py")},
        "python": sys.version.split()[0],
        "load average": os.getloadavg(),
    }
    if options.sb3:
        code = "import importlib.metadata; print(importlib.metadata.version('stable-baselines3'))"
        about["stable-baselines3"] = subprocess.check_output([options.sb3, "-c", code], text=True).strip()
    options.out.mkdir(parents=True, exist_ok=True)
    rows: list[dict] = []
    for environment in CONTENDERS:
        rows += bench(environment, options.sb3, options.seconds, options.repeats)
        (options.out / "rl.json").write_text(json.dumps({"about": about, "rows": rows}, indent=1))
        (options.out / "rl.md").write_text(markdown(about, rows))
    print(markdown(about, rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
