"""What one run leaves in its folder as it goes on: metrics, checkpoints, TensorBoard, its status and its table."""

from __future__ import annotations

import json
import re
from typing import Any

from relax_exp.config.identity import label
from relax_exp.report.tables import run_table
from relax_exp.run_files import CHECKPOINT, DONE, FAILED, METRICS, RUNNING
from relax_exp.runs import checkpoint
from relax_exp.runs.atomic_write import write_atomically
from relax_exp.runs.folder import RunFolder
from relax_exp.runs.loggers import Console, MetricsFile, Row, TensorBoard, clean, gif
from relax_exp.tasks.registry import TASKS


class Record:
    """A claimed run folder with everything that writes to it, and the replicas whose numbers these are.

    It takes up where the folder's checkpoint is. ``known`` goes into meta.json.

    Attributes:
        evaluated: The step of the last evaluation.
        failed: Reasons by replica, as reported up to then.
        elapsed: Seconds of work up to the checkpoint.
        resumed: Whether there was one.
    """

    def __init__(self, task, folder: RunFolder, replicas, known: dict[str, Any]):
        self.config, self.task, self.folder, self.replicas, self.known = folder.config, task, folder, replicas, known
        self.path, self.labels = folder.path, replicas.labels
        self.checkpoint_path = self.path / CHECKPOINT
        self.evaluated, self.failed, self.elapsed, size = 0, {}, 0.0, 0
        self.resumed = self.checkpoint_path.exists()
        if self.resumed:
            replicas.saved, extra = checkpoint.load(self.checkpoint_path, replicas.saved)
            self.evaluated, self.failed = extra["evaluated"], extra["failed"]
            self.elapsed, size = extra["elapsed"], extra["metrics_size"]
        self.file = MetricsFile(self.path / METRICS, size)
        self.tensorboard = TensorBoard(self.path / "tb", self.labels, self.file.rows(), task.measured_on, self.over)

    @property
    def over(self) -> bool:
        """True where nothing is left to train and evaluate."""
        here = self.evaluated == self.replicas.taken
        done = self.evaluated == self.config["steps"] or (self.replicas.finished and here)
        return done or len(self.failed) == len(self.labels)

    @property
    def position(self) -> tuple[int, int, int]:
        """The steps taken, the updates of the estimator, and the step of the last evaluation."""
        return self.replicas.taken, int(self.replicas.state.tuning_t[0]), self.evaluated

    def save(self, elapsed: float) -> None:
        """Write a checkpoint."""
        checkpoint.save(
            self.checkpoint_path,
            self.replicas.saved,
            position=self.position,
            evaluated=self.evaluated,
            failed=self.failed,
            metrics_size=self.file.size,
            elapsed=elapsed,
        )
        self.folder.update_meta(saved_step=self.replicas.taken)

    def measure(self, final: bool) -> tuple[list[Row], dict[int, str]]:
        """Return a row of metrics for every replica that has not failed before, and why which have failed by now."""
        step, means, failures = self.replicas.taken, self.replicas.means(), self.replicas.failures()
        alive = [i for i in range(len(self.labels)) if i not in failures]
        values = dict(zip(alive, self.replicas.evaluate(alive, step, final), strict=True)) if alive else {}
        rows: list[Row] = []
        for i, (seed, lr) in enumerate(self.labels):
            if i in self.failed:
                continue
            row = {"step": step, "seed": seed, "lr": lr, **means[i], **values.get(i, {})}
            if i in failures:
                row["failed"] = failures[i]
            rows.append(clean(row))
        return rows, failures

    def append(self, rows: list[Row], failures: dict[int, str]) -> None:
        """Write what was measured, and begin the means of the next interval."""
        self.file.append(rows)
        self.replicas.clear_means()
        self.evaluated, self.failed = self.replicas.taken, failures

    def show(self, rows: list[Row], console: Console, name: str = "") -> None:
        """Put rows, and pictures of the models, into TensorBoard, and the headline on the console, under a name."""
        self.tensorboard.add(rows, last=self.over)
        if alive := self._alive():
            models = self.replicas.models(alive)
            for k, i in enumerate(alive):
                pictures = self.task.images(models, k, self.labels[i][0])
                self.tensorboard.images(self.labels[i], pictures, self.evaluated)
        for row in rows:
            if "failed" in row:
                whose = f"{name}, " if name else ""
                console.say(f"{whose}{label(row['seed'], row['lr'])} failed: {row['failed']}")
        console.rows(rows, self.task.measured_on, name)
        self._write_status()

    def close(self) -> None:
        """Write files and pages of the end; the run counts as finished once they are all there."""
        path, rows, alive = self.path, self.file.rows(), self._alive()
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
                    self.tensorboard.film(self.labels[i], name, film, self.evaluated)
                    write_atomically(path / f"{name}_{label(*self.labels[i])}.gif", gif(film))
        self._write_status()
        table = run_table(path)
        write_atomically(path / "table.md", table + "\n")
        for replica in self.labels:
            last = [row for row in rows if (row["seed"], row["lr"]) == replica][-1]
            there = [key for key in curves if isinstance(last.get(key), float)]
            self.tensorboard.finish(replica, self._hparams(*replica), there, table, self.evaluated)
        self.tensorboard.close()
        self.folder.update_meta(status=FAILED if self.failed else DONE)

    def _alive(self) -> list[int]:
        return [i for i in range(len(self.labels)) if i not in self.failed]

    def _write_status(self) -> None:
        """Write every replica's status into meta.json. The run itself counts as running until all is written."""
        replicas = []
        for i, (seed, lr) in enumerate(self.labels):
            status = FAILED if i in self.failed else DONE if self.over else RUNNING
            replicas.append({"seed": seed, "lr": lr, "status": status, "reason": self.failed.get(i)})
        known = {"evaluations": self.task.evaluations, **self.known, **self.task.meta}
        self.folder.update_meta(replicas=replicas, step=self.replicas.taken, **known)

    def _hparams(self, seed: int, lr: float) -> dict:
        sections = {f"{s}.{k}": v for s in ("task", "estimator") for k, v in self.config[s].items()}
        sections = {k.removesuffix(".name"): v for k, v in sections.items()}  # task and estimator, as they are typed
        sizes = {key: self.config[key] for key in ("steps", "batch_size")}
        flat = {"seed": seed, "lr": lr, **sizes, **sections}
        return {k: v if isinstance(v, int | float | str | bool) else str(v) for k, v in flat.items()}
