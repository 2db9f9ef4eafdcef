"""Does everything work on this GPU, and how fast is it? Prints PASS or FAIL and numbers; `docs/gpu.md` explains them.

``make gpu-check`` is to be run first on a machine with a GPU. Without one it is a dry run: the same checks on the CPU,
with small models, where a graph is emulated and times are not judged.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.utils._pytree import tree_leaves, tree_map

from relax_exp.data import ImageData
from relax_exp.numerics.cuda_graph import WARM_UPS
from relax_exp.numerics.random_streams import stream
from relax_exp.runs import checkpoint
from relax_exp.runs import device as devices
from relax_exp.runs.build import make_task
from relax_exp.tasks.vae import VAE
from relax_exp.training.replicas import CHUNK, Replicas
from relax_exp.training.together import Together

RELAX = {"name": "relax", "depth": 2, "width": 200, "weight_decay": 1e-3}
REBAR = {"name": "rebar"}
STEP = {5: 0.25}  # milliseconds a step of RELAX, linear1, at most, by the number of replicas
GROWTH = 2.0  # 20 replicas against one, at most
EVALUATION = 0.03  # seconds of one of five replicas, at most
CELL = 9.0  # minutes of 2,000,000 steps of five replicas with 960 evaluations, at most


def emulated(call: Callable[[], None]) -> Callable[[], None]:
    """Stand in for a capture: make the call again each time, kernel by kernel."""
    for _ in range(WARM_UPS):
        call()
    return call


class Report:
    """Prints a line for each check and counts those that failed."""

    def __init__(self) -> None:
        self.failed = 0

    def line(self, name: str, verdict: str, text: str) -> None:
        """Print a line: PASS, FAIL or info."""
        self.failed += verdict == "FAIL"
        print(f"{verdict:4s}  {name:44s} {text}", flush=True)

    def check(self, name: str, call: Callable[[], tuple[bool, str]]) -> None:
        """Print whether ``call()`` finds what it should; what it raises is a failure, too."""
        try:
            fine, text = call()
        except Exception as error:
            fine, text = False, f"{type(error).__name__}: {error}".splitlines()[0]
        self.line(name, "PASS" if fine else "FAIL", text)

    def limit(self, name: str, value: float, limit: float | None, unit: str) -> None:
        """Print a measured value, judged where there is a limit."""
        verdict = "info" if limit is None else "PASS" if value <= limit else "FAIL"
        self.line(name, verdict, f"{value:.3g} {unit}" + (f" (at most {limit:g})" if limit is not None else ""))


class Machine:
    """The device, and models as large as it is worth: those of the papers on a GPU, small ones in a dry run."""

    def __init__(self, device: torch.device):
        self.device, self.dry = device, device.type == "cpu"
        self.latents = 5 if self.dry else 200
        pixels, counts = (64, (300, 200)) if self.dry else (784, (10_000, 7000))
        self.images, self.others = (images(pixels, count) for count in counts)
        self.options: dict[str, Any] = {"capture": emulated} if self.dry else {}

    def vae(self, estimator: dict, dtype=torch.float64, device=None, data: ImageData | None = None, **options) -> VAE:
        """Build the binary VAE; ``device``, ``data``: others than the machine's."""
        given = {"latents": self.latents, "dtype": dtype, "device": self.device if device is None else device}
        return make_task(
            "vae", {**estimator}, data or self.images, **{**given, "variance_draws": 4 if self.dry else 100, **options}
        )

    def wait(self) -> None:
        """Wait until the device has done everything."""
        if not self.dry:
            torch.cuda.synchronize(self.device)


def images(pixels: int, count: int) -> ImageData:
    """Draw binary images; what they show changes neither times nor agreement."""
    rows = (torch.rand((count, pixels), generator=stream(0, "check", count)) < 0.13).to(torch.uint8)
    side = int(pixels**0.5)
    return ImageData("random", rows, rows, rows[:100], rows.double().mean(0), (side, side), "static")


