"""One run from a valid configuration to its folder: claim it, build the task, train, evaluate, save, finish."""

from __future__ import annotations

import json
import shutil
import signal
import sys
import time
from pathlib import Path

import torch

from relax_exp import checkpoint
from relax_exp.config import run_path
from relax_exp.folder import RunError, RunFolder
from relax_exp.metrics import Console, MetricsFile, Row, TensorBoard, clean, label
from relax_exp.report.table import run_table
from relax_exp.tasks import HEADLINES, build_task
from relax_exp.train import Replicas

CHECKPOINT_SECONDS = 60.0


def execute(config: dict) -> int:
    """Run ``config`` (from `relax_exp.config.resolve`) to its end; returns 1 if a replica failed, else 0.

    Continues what was interrupted and does nothing where the run is finished. RunError and DataError for what a user
    can mend; KeyboardInterrupt after a checkpoint was saved.
    """
    path = run_path(config)
    if RunFolder.finished(path, config):
        say(f"{path} is finished already; nothing to do (another seed, lr or out= makes another run)")
        print(run_table(path))
        meta = json.loads((path / "meta.json").read_text())
        return int(meta["status"] == "failed")
    device = choose_device(config["device"])
    torch.set_num_threads(config["threads"])
    torch.set_flush_denormal(True)
    task = build_task(config, device)
    with RunFolder(path, config) as folder, torch.no_grad():
        return Run(config, task, folder, device).finish()


def choose_device(name: str) -> torch.device:
    """The device for ``auto``, ``cpu`` or ``cuda``. RunError for cuda where there is none."""
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise RunError("device=cuda, but torch sees no CUDA device here; use device=cpu or device=auto")
    return torch.device("cuda" if name != "cpu" and available else "cpu")


def should_compile(config: dict, task) -> bool:
    """``compile=auto`` goes by the configured number of steps alone, so that resuming cannot change it."""
    choice = config["compile"]
    return config["steps"] >= task.compile_after if choice == "auto" else choice == "true"


def say(text: str) -> None:
    """A line to the user that is not a result."""
    print(text, file=sys.stderr)


