"""How fast is a training step, against the arithmetic bound and against plain PyTorch? Ratios within one process.

``make bench`` writes results/bench/cpu.{json,md}; ``make bench-quick`` prints the ratios of two cells in under two
minutes; ``make bench-gpu`` is the same on a GPU. Every figure is a median over repetitions that alternate between the
contenders, so that a drifting machine hits all alike, with the smallest and largest beside it.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from plain import PlainVAE
from tabulate import tabulate
from torch._dynamo.backends.common import aot_autograd
from torch.utils._pytree import tree_map

from relax_exp.data import ImageData
from relax_exp.numerics import cpu_programs, onednn
from relax_exp.numerics.cuda_graph import capture
from relax_exp.numerics.machine import hardware
from relax_exp.numerics.optimizers import adam, adam_init
from relax_exp.numerics.random_streams import stream
from relax_exp.runs import device as devices
from relax_exp.runs.build import make_task
from relax_exp.tasks.vae import VAE
from relax_exp.training.replicas import CHUNK, Replicas

MODELS: dict[str, dict[str, Any]] = {
    "linear1": {"model": "linear1"},
    "linear2": {"model": "linear2"},
    "nonlinear, 784 units": {"model": "nonlinear"},  # of the decoder, as in the published code
    "nonlinear, 200 units": {"model": "nonlinear", "decoder_hidden": 200},  # as in the paper's text
}
RELAX = {"depth": 2, "width": 200, "weight_decay": 1e-3}
ESTIMATORS: dict[str, dict[str, Any]] = {
    "reinforce": {},
    "concrete": {},
    "rebar tied": {"noise": "tied"},
    "rebar independent": {"noise": "independent"},
    "relax tied": {"noise": "tied", **RELAX},
    "relax independent": {"noise": "independent", **RELAX},
    "disarm": {},
    "rloo4": {"samples": 4},
}
STORCHASTIC = {  # its estimators and ours: its RELAX draws the second noise independently
    "reinforce": "reinforce",
    "concrete": "concrete",
    "rebar": "rebar independent",
    "relax": "relax independent",
    "rloo4": "rloo4",
    "arm": "disarm",
    "disarm": "disarm",
}
REPEATS, SECONDS = 7, 0.4  # repetitions of a contender, and how long each lasts


def images(pixels: int = 784, count: int = 10_000) -> ImageData:
    """Random binary images, as many as MNIST has to validate: what they show does not change the time."""
    generator = stream(0, "bench images")
    data = (torch.rand((count, pixels), generator=generator) < 0.13).to(torch.uint8)
    mean = data.double().mean(0)
    return ImageData("random", data, data, data[:100], mean, (28, pixels // 28), "static")


def task_for(case: str, model: str, device, **options) -> VAE:
    """The VAE task of one cell."""
    name = case.split()[0].removesuffix("4")
    return make_task("vae", {"name": name, **ESTIMATORS[case]}, images(), device=device, **MODELS[model], **options)


def synchronize(device) -> None:
    """Wait for the GPU where there is one."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize()


def measure(contenders: dict[str, Callable[[], Any]], device="cpu", repeats: int = REPEATS) -> dict[str, dict]:
    """Milliseconds a call of each contender, taken in turns: median, min, max."""
    counts = {}
    for name, call in contenders.items():
        for _ in range(3):
            call()
        synchronize(device)
        begun = time.perf_counter()
        call()
        synchronize(device)
        counts[name] = max(1, int(SECONDS / max(time.perf_counter() - begun, 1e-6)))
    taken: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(repeats):
        for name, call in contenders.items():
            begun = time.perf_counter()
            for _ in range(counts[name]):
                call()
            synchronize(device)
            steps = counts[name] * getattr(call, "steps", 1)
            taken[name].append(1e3 * (time.perf_counter() - begun) / steps)
    return {
        name: {"median": statistics.median(values), "min": min(values), "max": max(values)}
        for name, values in taken.items()
    }


def product_shapes(task: VAE, device) -> list[tuple[tuple[int, ...], ...]]:
    """Shapes of the matrix products of one compiled step, after dead code is gone."""
    found: list = []

    def record(graph, inputs):
        for node in graph.graph.nodes:
            if node.op == "call_function" and "mm" in str(node.target):
                shapes = [tuple(a.meta["val"].shape) for a in node.args if hasattr(a, "meta") and "val" in a.meta]
                found.append(tuple(shapes[-2:]))
        return graph

    replicas = Replicas(task, [0], [1e-3], device, True, backend=aot_autograd(fw_compiler=record))
    next(replicas.advance(1))
    return found