def trained(task, device, stretches, seeds=(0, 1), saved=None, compiled=False, **options) -> Replicas:
    """Train so many steps at a time."""
    replicas = Replicas(task, list(seeds), [1e-3], device, compiled, **options)
    if saved is not None:
        replicas.saved = tree_map(torch.clone, saved)
    for steps in stretches:
        list(replicas.advance(steps))
    return replicas


def difference(left, right) -> float:
    """Return the largest difference of two trees, each tensor's relative to its largest number."""
    worst = 0.0
    for a, b in zip(*(tree_leaves(tree) for tree in (left, right)), strict=True):
        if a.dtype.is_floating_point and a.numel():
            a, b = a.cpu().double(), b.cpu().double()
            worst = max(worst, float((a - b).abs().max() / b.abs().max().clamp(min=1e-12)))
    return worst


def equal(left, right) -> tuple[bool, str]:
    """Compare two trees bit for bit."""
    pairs = list(zip(*(tree_leaves(tree) for tree in (left, right)), strict=True))
    wrong = sum(not torch.equal(a.cpu().nan_to_num(), b.cpu().nan_to_num()) for a, b in pairs)
    return not wrong, f"{len(pairs)} tensors, {wrong} differ"


def check_setup(report: Report, machine: Machine) -> None:
    """Print versions, driver, compiler and headers."""
    report.line("torch, CUDA, driver", "info", f"{torch.__version__}, {torch.version.cuda}, {devices.driver_version()}")
    if machine.dry:
        report.line("device", "info", f"cpu: a dry run, times are not judged ({devices.obstacle() or 'no driver'})")
        return
    free, total = torch.cuda.mem_get_info(machine.device)
    report.line(
        "device", "info", f"{devices.description(machine.device)}, {free / 2**30:.0f} of {total / 2**30:.0f} GiB free"
    )
    obstacle = devices.compile_obstacle(machine.device)
    report.line("compiler and headers", "FAIL" if obstacle else "PASS", obstacle or "found")


def check_numbers(report: Report, machine: Machine) -> None:
    """Compare numbers of the device with the CPU's, of graphs with single kernels, of parts with wholes."""
    device, options = machine.device, machine.options

    def against_the_cpu(estimator: dict) -> tuple[bool, str]:
        there = trained(machine.vae(estimator), device, [47], **options)
        here = trained(machine.vae(estimator, device="cpu"), "cpu", [47])
        found = difference(there.state.model, here.state.model)
        return found < 1e-5, f"largest relative difference {found:.1e}"

    def graphs() -> tuple[bool, str]:
        task = machine.vae(RELAX, torch.float32)
        return equal(
            trained(task, device, [7, 33, 7], **options).state,
            trained(task, device, [7, 33, 7], **({} if machine.dry else {"capture": emulated})).state,
        )

    def resumed() -> tuple[bool, str]:
        task = machine.vae(REBAR, torch.float32)
        half = trained(task, device, [31], **options).saved
        return equal(
            trained(task, device, [29], saved=half, **options).state, trained(task, device, [31, 29], **options).state
        )

    def alone() -> tuple[bool, str]:
        task = machine.vae(RELAX)
        together = trained(task, device, [40], seeds=range(5), **options).state.model
        one = trained(task, device, [40], seeds=[3], **options).state.model
        found = difference(tree_map(lambda leaf: leaf[3:4], together), one)
        return found < 1e-8, f"largest relative difference {found:.1e}"

    def together() -> tuple[bool, str]:
        pair = [machine.vae(RELAX, data=data) for data in (machine.images, machine.others)]
        both = Together(pair, [0, 1], [1e-3], device, False, **options)
        list(both.advance(40))
        alone = [trained(task, device, [40], **options).state.model for task in pair]
        found = max(difference(part.state.model, one) for part, one in zip(both.parts, alone, strict=True))
        return found < 1e-8, f"largest relative difference {found:.1e}"

    def captured(task) -> tuple[bool, str]:
        state = trained(task, device, [CHUNK + 1], **options).state
        return not state.failed_at.any().item(), f"{int(state.t[0])} steps"

    report.check("float64, RELAX: as on the CPU", lambda: against_the_cpu(RELAX))
    report.check("float64, REBAR: as on the CPU", lambda: against_the_cpu(REBAR))
    report.check("graphs: as without, bit for bit", graphs)
    report.check("going on within a chunk, bit for bit", resumed)
    report.check("replica 3 of 5: as alone (float64)", alone)
    report.check("two data sets: each as alone (float64)", together)
    for name in ("exact", "rodeo"):
        report.check(
            f"capture: {name}", lambda name=name: captured(make_task("toy", {"name": name}, latents=2, device=device))
        )
    density = {"layers": 1, "variables": 3, "categories": 3, "hidden": [], "relaxed": "density", "device": device}
    report.check(
        "capture: concrete, density",
        lambda: captured(make_task("categorical_vae", {"name": "concrete"}, machine.images, **density)),
    )


