"""Where the numbers of a run go: ``metrics.jsonl`` (the truth), TensorBoard (a view of it) and the console."""

from __future__ import annotations

import json
import math
import os
import sys
from pathlib import Path

from tqdm import tqdm

Row = dict[str, float | int | None]


def label(seed: int, lr: float) -> str:
    """Name of a replica in folders and figures."""
    return f"seed-{seed}_lr-{lr:g}"


def clean(row: Row) -> Row:
    """NaN and infinity become None: JSON has neither."""
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()}


class MetricsFile:
    """``metrics.jsonl``: one line for each replica and evaluation, appended whole and synced.

    ``size`` bytes are known to belong to the checkpoint; whatever a killed process wrote after that is cut off.
    """

    def __init__(self, path: Path, size: int = 0):
        self.path = path
        with open(path, "ab") as file:
            file.truncate(size)
        self.size = size

    def append(self, rows: list[Row]) -> None:
        """Write rows in one go."""
        text = "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows).encode()
        with open(self.path, "ab") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        self.size += len(text)

    def rows(self) -> list[Row]:
        """All rows."""
        return [json.loads(line) for line in self.path.read_text().splitlines()]


class TensorBoard:
    """One TensorBoard run for each replica, below ``folder``; what was written after ``step`` is purged on resume."""

    def __init__(self, folder: Path, labels: list[tuple[int, float]], step: int):
        from torch.utils.tensorboard import SummaryWriter

        self.writers = [SummaryWriter(folder / label(*it), purge_step=step + 1 if step else None) for it in labels]

    def scalars(self, replica: int, row: Row) -> None:
        """One row of `MetricsFile`."""
        for key, value in row.items():
            if key not in ("step", "seed", "lr") and value is not None:
                self.writers[replica].add_scalar(key, value, row["step"])

    def images(self, replica: int, images: dict, step: int) -> None:
        """Grids of pictures ``(N, 1, H, W)``, eight in a row."""
        for name, batch in images.items():
            n, _, height, width = batch.shape
            columns = min(8, n)
            grid = batch.reshape(n // columns, columns, height, width).transpose(1, 2)
            self.writers[replica].add_image(name, grid.reshape(1, n // columns * height, columns * width), step)

    def finish(self, replica: int, hparams: dict, final: Row, table: str, step: int) -> None:
        """The hparams page and the final table, once at the end."""
        writer = self.writers[replica]
        writer.add_text("table", table, step)
        numbers = {f"final/{k}": v for k, v in final.items() if v is not None and k not in ("step", "seed", "lr")}
        if numbers:
            writer.add_hparams(hparams, numbers, run_name=".")

    def flush(self) -> None:
        """Hand everything to the disk."""
        for writer in self.writers:
            writer.flush()

    def close(self) -> None:
        """Close all files."""
        for writer in self.writers:
            writer.close()


class Console:
    """A progress bar on a terminal, otherwise one line for each evaluation."""

    def __init__(self, total: int, first: int, headline: tuple[str, ...]):
        self.headline = headline
        self.bar = tqdm(total=total, initial=first, unit="step", disable=not sys.stderr.isatty(), smoothing=0.1)

    def update(self, step: int) -> None:
        """Steps taken so far."""
        if not self.bar.disable:
            self.bar.update(step - self.bar.n)

    def say(self, text: str) -> None:
        """A line of its own."""
        self.bar.write(text, file=sys.stderr)

    def rows(self, rows: list[Row]) -> None:
        """The means over replicas of the headline metrics."""
        parts = []
        for key in self.headline:
            values = [row[key] for row in rows if row.get(key) is not None]
            if values:
                parts.append(f"{key} {sum(values) / len(values):.6g}")
        many = f" (mean of {len(rows)} replicas)" if len(rows) > 1 else ""
        self.say(f"step {rows[0]['step']}: {', '.join(parts)}{many}")

    def close(self) -> None:
        """End the bar."""
        self.bar.close()