def arithmetic_bound(task: VAE, device, shapes) -> Callable[[], None]:
    """The step's matrix products and its optimiser update alone, each product by the faster of PyTorch's libraries."""
    # A weight that several products read is in the cache after the first; so are all factors of one shape here.
    alike = {shape: torch.rand(shape, device=device, dtype=task.dtype) for pair in shapes for shape in pair}
    pairs = [tuple(alike[shape] for shape in pair) for pair in shapes]
    by_onednn = [onednn.useful() and onednn.large(a, b) for a, b in pairs]
    outs = [torch.matmul(a, b) for a, b in pairs]
    model = task.init(stream(0, "init"))
    params = (model.params, model.tuning)
    grads = tree_map(torch.rand_like, params)
    t, lr = torch.ones((), device=device), torch.tensor(1e-3, device=device)
    torch.compiler.reset()
    moments = tree_map(torch.clone, adam_init(params))  # each in a place of its own, as in a run

    def overwrite(params, moments) -> None:
        new = adam(params, grads, moments, t, lr, task.betas)
        tree_map(lambda old, new: old.copy_(new), (params, moments), new)

    update = cpu_programs.compile(overwrite, often=torch.device(device).type == "cpu")

    def call() -> None:
        for (a, b), out, there in zip(pairs, outs, by_onednn, strict=True):
            onednn.product(a, b, None) if there else torch.matmul(a, b, out=out)
        update(params, moments)

    # Launched one by one, the products would be as fast as the host.
    return capture(call) if torch.device(device).type == "cuda" else call


class Stepper:
    """Trains on at each call: one step, or on a GPU the ``steps`` of a chunk, which are one CUDA graph."""

    def __init__(self, replicas: Replicas):
        self.generator = replicas.advance(10**9)
        self.steps = CHUNK if replicas.chunk_step else 1

    def __call__(self) -> None:
        next(self.generator)


def stepper(task, device, compiled: bool, seeds=(0,)) -> Stepper:
    """One training step of ours, noise and data included."""
    replicas = Replicas(task, list(seeds), [1e-3], device, compiled)
    return Stepper(replicas)


def plain_stepper(task: VAE, case: str, device) -> Callable[[], None]:
    """One step of the plain implementation, noise and data included."""
    plain = PlainVAE(task, task.init(stream(0, "init")), case.split()[0].removesuffix("4"), weight_decay=1e-3)
    generator = torch.Generator().manual_seed(0)

    @torch.enable_grad()
    def call() -> None:
        rows = torch.randint(len(task.data), (task.batch_size,), generator=generator)
        noise = {k: torch.rand(s, generator=generator).to(device) for k, s in task.noise_shapes().items()}
        plain.step(task.data[rows.to(device)].to(task.dtype), noise)

    return call


def bench_steps(models, cases, device, repeats=REPEATS) -> list[dict]:
    """Milliseconds a step of ours (compiled, eager), plain PyTorch and the bound, and their ratios."""
    rows = []
    for model in models:
        for case in cases:
            task = task_for(case, model, device)
            with torch.no_grad():
                shapes = product_shapes(task, device)
                contenders = {
                    "bound": arithmetic_bound(task, device, shapes),
                    "eager": stepper(task, device, False),
                    "compiled": stepper(task_for(case, model, device), device, True),
                    "plain": plain_stepper(task_for(case, model, device), case, device),
                }
                times = measure(contenders, device, repeats)
            row = {"model": model, "estimator": case, "products": len(shapes), **times}
            row["compiled / bound"] = times["compiled"]["median"] / times["bound"]["median"]
            row["plain / compiled"] = times["plain"]["median"] / times["compiled"]["median"]
            rows.append(row)
            medians = "  ".join(f"{name} {values['median']:.2f}" for name, values in times.items())
            print(
                f"{model:20s} {case:18s} {medians} ms   "
                f"compiled / bound {row['compiled / bound']:.2f}   "
                f"plain / compiled {row['plain / compiled']:.2f}",
                flush=True,
            )
    return rows


def bench_replicas(device, counts=(1, 2, 5, 10, 20, 50)) -> list[dict]:
    """A step of R replicas in one run against R separate runs, RELAX on linear1."""
    rows = []
    with torch.no_grad():
        for r in counts:
            call = stepper(task_for("relax tied", "linear1", device), device, True, range(r))
            times = measure({"together": call}, device, 3)
            rows.append({"replicas": r, **times})
    for row in rows:
        separate = row["replicas"] * rows[0]["together"]["median"]
        row["together / separate"] = row["together"]["median"] / separate
    return rows


