"""Where the numbers of a run go: ``metrics.jsonl`` (the truth), TensorBoard (a view of it) and the console."""

from __future__ import annotations

import io
import json
import math
import os
import shutil
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from tqdm import tqdm

from relax_exp.config.identity import label
from relax_exp.errors import RunError

Row = dict[str, Any]  # numbers, lists of them and texts by name
JOB = "RELAX_EXP_JOB"  # which job of a sweep this process does, where several are done at once
FILM, STRIP = 600, 8  # frames of a film, at most, and of a strip


def clean(row: Row) -> Row:
    """Replace NaN and infinity by None, since JSON has neither."""
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()}


def gif(frames, per_second: int = 15) -> bytes:
    """Make an animated GIF that repeats of the first `FILM` frames, uint8 ``(T, H, W)`` or ``(T, H, W, 3)``."""
    from PIL import Image

    first, *rest = (Image.fromarray(frame.numpy()) for frame in frames[:FILM])
    buffer = io.BytesIO()
    first.save(buffer, "GIF", save_all=True, append_images=rest, duration=1000 // per_second, loop=0)
    return buffer.getvalue()


class MetricsFile:
    """``metrics.jsonl``: one line for each replica and evaluation, appended whole and synced.

    ``size`` bytes are known to belong to the checkpoint; whatever a killed process wrote after that is cut off.
    RunError if there are less.
    """

    def __init__(self, path: Path, size: int = 0):
        self.path, self.size = path, size
        found = path.stat().st_size if path.exists() else 0
        if found < size:
            raise RunError(f"{path} has lost lines that the checkpoint beside it knows of: delete {path.parent}")
        if found > size:
            os.truncate(path, size)

    def append(self, rows: list[Row]) -> None:
        """Write rows in one go."""
        text = "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows).encode()
        with open(self.path, "ab") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        self.size += len(text)

    def rows(self) -> list[Row]:
        """Return all rows."""
        return [json.loads(line) for line in self.path.read_text().splitlines()] if self.size else []


class TensorBoard:
    """One TensorBoard run for each replica, below ``folder``, which starts with the ``rows`` of earlier processes.

    It is made anew when there is something to add: so it holds every number once, however those processes ended; their
    pictures are taken over. ``measured_on`` says of metrics on which part of the data they are, which their name shows;
    ``ended``, whether the last evaluation is among ``rows``.
    """

    def __init__(
        self,
        folder: Path,
        labels: list[tuple[int, float]],
        rows: list[Row],
        measured_on: Mapping[str, str] = MappingProxyType({}),
        ended: bool = False,
    ):
        self.folder, self.labels, self.earlier, self.measured_on = folder, labels, rows, measured_on
        self.ended = ended
        self.curves: set[str] = set()  # metrics that are there as curves
        self.writers: dict[tuple[int, float], Any] = {}

    def tag(self, key: str) -> str:
        """Return the name of a metric: ``valid/elbo, first 1,000 images``."""
        return f"{key}, {self.measured_on[key]}" if key in self.measured_on else key

    def _open(self) -> None:
        from torch.utils.tensorboard import SummaryWriter

        threading.excepthook = _unless_raised_again
        last = max((row["step"] for row in self.earlier), default=-1)
        pictures = {it: list(earlier_pictures(self.folder / label(*it), last)) for it in self.labels}
        shutil.rmtree(self.folder, ignore_errors=True)
        self.writers = {it: SummaryWriter(self.folder / label(*it)) for it in self.labels}
        self.begun = time.time() - max((row["time/elapsed"] for row in self.earlier), default=0.0)
        for it, events in pictures.items():
            for event in events:
                self.writers[it].file_writer.event_writer.add_event(event)
        self.add([row for row in self.earlier if row["step"] < last])
        self.add([row for row in self.earlier if row["step"] == last], last=self.ended)

    def add(self, rows: list[Row], last: bool = False) -> None:
        """Write the scalars of rows, at the times at which they would have come had the run not been interrupted.

        What is measured at the ``last`` evaluation alone is left to the table, since a curve of it were one point.
        """
        if not self.writers:
            self._open()
        known = set(self.curves) if last and self.curves else None
        for row in rows:
            writer, seconds = self.writers[row["seed"], row["lr"]], self.begun + row["time/elapsed"]
            for key, value in row.items():
                if key in ("step", "seed", "lr") or not isinstance(value, int | float):
                    continue
                if known is None or key in known:
                    self.curves.add(key)
                    writer.add_scalar(self.tag(key), value, row["step"], walltime=seconds)
        for writer in self.writers.values():
            writer.flush()

    def charts(self, pages: dict[str, dict[str, str]]) -> None:
        """Add pages of custom scalars: each chart draws, of all runs, the metrics that match its regular expression."""
        layout = {page: {name: ["Multiline", [at]] for name, at in charts.items()} for page, charts in pages.items()}
        for writer in self.writers.values():
            writer.add_custom_scalars(layout)

    def images(self, replica: tuple[int, float], images: dict, step: int) -> None:
        """Add grids of pictures ``(N, C, H, W)``, eight in a row, under captions of what they show."""
        for name, batch in images.items():
            n, channels, height, width = batch.shape
            columns = min(8, n)
            grid = batch.reshape(n // columns, columns, channels, height, width).permute(2, 0, 3, 1, 4)
            self.writers[replica].add_image(name, grid.reshape(channels, n // columns * height, -1), step)

    def film(self, replica: tuple[int, float], name: str, frames, step: int) -> None:
        """Add frames ``(T, H, W)`` or ``(T, H, W, 3)``, uint8, as a film and as a strip of eight of them.

        TensorBoard shows an animated GIF that is stored as an image; its own ``add_video`` needs another package.
        """
        from tensorboard.compat.proto.summary_pb2 import Summary  # pyright: ignore[reportAttributeAccessIssue]  # made when imported

        height, width = frames.shape[1:3]
        moving = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=gif(frames))
        film = Summary.Value(tag=f"evaluation {name}", image=moving)
        self.writers[replica].file_writer.add_summary(Summary(value=[film]), step)
        chosen = frames[[round(i * (len(frames) - 1) / (STRIP - 1)) for i in range(STRIP)]]
        chosen = chosen.unsqueeze(1) if chosen.dim() == 3 else chosen.permute(0, 3, 1, 2)
        self.images(replica, {f"evaluation {name}, {STRIP} of its frames": chosen / 255}, step)

    def finish(self, replica: tuple[int, float], hparams: dict, metrics: list[str], table: str, step: int) -> None:
        """Add the hparams page, once at the end, and the final table, once a run.

        The page shows the last value of each of ``metrics`` that is there as a curve.
        """
        from torch.utils.tensorboard.summary import hparams as summaries

        writer = self.writers[replica]
        if replica == self.labels[0]:
            writer.add_text("table", table, step)
        for summary in summaries(hparams, {self.tag(key): 0.0 for key in metrics if key in self.curves}):
            writer.file_writer.add_summary(summary)

    def close(self) -> None:
        """Close all files."""
        for writer in self.writers.values():
            writer.close()
        threading.excepthook = threading.__excepthook__


def _unless_raised_again(args) -> None:
    """Print what ended a thread, except that TensorBoard's threads hand errors of writing to whoever writes next."""
    if not isinstance(args.exc_value, OSError):
        threading.__excepthook__(args)


def earlier_pictures(folder: Path, last: int) -> Iterator[Any]:
    """Return the events with pictures up to the step ``last`` in a folder of TensorBoard's files, if it is there."""
    from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader

    for path in sorted(folder.glob("events.out.tfevents.*")):
        for event in LegacyEventFileLoader(str(path)).Load():
            if event.step <= last and any(value.HasField("image") for value in event.summary.value):
                yield event


class Console:
    """A progress bar on a terminal, otherwise one line for each evaluation."""

    def __init__(self, total: int, first: int, headline: tuple[str, ...]):
        self.headline = headline
        self.bar = tqdm(total=total, initial=first, unit="step", disable=not sys.stderr.isatty(), smoothing=0.1)

    def update(self, step: int) -> None:
        """Show the number of steps taken so far."""
        if not self.bar.disable:
            self.bar.update(step - self.bar.n)

    def restart(self, step: int) -> None:
        """Count the rate from here on."""
        if not self.bar.disable:
            self.bar.reset()
            self.bar.initial = self.bar.n = self.bar.last_print_n = step
            self.bar.refresh()

    def say(self, text: str) -> None:
        """Print a line of its own."""
        job = os.environ.get(JOB)
        self.bar.write(f"[job {job}] {text}" if job else text, file=sys.stderr)

    def rows(self, rows: list[Row], measured_on: Mapping[str, str] = MappingProxyType({}), name: str = "") -> None:
        """Print the means over replicas of the headline metrics, if there are rows.

        ``measured_on`` says of metrics on which part of the data they are, as in `TensorBoard`; ``name``, of which of
        several runs they are.
        """
        if not rows:
            return
        parts = []
        for key in self.headline:
            values = [row[key] for row in rows if row.get(key) is not None]
            if values:
                part = f" ({measured_on[key]})" if key in measured_on else ""
                parts.append(f"{key}{part} {sum(map(float, values)) / len(values):.6g}")
        many = f" (mean of {len(rows)} replicas)" if len(rows) > 1 else ""
        whose = f"{name}, " if name else ""
        self.say(f"{whose}step {rows[0]['step']}: {', '.join(parts)}{many}")

    def close(self) -> None:
        """End the progress bar."""
        self.bar.close()
