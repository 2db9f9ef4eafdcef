"""One run from a valid configuration to its folder: claim it, build the task, train, evaluate, save, finish."""

from __future__ import annotations

import atexit
import gc
import json
import os
import re
import signal
import sys
import time
import warnings

import torch

from relax_exp.config.identity import run_path
from relax_exp.errors import SettingError
from relax_exp.report.tables import run_printed, run_table
from relax_exp.runs import checkpoint
from relax_exp.runs import device as devices
from relax_exp.runs.build import build_task, build_trainer
from relax_exp.runs.files import write_atomically
from relax_exp.runs.folder import RunFolder, shown
from relax_exp.runs.loggers import Console, MetricsFile, Row, TensorBoard, clean, gif, label
from relax_exp.tasks.registry import TASKS

CHECKPOINT_SECONDS = 60.0  # at least this long from one checkpoint to the next; what comes after it is done again


def execute(config: dict) -> int:
    """Run ``config`` (from `relax_exp.config.resolve`) to its end.

    It continues what was interrupted and does nothing where the run is finished. KeyboardInterrupt or SystemExit(143)
    comes after SIGINT or SIGTERM, with everything saved.

    Returns:
        1 if a replica failed, else 0.

    Raises:
        RunError: The run cannot start or go on, for a reason that a user can mend.
        DataError: Its data cannot be had.
    """
    path = run_path(config)
    if (code := shown(path, config, run_printed)) is not None:
        return code
    device = choose_device(config)
    if remark := devices.remark(config["device"], config["task"]["name"], TASKS[config["task"]["name"]].gpu):
        say(remark)
    torch.set_num_threads(config["threads"])
    torch.set_flush_denormal(True)
    devices.prepare(device, config["allow_tf32"], config["deterministic"])
    task = build_task(config, device)
    if task.data is not None and config["batch_size"] > len(task.data):
        raise SettingError(f"batch_size={config['batch_size']}, but the training set has {len(task.data)} images only")
    with RunFolder(path, config) as folder, torch.no_grad():
        return Run(config, task, folder, device).finish()


def choose_device(config: dict) -> torch.device:
    """Return the device that the configuration asks for; ``auto`` goes by the task.

    Raises:
        SettingError: the configuration asks for a GPU that is not there.
    """
    return devices.choose(config["device"], TASKS[config["task"]["name"]].gpu)


def should_compile(config: dict, task) -> bool:
    """Tell whether to compile the step.

    ``compile=auto`` goes by the configured number of steps alone, so that resuming cannot change it.
    """
    choice = config["compile"]
    return config["steps"] >= task.compile_after if choice == "auto" else choice


def say(text: str) -> None:
    """Print a line to the user that is not a result."""
    print(text, file=sys.stderr)