def bench_evaluation(device) -> list[dict]:
    """Share of a default run that is evaluation: 100,000 steps, one every 20,000, with all images at the last."""
    rows = []
    with torch.no_grad():
        for case in ("rebar tied", "relax tied"):
            replicas = Replicas(task_for(case, "linear1", device), [0], [1e-3], device, True)
            contenders = {
                "step": Stepper(replicas),
                "evaluation": lambda replicas=replicas: replicas.evaluate([0], 20_000, False),
                "last": lambda replicas=replicas: replicas.evaluate([0], 100_000, True),
            }
            times = measure(contenders, device, 3)
            step, evaluation, last = (times[name]["median"] for name in contenders)
            share = (4 * evaluation + last) / (100_000 * step + 4 * evaluation + last)
            rows.append({"estimator": case, **times, "share of the run": share})
    return rows


def bench_toy(device) -> list[dict]:
    """Toy steps a second at R = 1 and 100, compiled and eager, by the free network's RELAX."""
    options = {"name": "relax", "surrogate": "network", "depth": 1, "width": 10}
    rows = []
    with torch.no_grad():
        for compiled in (True, False):
            for r in (1, 100):
                call = stepper(make_task("toy", options, device=device), device, compiled, range(r))
                times = measure({"step": call}, device, 5)["step"]
                rows.append({"replicas": r, "compiled": compiled, "step": times, "per second": 1e3 / times["median"]})
    return rows


def bench_growth(device) -> list[dict]:
    """Time against latents and batch, RELAX on linear1, compiled."""
    rows = []
    with torch.no_grad():
        for latents in (50, 200, 800, 1600):
            task = task_for("relax tied", "linear1", device, latents=latents)
            times = measure({"s": stepper(task, device, True)}, device, 3)["s"]
            rows.append({"latents": latents, "batch": 24, "step": times})
        for batch in (24, 96, 384, 1536):
            task = task_for("relax tied", "linear1", device, batch_size=batch)
            times = measure({"s": stepper(task, device, True)}, device, 3)["s"]
            rows.append({"latents": 200, "batch": batch, "step": times})
    return rows


def peak_memory(replicas: int, latents: int) -> float:
    """Peak resident memory in MiB of a process that takes three eager steps (Linux)."""
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import torch; import bench; torch.set_num_threads(1)\n"
        f"call = bench.stepper(bench.task_for('relax tied', 'linear1', 'cpu', latents={latents}), 'cpu', False, "
        f"range({replicas}))\n"
        "with torch.no_grad(): [call() for _ in range(3)]\n"
        # Not getrusage's maximum, which a process inherits from the one that started it.
        "print(next(line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(Path(__file__).parent)], capture_output=True, text=True, check=True
    )
    return float(done.stdout.split()[-1]) / 1024


def bench_memory() -> list[dict]:
    """Peak memory against replicas and latents."""
    pairs = [(1, 200), (5, 200), (20, 200), (50, 200), (1, 800), (1, 1600)]
    return [{"replicas": r, "latents": n, "MiB": peak_memory(r, n)} for r, n in pairs]


def bench_start() -> list[dict]:
    """Seconds from the command to --help and to the end of a two-step run."""
    rows = []
    for label, arguments in {
        "--help": ["--help"],
        "configuration error": ["task=toy", "estimator=relaxx"],
        "toy, first steps": ["task=toy", "estimator=relax", "steps=2", "out=OUT"],
        "vae digits, first steps": ["task=vae", "task.dataset=digits", "estimator=relax", "steps=2", "out=OUT"],
    }.items():
        taken = []
        for _ in range(5):
            with tempfile.TemporaryDirectory() as folder:
                typed = [a.replace("OUT", f"{folder}/run") for a in arguments]
                begun = time.perf_counter()
                subprocess.run([sys.executable, "-m", "relax_exp", *typed], capture_output=True)
                taken.append(time.perf_counter() - begun)
        rows.append({"command": label, "seconds": statistics.median(taken), "min": min(taken), "max": max(taken)})
    return rows