class Run:
    """A claimed run folder with everything that writes to it. ``finish`` trains to the end from wherever it stands."""

    def __init__(self, config: dict, task, folder: RunFolder, device: torch.device):
        self.config, self.task, self.folder = config, task, folder
        self.steps, self.eval_every = config["steps"], config["eval_every"]
        compiled = should_compile(config, task)
        if compiled and device.type == "cpu" and not any(map(shutil.which, ("c++", "g++", "clang++", "cl"))):
            say("no C++ compiler found: running without torch.compile (slower)")
            compiled = False
        self.compiled = compiled
        self.replicas = Replicas(task, config["seeds"], config["lrs"], device, compiled)
        self.labels = self.replicas.labels
        self.checkpoint_path = folder.path / "checkpoint.pt"
        self.evaluated, self.elapsed, size = 0, 0.0, 0
        if self.checkpoint_path.exists():
            self.replicas.state, extra = checkpoint.load(self.checkpoint_path, self.replicas.state)
            self.evaluated, self.elapsed, size = extra["evaluated"], extra["elapsed"], extra["metrics_size"]
        self.file = MetricsFile(folder.path / "metrics.jsonl", size)
        self.failed: dict[int, str] = {
            i: it["reason"] for i, it in enumerate(folder.meta.get("replicas", [])) if self.evaluated and it["reason"]
        }
        self.tensorboard = TensorBoard(folder.path / "tb", self.labels, self.step)
        self.stop_signal = 0

    @property
    def step(self) -> int:
        """Steps taken so far."""
        return int(self.replicas.state.t[0])

    def finish(self) -> int:
        """Train, evaluate, checkpoint; then tables and TensorBoard's closing pages. 1 if a replica failed."""
        path = self.folder.path
        if self.step or self.evaluated:
            say(f"continuing {path} at step {self.step}")
        else:
            say(f"{len(self.labels)} replica{'s' * (len(self.labels) > 1)} on {self.replicas.device} -> {path}")
        previous = {s: signal.signal(s, self._on_signal) for s in (signal.SIGINT, signal.SIGTERM)}
        self.console = Console(self.steps, self.step, HEADLINES[self.task.name])
        self._started = time.monotonic() - self.elapsed
        self._saved = time.monotonic()
        self._last = (self.step, time.monotonic())
        try:
            self._warm_up()
            while self.step < self.steps and len(self.failed) < len(self.labels):
                self._advance()
                self._evaluate()
        except KeyboardInterrupt:
            self._save()
            self.tensorboard.close()
            self.folder.update_meta(status="interrupted")
            say(f"\nstopped at step {self.step}; the same command goes on from there")
            raise
        finally:
            self.console.close()
            for number, handler in previous.items():
                signal.signal(number, handler)
        self._close()
        return int(bool(self.failed))

    def _on_signal(self, number: int, frame) -> None:
        if self.stop_signal:  # a second one does not wait for the step
            raise KeyboardInterrupt
        self.stop_signal = number

    def _tick(self) -> None:
        """After each step: stop where asked to, save once a minute."""
        if self.stop_signal:
            raise KeyboardInterrupt
        if time.monotonic() - self._saved > CHECKPOINT_SECONDS:
            self._save()

    def _save(self) -> None:
        checkpoint.save(
            self.checkpoint_path,
            self.replicas.state,
            evaluated=self.evaluated,
            metrics_size=self.file.size,
            elapsed=time.monotonic() - self._started,
        )
        self._saved = time.monotonic()

    def _warm_up(self) -> None:
        if self.step == 0 and self.task.warmup:
            for _ in self.replicas.warm_up(self.task.warmup):
                self._tick()

    def _advance(self) -> None:
        """To the next evaluation."""
        target = min(self.steps, (self.step // self.eval_every + 1) * self.eval_every)
        begun, first = time.monotonic(), self.step == 0
        for step in self.replicas.advance(target - self.step):
            self.console.update(step)
            if first and self.compiled:
                self.console.say(f"compiled in {time.monotonic() - begun:.0f} s")
            first = False
            self._tick()

    def _evaluate(self) -> None:
        """Metrics of all living replicas at this step: written, then the checkpoint that includes them."""
        step, now = self.step, time.monotonic()
        before = self.replicas.state
        speed = (step - self._last[0]) / max(now - self._last[1], 1e-9)
        timing = {"time/elapsed": now - self._started, "time/steps_per_second": speed}
        means = self.replicas.take_means()
        try:
            seeds = [seed for seed, _ in self.labels]
            values = self.task.evaluate(self.replicas.state.model, seeds, step, step == self.steps)
        except KeyboardInterrupt:
            self.replicas.state = before
            raise
        rows: list[Row] = []
        for i, reason in enumerate(self.replicas.failures()):
            if i in self.failed:
                continue
            seed, lr = self.labels[i]
            row = clean({"step": step, "seed": seed, "lr": lr, **means[i], **values[i], **timing})
            rows.append(row)
            self.tensorboard.scalars(i, row)
            if reason:
                self.failed[i] = reason
                self.console.say(f"{label(seed, lr)} failed: {reason}")
        self.file.append(rows)
        self.evaluated = step
        self._save()
        self.tensorboard.flush()
        self.console.rows(rows)
        self._write_status("running")
        self._last = (step, time.monotonic())

    def _write_status(self, status: str, **more) -> None:
        replicas = [
            {
                "seed": seed,
                "lr": lr,
                "status": "failed" if i in self.failed else ("running" if status == "running" else "done"),
                "reason": self.failed.get(i),
            }
            for i, (seed, lr) in enumerate(self.labels)
        ]
        self.folder.update_meta(status=status, replicas=replicas, step=self.step, compiled=self.compiled, **more)

    def _close(self) -> None:
        models, path = self.replicas.state.model, self.folder.path
        names = [label(*it) for it in self.labels]
        for name, content in self.task.finish(models, names).items():
            (path / name).write_text(json.dumps(content))
        self._write_status("failed" if self.failed else "done", end=time.strftime("%Y-%m-%dT%H:%M:%S%z"))
        table = run_table(path)
        (path / "table.md").write_text(table + "\n")
        rows = self.file.rows()
        for i, (seed, lr) in enumerate(self.labels):
            if i not in self.failed:
                self.tensorboard.images(i, self.task.images(models, i, seed), self.step)
            final = [row for row in rows if (row["seed"], row["lr"]) == (seed, lr)][-1]
            self.tensorboard.finish(i, self._hparams(seed, lr), final, table, self.step)
        self.tensorboard.close()
        print(table)
        say(f"metrics, table and TensorBoard files are in {path}")

    def _hparams(self, seed: int, lr: float) -> dict:
        sections = {f"{s}.{k}": v for s in ("task", "estimator") for k, v in self.config[s].items()}
        flat = {"seed": seed, "lr": lr, "steps": self.steps, "batch_size": self.config["batch_size"], **sections}
        return {k: v if isinstance(v, int | float | str | bool) else str(v) for k, v in flat.items()}


def read_table(path: Path) -> str:
    """The table of a finished run."""
    return (path / "table.md").read_text()
