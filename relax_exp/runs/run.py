"""Runs from valid configurations to their folders: claim them, build the task, train, evaluate, save, finish."""

from __future__ import annotations

import atexit
import gc
import itertools
import os
import signal
import sys
import time
import warnings
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import torch

from relax_exp.config.identity import run_path
from relax_exp.data import DataError
from relax_exp.errors import RunError, SettingError
from relax_exp.report.tables import run_printed
from relax_exp.run_files import CHECKPOINT
from relax_exp.runs import checkpoint, provenance
from relax_exp.runs import device as devices
from relax_exp.runs.build import build_task, build_together, build_trainer
from relax_exp.runs.folder import OVER, RunFolder, is_locked, shown, status
from relax_exp.runs.loggers import Console, Row
from relax_exp.runs.record import Record
from relax_exp.tasks.registry import TASKS

CHECKPOINT_SECONDS = 60.0  # at least this long from one checkpoint to the next; what comes after it is done again


def execute(config: dict, others: Sequence[tuple[dict, str]] = ()) -> int:
    """Run ``config`` (from `relax_exp.config.resolve`) to its end.

    It continues what was interrupted and does nothing where the run is finished. KeyboardInterrupt or SystemExit(143)
    comes after SIGINT or SIGTERM, with everything saved.

    Args:
        config: The run.
        others: Runs on other data sets, each with its command, that are to come later and differ from this one in
            nothing else. On a GPU those that stand at the same step are trained together with it.

    Returns:
        1 if a replica of this run failed, else 0.

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
    chosen = [(config, provenance.command_line())]
    if others and trains_together(device) and (at := checkpoint.position(path)) is not None:
        paths = [run_path(other) for other, _ in others]
        free = [status(it) not in OVER and not is_locked(it) and checkpoint.position(it) == at for it in paths]
        chosen += itertools.compress(others, free)
    with ExitStack() as stack, torch.no_grad():
        tasks: list[Any] = []
        folders: list[RunFolder] = []
        for it, command in chosen:
            try:
                task = build(it, device)
                folders.append(stack.enter_context(RunFolder(run_path(it), it, command)))
                tasks.append(task)
            except (DataError, RunError) as error:
                if it is config:
                    raise
                say(f"{run_path(it)} is left for later: {error}")  # its own job says it again
        return Run(tasks, folders, device).finish()


def build(config: dict, device: torch.device) -> Any:
    """Build the task of a run.

    Raises:
        SettingError: A batch has more images than the training set.
        DataError: Its data cannot be had.
    """
    task = build_task(config, device)
    if task.data is not None and config["batch_size"] > len(task.data):
        raise SettingError(f"batch_size={config['batch_size']}, but the training set has {len(task.data)} images only")
    return task


def trains_together(device: torch.device) -> bool:
    """Tell whether runs on different data sets are trained as one program there; a CPU gains nothing by it."""
    return device.type != "cpu"


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
    """Claimed run folders, of one run or of several that are trained together, from wherever they stand to the end."""

    def __init__(self, tasks: list, folders: list[RunFolder], device: torch.device):
        config, task = folders[0].config, tasks[0]
        self.config, self.task = config, task
        self.steps, self.eval_every = config["steps"], config["eval_every"]
        self.compiled = should_compile(config, task)
        if self.compiled and (obstacle := devices.compile_obstacle(device)):
            say(f"{obstacle}: running without it (slower)")
            self.compiled = False
        if "environment_state" in task.meta and (folders[0].path / CHECKPOINT).exists():  # it takes a while
            say(task.meta["environment_state"])
        given = config["seeds"], config["lrs"], device, self.compiled
        self.replicas = build_trainer(task, *given) if len(tasks) == 1 else build_together(tasks, *given)
        known = {"compiled": self.compiled, "device": devices.description(device)}
        if len(folders) > 1:
            known["trained_together"] = [str(folder.path) for folder in folders]
        parts = [self.replicas] if len(tasks) == 1 else self.replicas.parts
        self.records = [
            Record(task, folder, part, known) for task, folder, part in zip(tasks, folders, parts, strict=True)
        ]
        if len({record.position for record in self.records}) > 1:
            raise RunError("these runs do not stand at the same step any more: type the command again")
        self._ticked, self._stop_signal = False, 0
        self._compiling, self._evaluation_compiled = False, not self.compiled

    @property
    def step(self) -> int:
        """The number of steps taken so far."""
        return self.replicas.taken

    @property
    def over(self) -> bool:
        """True where nothing is left to train and evaluate."""
        return all(record.over for record in self.records)

    def finish(self) -> int:
        """Train, evaluate and save to the end; then write tables and TensorBoard's closing pages.

        Returns:
            1 if a replica of the first run failed, else 0.
        """
        for record in self.records:
            if record.resumed:
                say(f"continuing {record.path} at step {self.step}")
            else:
                many = f"{len(record.labels)} replica{'s' * (len(record.labels) > 1)}"
                say(f"{many} on {self.replicas.device}{', compiled' * self.compiled} -> {record.path}")
        if len(self.records) > 1:
            say(f"these {len(self.records)} runs are trained together: they differ in their data alone")
        now = time.monotonic()
        elapsed = max(record.elapsed for record in self.records)
        self._started, self._saved, self._last = now - elapsed, now, (self.step, now)
        tracked = tuple(f"track/{name}/log_variance" for name in self.config["track"])
        self.console = Console(self.steps, self.step, TASKS[self.task.name].headline + tracked)
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
            for record in self.records:
                record.close()
                print(run_printed(record.path))
                say(f"metrics, table and TensorBoard files are in {record.path}")
        finally:
            gc.unfreeze()
            self.console.close()
            for record in self.records:
                record.tensorboard.close()
            for number, handler in previous.items():
                signal.signal(number, handler)
        return int(bool(self.records[0].failed))

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
        for record in self.records:
            record.save(time.monotonic() - self._started)
        self._saved = time.monotonic()

    def _warm_up(self) -> None:
        """Take the updates of the estimators alone, before the first step."""
        if self.step == 0 and self.task.warmup:
            for _ in self.replicas.warm_up(self.task.warmup):
                self._tick()
            self._last = (0, time.monotonic())

    def _advance(self) -> None:
        """Go on to the next evaluation, which may be due already where a run was stopped right before it."""
        evaluated = next(record.evaluated for record in self.records if not record.over)
        target = min(self.steps, (evaluated // self.eval_every + 1) * self.eval_every)
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
        timing: Row = {"time/elapsed": now - self._started, "time/steps_per_second": speed}
        if not self._evaluation_compiled:  # programs are compiled the first time, from a checkpoint on
            self._save()
            self._compiling = not self._stop_signal
        records = [record for record in self.records if not record.over]
        measured = [record.measure(step == self.steps or self.replicas.finished) for record in records]
        self._compiling, self._evaluation_compiled = False, True
        rows = [[row | timing for row in found] for found, _ in measured]
        for record, new, (_, failures) in zip(records, rows, measured, strict=True):
            record.append(new, failures)
        if self.over or time.monotonic() - self._saved > CHECKPOINT_SECONDS:
            self._save()
        for record, new in zip(records, rows, strict=True):
            record.show(new, self.console, record.config["task"]["dataset"] if len(self.records) > 1 else "")
        self._last = (step, time.monotonic())