def check_times(report: Report, machine: Machine) -> None:
    """Time steps, noise, evaluation and checkpoint, with the limits of docs/gpu.md; and project a cell of Table 1."""
    device, dry = machine.device, machine.dry
    compiled = not dry and devices.compile_obstacle(device) is None
    times = {}
    for count in (1, 2) if dry else (1, 5, 20, 100):
        task = machine.vae(RELAX, torch.float32)
        replicas = trained(task, device, [2 * CHUNK], range(count), compiled=compiled, **machine.options)
        steps = CHUNK if dry else 2000
        times[count] = seconds(machine, lambda replicas=replicas, steps=steps: list(replicas.advance(steps))) / steps
        report.limit(f"a step, {count} replicas", 1e3 * times[count], None if dry else STEP.get(count), "ms")
        bare = seconds(machine, replicas.chunk_step.replay) / CHUNK
        report.limit(f"  its kernels alone, {count} replicas", 1e3 * bare, None, "ms")
        drawn = seconds(machine, lambda replicas=replicas: replicas._draw_chunk("train", 99)) / CHUNK
        report.limit(f"  drawing its noise, {count} replicas", 1e3 * drawn, None, "ms (hidden behind the device)")
        if count == (2 if dry else 5):
            everyone = list(range(count))
            replicas.evaluate(everyone, 0, False)
            evaluation = seconds(machine, lambda replicas=replicas, i=everyone: replicas.evaluate(i, 1, False))
            report.limit(f"an evaluation, {count} replicas", evaluation, None if dry else EVALUATION, "s")
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder, "checkpoint.pt")
                saving = seconds(machine, lambda replicas=replicas, path=path: checkpoint.save(path, replicas.saved))
            report.limit("a checkpoint", saving, None, "s")
    if not dry:
        report.limit("20 replicas against one", times[20] / times[1], GROWTH, "x")
        report.limit(
            "2,000,000 steps of five, 960 evaluations", (2e6 * times[5] + 960 * evaluation) / 60, CELL, "minutes"
        )
        longest_kernels(machine, compiled)


def seconds(machine: Machine, call: Callable[[], Any]) -> float:
    """Seconds of the call, the device waited for: the least of three."""
    taken = []
    for _ in range(1 if machine.dry else 3):
        machine.wait()
        begun = time.perf_counter()
        call()
        machine.wait()
        taken.append(time.perf_counter() - begun)
    return min(taken)


def longest_kernels(machine: Machine, compiled: bool) -> None:
    """Print the ten kernels of a step of five replicas that take longest."""
    replicas = trained(machine.vae(RELAX, torch.float32), machine.device, [2 * CHUNK], range(5), compiled=compiled)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        list(replicas.advance(10 * CHUNK))
        machine.wait()
    print(profile.key_averages().table(sort_by="self_device_time_total", row_limit=10, max_name_column_width=60))


def main() -> int:
    """Run all checks; return 1 if one failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="auto", help="auto, cpu (a dry run), cuda or cuda:N")
    options = parser.parse_args()
    machine, report = Machine(devices.choose(options.device)), Report()
    devices.prepare(machine.device)
    begun = time.perf_counter()
    check_setup(report, machine)
    with torch.no_grad():
        check_numbers(report, machine)
        check_times(report, machine)
    print(f"{report.failed} failed, {time.perf_counter() - begun:.0f} s")
    return int(report.failed > 0)


if __name__ == "__main__":
    sys.exit(main())
