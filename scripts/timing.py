"""How long will runs take here, and how large will they be? From finished runs of their kind, else from a few steps.

Runs are of one kind if they differ only in their number of steps, the values of seeds and rates, or a data set of the
same size. As a program: reads configurations from stdin, one JSON object a line, and prints what `measure` finds.
"""

from __future__ import annotations

import functools
import itertools
import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from relax_exp.config.plans import Planned
from relax_exp.errors import RunError
from relax_exp.numerics.machine import hardware
from relax_exp.runs.files import write_atomically
from relax_exp.tasks.registry import TASKS

CACHE = Path("runs/.timings.json")
SECONDS = 40.0  # for all measurements together, about
SAME_SIZE = {"mnist": "28x28", "omniglot": "28x28"}

Kind = dict[str, Any]


class Cost(NamedTuple):
    """What runs of a kind cost: seconds of start, step and evaluation; bytes of the state and of an evaluation.

    ``steps``: of the finished run that says so; 0 for a measurement.
    """

    kind: Kind
    start: float
    step: float
    evaluation: float
    state: float
    row: float
    steps: int = 0


class Estimate(NamedTuple):
    """Of one run: seconds from start to end, bytes of its folder; None where nothing is known."""

    seconds: float | None = None
    size: float | None = None


class Relative(NamedTuple):
    """Of a task: seconds of compiling; a compiled step and an evaluation, in steps not compiled; bytes of a row."""

    compiling: float
    compiled: float
    evaluation: float
    row: float


def kind(config: dict, device: str | None = None) -> Kind:
    """All that the cost of a step depends on, this machine included; ``device``: that of a run which was made."""
    task = {f"task.{k}": SAME_SIZE.get(v, v) if k == "dataset" else v for k, v in config["task"].items()}
    estimator = {f"estimator.{k}": v for k, v in config["estimator"].items()}
    same = {key: config[key] for key in ("batch_size", "track", "dtype", "threads")}
    same["device"] = likely_device(config) if device is None else device
    replicas = len(config["seeds"]) * len(config["lrs"])
    return {**task, **estimator, **same, "replicas": replicas, "cpu": hardware()["cpu"]}


@functools.cache
def _gpu(name: str) -> str:
    """The GPU that ``device=NAME`` means, or cpu where there is none. Imports torch only where there is a driver."""
    from relax_exp.runs import device as devices

    try:
        return devices.description(devices.choose(name))
    except RunError:
        return "cpu"


def likely_device(config: dict) -> str:
    """What a run of the configuration would be computed on, as meta.json says it."""
    name, gains = config["device"], TASKS[config["task"]["name"]].gpu
    if name == "cpu" or (name == "auto" and not gains) or not Path("/proc/driver/nvidia").exists():
        return "cpu"
    return _gpu(name)


def estimate(runs: Iterable[Planned], seconds: float = SECONDS) -> dict[Path, Estimate]:
    """The cost of every run, after about ``seconds`` of measuring kinds that neither runs nor measurements tell of."""
    runs = list(runs)
    known = [*_finished(sorted({run.path.parent for run in runs})), *_cached()]
    unknown: list[dict] = []
    for config in (run.config for run in runs):
        told = [*(cost.kind for cost in _useful(known, config)), *map(kind, unknown)]
        if TASKS[config["task"]["name"]].runner == "runs.run" and kind(config) not in told:
            unknown.append(config)
    if unknown:
        print(f"timing {len(unknown)} kinds of runs, {seconds:.0f} s at most", file=sys.stderr, flush=True)
        known += _measured(unknown, seconds)
        CACHE.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(CACHE, json.dumps([cost._asdict() for cost in known if not cost.steps], indent=1))
    return {run.path: _estimate(run.config, _useful(known, run.config)) for run in runs}


def _estimate(config: dict, costs: Iterable[Cost]) -> Estimate:
    """From the most similar of the costs: finished runs before measurements."""
    wanted = kind(config)
    keys = ("task.name", "device")  # what a CPU takes says nothing about a GPU
    costs = [cost for cost in costs if all(cost.kind.get(key) == wanted[key] for key in keys)]
    if not costs:
        return Estimate()
    alike = [sum(cost.kind.get(key) == value for key, value in wanted.items()) for cost in costs]
    cost = max(zip(alike, costs, strict=True), key=lambda pair: (pair[0], bool(pair[1].steps)))[1]
    scale = wanted["replicas"] / cost.kind["replicas"]
    evaluations = -(-config["steps"] // config["eval_every"])
    updates = config["steps"] + config["estimator"].get("warmup", 0) * (not cost.steps)
    seconds = cost.start + scale * (updates * cost.step + evaluations * cost.evaluation)
    return Estimate(seconds, scale * (cost.state + evaluations * cost.row))


def _useful(costs: list[Cost], config: dict) -> Iterator[Cost]:
    """Without runs so short that their steps say nothing."""
    return (cost for cost in costs if not cost.steps or cost.steps >= config["steps"] / 20)


def _finished(folders: list[Path]) -> Iterator[Cost]:
    """From every finished run in the folders."""
    for folder in (file.parent for above in folders for file in above.glob("*/meta.json")):
        try:
            meta = json.loads((folder / "meta.json").read_text())
            if meta["status"] == "done":
                config = yaml.safe_load((folder / "config.yaml").read_text())
                size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
                made = kind(config, meta.get("device", "cpu"))
                yield Cost(made, 0, _elapsed(folder, meta) / config["steps"], 0, size, 0, config["steps"])
        except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError):
            continue  # somebody else's, or older: this is an estimate


