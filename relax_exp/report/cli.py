"""The command ``relax-exp-report``: tables and figures from run folders."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from relax_exp.report.cells import Cell


def load(paths: Sequence[str | Path], by: Sequence[str] = ()) -> list[Cell]:
    """The cells of all runs in the paths and below. ReportError where there are none, or where they would mix."""
    from relax_exp.report.cells import make_cells
    from relax_exp.report.read import ReportError, find_runs

    runs = find_runs(paths)
    if not runs:
        raise ReportError(f"no runs found in {', '.join(map(str, paths))}")
    return make_cells(runs, by)


def tables(paths: Sequence[str | Path], by: Sequence[str] = ()) -> str:
    """The tables of the runs, as Markdown."""
    from relax_exp.report.table import markdown

    return markdown(load(paths, by))


def report(paths: Sequence[str | Path], out: str | Path, by: Sequence[str] = ()) -> list[Path]:
    """Write ``table.md``, ``table.csv`` and every figure into ``out``; the paths written."""
    return write(load(paths, by), Path(out))


def write(cells: list[Cell], out: Path) -> list[Path]:
    """`report` of cells."""
    from relax_exp.report.figures import figures, save
    from relax_exp.report.read import ReportError
    from relax_exp.report.table import commands, markdown, to_csv
    from relax_exp.report.tracked import figures_of

    texts = {"table.md": f"{markdown(cells)}\n{commands(cells)}", "table.csv": to_csv(cells)}
    drawn = figures(cells) | figures_of(cells)
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            (out / name).write_text(text, encoding="utf-8")
        return [out / name for name in texts] + [path for name, fig in drawn.items() for path in save(fig, out / name)]
    except OSError as error:
        raise ReportError(f"cannot write to {out}: {error.strerror or error}") from None


def status(paths: Sequence[str | Path]) -> str:
    """Every run: folder, estimator, status, step, when it last wrote; and why replicas failed."""
    from tabulate import tabulate

    from relax_exp.report.columns import duration
    from relax_exp.report.read import FAILED, METRICS, ReportError, find_folders, read_run

    folders = find_folders(paths)
    if not folders:
        raise ReportError(f"no runs found in {', '.join(map(str, paths))}")
    lines, reasons = [], []
    for folder in folders:
        try:
            run = read_run(folder)
        except ReportError as error:
            lines.append([str(folder), "?", "?", "unreadable"])
            reasons.append(str(error))
            continue
        replicas = run.replicas()
        failed = [r for r in replicas if r.status == FAILED]
        what = run.status + (f" ({len(failed)} of {len(replicas)} replicas failed)" if failed else "")
        metrics = folder / METRICS
        age = f"{duration(max(0.0, time.time() - metrics.stat().st_mtime))} ago" if metrics.is_file() else "never"
        steps = f"{run.step:,} of {run.config.get('steps', 0):,}"
        lines.append([str(folder), run.task, run.estimator, what, steps, age])
        reasons += [f"{folder}: seed {r.seed}, lr {r.lr:g} failed: {r.reason or 'no reason given'}" for r in failed]
    table = tabulate(lines, ["run", "task", "estimator", "status", "step", "last written"], disable_numparse=True)
    return "\n".join([table, *([""] if reasons else []), *reasons])


def parser() -> argparse.ArgumentParser:
    """The command line."""
    out = argparse.ArgumentParser(prog="relax-exp-report", description="Tables and figures from run folders.")
    out.add_argument("runs", nargs="*", default=["runs"], metavar="RUNS", help="run folders, or folders above them")
    out.add_argument("-o", "--out", metavar="DIR", help="where to write (default: report/ inside the first RUNS)")
    out.add_argument("--status", action="store_true", help="list the runs and how far they are; write nothing")
    by = "configuration keys (such as steps,batch_size) that tell rows apart where the report refuses to mix runs"
    out.add_argument("--by", metavar="KEYS", default="", help=by)
    return out


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code 0, or 1 with one short message."""
    args = parser().parse_args(argv)
    from relax_exp.report.read import ReportError

    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="replace")  # a terminal without θ or ±
    try:
        if args.status:
            print(status(args.runs), flush=True)
            return 0
        from relax_exp.report.table import markdown

        cells = load(args.runs, [key for key in args.by.split(",") if key])
        written = write(cells, Path(args.out or Path(args.runs[0]) / "report"))
        print(markdown(cells), *(f"wrote {path}" for path in written), sep="\n", flush=True)
    except BrokenPipeError:  # whoever was reading has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except ReportError as error:
        print(f"relax-exp-report: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