def bench_storchastic(python: str, threads: int) -> list[dict]:
    """Milliseconds a step of storchastic in another interpreter, and of ours and plain PyTorch right after it."""
    script, rows = Path(__file__).with_name("bench_storchastic.py"), []
    for name, case in STORCHASTIC.items():
        with torch.no_grad():
            contenders = {
                "compiled": stepper(task_for(case, "linear1", "cpu"), "cpu", True),
                "plain": plain_stepper(task_for(case, "linear1", "cpu"), case, "cpu"),
            }
            contenders["compiled"]()  # compiles now, so that nothing lies between their times and ours
            command = [python, str(script), name, "--threads", str(threads)]
            its = json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)[name]
            times = measure(contenders)
        failed = "error" in its
        row = {"storchastic's": name, "milliseconds": "-" if failed else its, "ours": case, **times}
        row["storchastic / compiled"] = "-" if failed else its["median"] / times["compiled"]["median"]
        rows.append(row | {"its gradient": f"none: {its['error']}" if failed else its["gradient"]})
    return rows


def show(value: Any) -> str:
    """A cell: median with its spread, or a number."""
    if isinstance(value, dict):
        return f"{value['median']:.3g} ({value['min']:.3g}-{value['max']:.3g})"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def markdown(result: dict) -> str:
    """All tables."""
    titles = {
        "steps": "Milliseconds a training step, batch 24: median (smallest-largest)",
        "replicas": "Replicas: milliseconds for a step of all, RELAX on linear1",
        "evaluation": "Evaluation in a default run of 100,000 steps, linear1, milliseconds",
        "toy": "Toy: RELAX with the free network",
        "growth": "Growth of the step with latents and batch, milliseconds",
        "memory": "Peak memory of a process",
        "start": "Start-up, seconds",
        "storchastic": f"storchastic {result['about'].get('storchastic')}, linear1, milliseconds a step",
    }
    about = json.dumps({**result["about"], "load average": result["load average"]}, indent=1)
    parts = [f"# Benchmark ({result['about']['device']})\n", f"```\n{about}\n```\n"]
    for key, title in titles.items():
        if rows := result.get(key):
            body = [[show(value) for value in row.values()] for row in rows]
            parts.append(f"## {title}\n\n{tabulate(body, list(rows[0]), tablefmt='github', disable_numparse=True)}\n")
    return "\n".join(parts)


def kept(path: Path, about: dict) -> dict[str, Any]:
    """The parts measured before, where machine and versions were the same."""
    result = json.loads(path.read_text()) if path.exists() else {}
    same = about.items() <= result.get("about", {}).items()
    return result if same else {"about": about, "load average": {}}


PARTS = ("steps", "replicas", "evaluation", "toy", "growth", "start", "memory", "storchastic")


def main() -> int:
    """Run the benchmark named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="two cells, printed only")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--storchastic", metavar="PYTHON", help="a Python that has storchastic: time it too, on the CPU"
    )
    parser.add_argument(
        "--parts",
        nargs="+",
        choices=PARTS,
        help="those to measure: the others stay",
    )
    parser.add_argument("-o", "--out", type=Path, default=Path("results/bench"))
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        print("bench: no CUDA device here", file=sys.stderr)
        return 2
    torch.set_num_threads(options.threads)
    torch.set_flush_denormal(True)
    devices.prepare(devices.choose(options.device))
    if options.quick:
        bench_steps(["linear1"], ["rebar tied", "relax tied"], options.device, 3)
        return 0
    device = torch.cuda.get_device_name() if options.device == "cuda" else "cpu"
    about = {
        "device": device,
        "threads": options.threads,
        "hardware": hardware(),
        "torch": importlib.metadata.version("torch"),
        "python": sys.version.split()[0],
    }
    parts: dict[str, Callable[[], list[dict]]] = {
        "steps": lambda: bench_steps(MODELS, ESTIMATORS, options.device),
        "replicas": lambda: bench_replicas(options.device),
        "evaluation": lambda: bench_evaluation(options.device),
        "toy": lambda: bench_toy(options.device),
        "growth": lambda: bench_growth(options.device),
        "start": bench_start,
    }
    if options.device == "cpu":
        parts["memory"] = bench_memory
    if options.storchastic:
        code = "import importlib.metadata; print(importlib.metadata.version('storchastic'))"
        about["storchastic"] = subprocess.check_output([options.storchastic, "-c", code], text=True).strip()
        parts["storchastic"] = lambda: bench_storchastic(options.storchastic, options.threads)
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / f"{options.device}{'' if options.threads == 1 else f'-{options.threads}-threads'}.json"
    result = kept(path, about) if options.parts else {"about": about, "load average": {}}
    for part, measured in parts.items():  # written after each, as all of them take a quarter of an hour
        if part in (options.parts or parts):
            result["load average"][part] = round(os.getloadavg()[0], 2)
            result[part] = measured()
            path.write_text(json.dumps(result, indent=1))
            path.with_suffix(".md").write_text(markdown(result))
    print(markdown(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