def _elapsed(folder: Path, meta: dict) -> float:
    """Seconds of a finished run: without its pauses, if it trains."""
    metrics = folder / "metrics.jsonl"
    if metrics.is_file() and (lines := metrics.read_text().splitlines()):
        return json.loads(lines[-1])["time/elapsed"]
    return (datetime.fromisoformat(meta["end"]) - datetime.fromisoformat(meta["start"])).total_seconds()


def _cached() -> list[Cost]:
    try:
        return [Cost(**cost) for cost in json.loads(CACHE.read_text())]
    except (OSError, ValueError, TypeError):
        return []


def _measured(configs: list[dict], seconds: float) -> list[Cost]:
    """What `measure` finds in a process of its own, as far as the time goes: one estimator of every task first."""
    seen: Counter = Counter()
    order = []
    for config in configs:
        task = json.dumps(config["task"], sort_keys=True)
        seen[task] += 1
        order.append(seen[task])
    ordered = [config for _, config in sorted(zip(order, configs, strict=True), key=lambda pair: pair[0])]
    lines = "".join(json.dumps(config) + "\n" for config in ordered)
    command = [sys.executable, __file__, str(seconds)]
    done = subprocess.run(command, input=lines, stdout=subprocess.PIPE, text=True)
    return [Cost(**cost) for cost in map(json.loads, done.stdout.splitlines()) if cost]


def measure(config: dict, like: Relative | None) -> tuple[Cost, Relative]:
    """Time a few steps as they are without compiling, and all else relative to them, unless the task's is known."""
    import torch
    from torch.utils._pytree import tree_leaves

    from relax_exp.runs import device as devices
    from relax_exp.runs.build import build_task, build_trainer
    from relax_exp.runs.run import choose_device, should_compile

    torch.set_num_threads(config["threads"])
    torch.set_flush_denormal(True)
    device = choose_device(config)
    devices.prepare(device, config["allow_tf32"], config["deterministic"])
    with torch.no_grad():
        task = build_task(config, device)
        seeds, lrs = config["seeds"], config["lrs"]
        replicas = build_trainer(task, seeds, lrs, device, False)
        _, step = _steps(replicas)
        if like is None:
            begin = time.monotonic()
            rows = replicas.evaluate(list(range(len(replicas.labels))), int(replicas.state.t[0]), False)
            evaluation = (time.monotonic() - begin) / step
            row = 3 * len(json.dumps(rows, default=str)) / len(rows)  # metrics.jsonl and TensorBoard
            compiling, compiled = 0.0, step
            if should_compile(config, task) and not devices.compile_obstacle(device):
                compiling, compiled = _steps(build_trainer(task, seeds, lrs, device, True))
            like = Relative(compiling, compiled / step, evaluation, row)
    size = sum(leaf.numel() * leaf.element_size() for leaf in tree_leaves(replicas.saved))
    row = like.row * len(seeds) * len(lrs)
    return Cost(kind(config), like.compiling, step * like.compiled, step * like.evaluation, size, row), like


def _steps(replicas) -> tuple[float, float]:
    """Seconds of the first step, and of the median one of the others."""
    import torch

    times = [(0, time.monotonic())]
    wait = torch.cuda.synchronize if replicas.device.type == "cuda" else int  # a GPU's steps are only begun
    for step in replicas.advance(1000):
        wait()
        times.append((step, time.monotonic()))
        if len(times) > 3 and times[-1][1] - times[1][1] > 0.2:
            break
    between = itertools.pairwise(times)  # there may be several steps between two of them
    first, *others = [(then - now) / (after - before) for (before, now), (after, then) in between]
    first *= times[1][0]
    return first, sorted(others)[len(others) // 2]


def main() -> None:
    """Answer with one line for each configuration, {} where it cannot be measured or the time is over."""
    began = time.monotonic()
    configs, limit = [json.loads(line) for line in sys.stdin], float(sys.argv[1])
    import relax_exp.runs.run  # noqa: F401  as every run does
    from relax_exp import data

    data.load = functools.cache(data.load)
    start, said, known = time.monotonic() - began, set(), {}
    for config in configs:
        cost, name = {}, config["task"]["name"]
        if time.monotonic() - began < limit:
            try:
                measured, known[name] = measure(config, known.get(name))
                cost = measured._replace(start=measured.start + start)._asdict()
            except Exception as error:  # the run will say it, too
                said.add(f"cannot time task={name}: {error}")
        print(json.dumps(cost), flush=True)
    print(*said, sep="\n", end="\n" * bool(said), file=sys.stderr)


if __name__ == "__main__":
    main()