class Run:
    """A claimed run folder with everything that writes to it. ``finish`` trains to the end from wherever it stands.

    Attributes:
        evaluated: The step of the last evaluation.
        failed: Reasons by replica, as reported up to then.
    """

    def __init__(self, config: dict, task, folder: RunFolder, device: torch.device):
        self.config, self.task, self.folder = config, task, folder
        self.steps, self.eval_every = config["steps"], config["eval_every"]
        self.compiled = should_compile(config, task)
        if self.compiled and (obstacle := devices.compile_obstacle(device)):
            say(f"{obstacle}: running without it (slower)")
            self.compiled = False
        self.device_name = devices.description(device)
        self.replicas = build_trainer(task, config["seeds"], config["lrs"], device, self.compiled)
        self.labels = self.replicas.labels
        self.checkpoint_path = folder.path / "checkpoint.pt"
        self.evaluated, self.failed, self.elapsed, size = 0, {}, 0.0, 0
        if self.checkpoint_path.exists():
            saved, extra = checkpoint.load(self.checkpoint_path, self.replicas.saved)
            if "environment_state" in task.meta:  # it takes a while
                say(task.meta["environment_state"])
            self.replicas.saved = saved
            self.evaluated, self.failed = extra["evaluated"], extra["failed"]
            self.elapsed, size = extra["elapsed"], extra["metrics_size"]
        self.file = MetricsFile(folder.path / "metrics.jsonl", size)
        self.tensorboard = TensorBoard(folder.path / "tb", self.labels, self.file.rows(), task.measured_on, self.over)
        self._ticked, self._stop_signal = False, 0
        self._compiling, self._evaluation_compiled = False, not self.compiled

    @property
    def step(self) -> int:
        """The number of steps taken so far."""
        return int(self.replicas.state.t[0])

    @property
    def over(self) -> bool:
        """True where nothing is left to train and evaluate."""
        done = self.evaluated == self.steps or (self.replicas.finished and self.evaluated == self.step)
        return done or len(self.failed) == len(self.labels)

    def finish(self) -> int:
        """Train, evaluate and save to the end; then write tables and TensorBoard's closing pages.

        Returns:
            1 if a replica failed, else 0.
        """
        path = self.folder.path
        if self.checkpoint_path.exists():
            say(f"continuing {path} at step {self.step}")
        else:
            many = f"{len(self.labels)} replica{'s' * (len(self.labels) > 1)}"
            say(f"{many} on {self.replicas.device}{', compiled' * self.compiled} -> {path}")
        now = time.monotonic()
        self._started, self._saved, self._last = now - self.elapsed, now, (self.step, now)
        tracked = tuple(f"track/{name}/log_variance" for name in self.config["track"])
        headline = TASKS[self.task.name].headline + tracked
        self.console = Console(self.steps, self.step, headline, self.task.measured_on)
        if self.compiled and not self.over:
            self.console.say("compiling the training step; stopping meanwhile loses nothing")
        self._compiling = self.compiled
        previous = {s: signal.signal(s, self._on_signal) for s in (signal.SIGINT, signal.SIGTERM)}
        try:
            self._warm_up()
            while not self.over:
                self._advance()
                self._evaluate()
            self.console.close()
            self._close()
        finally:
            gc.unfreeze()
            self.console.close()
            self.tensorboard.close()
            for number, handler in previous.items():
                signal.signal(number, handler)
        return int(bool(self.failed))

    def _on_signal(self, number: int, frame) -> None:
        """Stop after the step (or evaluation) that is being done; at once where that is asked for again.

        At once, too, while a program is compiled: nothing has changed then since the last checkpoint.
        """
        if self._compiling:
            self._stop_signal, self._compiling = number, False
            os.write(2, b"\nstopped while compiling; the same command goes on from the last checkpoint\n")
            warnings.simplefilter("ignore")  # torch tells where it was interrupted
            devices.stop_compiling()
            atexit.register(gc.freeze)  # Python need not look for garbage in half a program, which takes seconds
            self._stop()
        if self._stop_signal:
            os.write(2, b"\nstopped at once; the same command goes on from the last checkpoint\n")
            self._stop()
        self._stop_signal = number
        os.write(2, b"\nstopping as soon as everything can be saved (again: at once)\n")

    def _stop(self) -> None:
        raise (
            KeyboardInterrupt("stopped") if self._stop_signal == signal.SIGINT else SystemExit(128 + self._stop_signal)
        )

    def _tick(self) -> None:
        """Stop where asked to, and save once a minute; called after each step."""
        if not self._ticked and self.compiled:
            self._compiling = False
            self.console.say(f"compiled in {time.monotonic() - self._last[1]:.0f} s")
            self._last = (self.step, time.monotonic())
            self.console.restart(self.step)
        if not self._ticked:
            gc.collect()
            gc.freeze()  # what is there by now stays; looking for garbage in it is 2% of Atari's steps
        self._ticked = True
        if self._stop_signal:
            self._save()
            self.console.close()
            say(f"stopped at step {self.step}; the same command goes on from there")
            self._stop()
        if time.monotonic() - self._saved > CHECKPOINT_SECONDS:
            self._save()

    def _save(self) -> None:
        checkpoint.save(
            self.checkpoint_path,
            self.replicas.saved,
            evaluated=self.evaluated,
            failed=self.failed,
            metrics_size=self.file.size,
            elapsed=time.monotonic() - self._started,
        )
        self._saved = time.monotonic()
        self.folder.update_meta(saved_step=self.step)

    def _warm_up(self) -> None:
        """Take the updates of the estimators alone, before the first step."""
        if self.step == 0 and self.task.warmup:
            for _ in self.replicas.warm_up(self.task.warmup):
                self._tick()
            self._last = (0, time.monotonic())

    def _advance(self) -> None:
        """Go on to the next evaluation, which may be due already where a run was stopped right before it."""
        target = min(self.steps, (self.evaluated // self.eval_every + 1) * self.eval_every)
        for step in self.replicas.advance(target - self.step):
            self.console.update(step)
            self._tick()

    def _evaluate(self) -> None:
        """Write the metrics of all living replicas at this step, then a checkpoint where one is due, and at the end.

        Nothing changes before the numbers are there. What a killed run wrote after its last checkpoint is cut off when
        it goes on, and done again.
        """
        step, now = self.step, time.monotonic()
        speed = (step - self._last[0]) / max(now - self._last[1], 1e-9)
        timing = {"time/elapsed": now - self._started, "time/steps_per_second": speed}
        means, failures = self.replicas.means(), self.replicas.failures()
        alive = [i for i in range(len(self.labels)) if i not in failures]
        final = step == self.steps or self.replicas.finished
        values = dict(zip(alive, self._values(alive, step, final), strict=True)) if alive else {}
        rows: list[Row] = []
        for i, (seed, lr) in enumerate(self.labels):
            if i in self.failed:
                continue
            row = {"step": step, "seed": seed, "lr": lr, **means[i], **values.get(i, {})}
            if i in failures:
                row["failed"] = failures[i]
                self.console.say(f"{label(seed, lr)} failed: {failures[i]}")
            rows.append(clean({**row, **timing}))
        self.file.append(rows)
        self.replicas.clear_means()
        self.evaluated, self.failed = step, failures
        if self.over or time.monotonic() - self._saved > CHECKPOINT_SECONDS:
            self._save()
        self.tensorboard.add(rows, last=self.over)
        if alive:
            models = self.replicas.models(alive)
            for k, i in enumerate(alive):
                self.tensorboard.images(self.labels[i], self.task.images(models, k, self.labels[i][0]), step)
        self.console.rows(rows)
        self._write_status()
        self._last = (step, time.monotonic())

    def _values(self, alive: list[int], step: int, final: bool) -> list[dict[str, float]]:
        """Return the metrics of the living replicas; programs are compiled the first time, from a checkpoint on."""
        if not self._evaluation_compiled:
            self._save()
            self._compiling = not self._stop_signal
        values = self.replicas.evaluate(alive, step, final)
        self._compiling, self._evaluation_compiled = False, True
        return values

    def _write_status(self) -> None:
        """Write every replica's status into meta.json. The run itself counts as running until all is written."""
        replicas = []
        for i, (seed, lr) in enumerate(self.labels):
            status = "failed" if i in self.failed else "done" if self.over else "running"
            replicas.append({"seed": seed, "lr": lr, "status": status, "reason": self.failed.get(i)})
        known = {"evaluations": self.task.evaluations, "device": self.device_name, **self.task.meta}
        self.folder.update_meta(replicas=replicas, step=self.step, compiled=self.compiled, **known)

    def _close(self) -> None:
        """Write files and pages of the end; the run counts as finished once they are all there."""
        path, rows = self.folder.path, self.file.rows()
        alive = [i for i in range(len(self.labels)) if i not in self.failed]
        self.tensorboard.add([])
        headline = TASKS[self.task.name].headline
        curves = [key for key in headline if key in self.tensorboard.curves]
        tags = map(self.tensorboard.tag, curves)
        pages = {"comparison of all runs": {tag: f"^{re.escape(tag)}$" for tag in tags}}
        if self.config["track"]:
            kinds = ("log_variance", "log_variance_x_evaluations")
            pages["track"] = {kind: f"track/.*/{kind}$" for kind in kinds}
        self.tensorboard.charts(pages)
        if alive:
            models, names = self.replicas.models(alive), [label(*self.labels[i]) for i in alive]
            for name, content in self.task.finish(models, names).items():
                write_atomically(path / name, json.dumps(content))
            for k, i in enumerate(alive):
                for name, film in self.task.videos(models, k, self.labels[i][0]).items():
                    self.tensorboard.film(self.labels[i], name, film, self.step)
                    write_atomically(path / f"{name}_{label(*self.labels[i])}.gif", gif(film))
        self._write_status()
        table = run_table(path)
        write_atomically(path / "table.md", table + "\n")
        for replica in self.labels:
            last = [row for row in rows if (row["seed"], row["lr"]) == replica][-1]
            there = [key for key in curves if isinstance(last.get(key), float)]
            self.tensorboard.finish(replica, self._hparams(*replica), there, table, self.step)
        self.tensorboard.close()
        self.folder.update_meta(status="failed" if self.failed else "done")
        print(run_printed(path))
        say(f"metrics, table and TensorBoard files are in {path}")

    def _hparams(self, seed: int, lr: float) -> dict:
        sections = {f"{s}.{k}": v for s in ("task", "estimator") for k, v in self.config[s].items()}
        sections = {k.removesuffix(".name"): v for k, v in sections.items()}  # task and estimator, as they are typed
        flat = {"seed": seed, "lr": lr, "steps": self.steps, "batch_size": self.config["batch_size"], **sections}
        return {k: v if isinstance(v, int | float | str | bool) else str(v) for k, v in flat.items()}
