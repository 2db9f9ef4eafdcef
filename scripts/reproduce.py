"""The papers' experiments: what is missing is run, then every table and figure is made from the run folders.

``make reproduce-all BUDGET=smoke|cpu|published|paper JOBS=1`` and ``make report BUDGET=...``. It may be stopped at any
moment, by any means: the same command goes on. Several may run at once, also on machines that share the disk.
"""

from __future__ import annotations

import argparse
import ctypes
import shlex
import signal
import subprocess
import sys
import time
import traceback
from collections import deque
from pathlib import Path

from tabulate import tabulate
from timing import Estimate, estimate

from relax_exp.config import plans as experiments
from relax_exp.config.plans import Planned
from relax_exp.errors import ConfigError
from relax_exp.report.statistics import duration
from relax_exp.runs.folder import is_locked, status

LOGS = Path("runs/.logs")
OVER = ("done", "failed")

Plans = dict[str, list[Planned]]


def command(run: Planned) -> str:
    """What to type for a run."""
    return shlex.join(["relax-exp", *run.overrides])


def log_of(run: Planned) -> Path:
    """The file with all that the run's last attempt said."""
    return LOGS / f"{run.config['task']['name']}-{run.path.name}.log"


def table(plans: Plans, costs: dict[Path, Estimate], jobs: int) -> str:
    """The plan: runs, what is finished, and what the rest will take, for each experiment and together."""
    everything = {run.path: run for runs in plans.values() for run in runs}
    rows = []
    for name, runs in [*plans.items(), *([("together", [*everything.values()])] if len(plans) > 1 else [])]:
        todo = [run for run in runs if status(run.path) not in OVER]
        known = [costs[run.path] for run in todo]
        seconds, size = (sum(filter(None, values)) for values in zip(*known, strict=True)) if known else (0, 0)
        unknown = sum(cost.seconds is None for cost in known)
        took = duration(seconds / jobs) + (f" + {unknown} unknown" if unknown else "") if todo else "-"
        rows.append([name, len(runs), len(runs) - len(todo), len(todo), took, f"{size / 1e6:,.0f} MB" if todo else "-"])
    return tabulate(rows, ["experiment", "runs", "finished", "to do", "time", "disk"], disable_numparse=True)


def run_all(todo: list[Planned], jobs: int, costs: dict[Path, Estimate]) -> dict[Path, str]:
    """Run each in a process of its own, ``jobs`` at a time; why runs failed. Stops them where it is stopped itself."""
    LOGS.mkdir(parents=True, exist_ok=True)
    waiting, running, failed, left = deque(todo), {}, {}, len(todo)
    elsewhere: set[Path] = set()
    try:
        while waiting or running:
            for _ in range(len(waiting)):
                if len(running) == jobs:
                    break
                run = waiting.popleft()
                if is_locked(run.path):  # by another of these, or by a run that is just saving itself
                    if run.path not in elsewhere:
                        print(f"another process writes {run.path}: waiting for it", flush=True)
                    elsewhere.add(run.path)
                    waiting.append(run)
                elif status(run.path) in OVER:
                    left -= 1
                else:
                    seconds = costs[run.path].seconds
                    about = "" if seconds is None else f"  (about {duration(seconds)})"
                    print(f"{left} left: {command(run)}{about}", flush=True)
                    running[_start(run)] = run
                    left -= 1
            time.sleep(0.05 if running else 1.0)
            for process in [process for process in running if process.poll() is not None]:
                run = running.pop(process)
                if process.returncode and is_locked(run.path):  # another was first
                    waiting.append(run)
                    left += 1
                elif process.returncode:
                    failed[run.path] = _last_line(run, process.returncode)
                    print(f"FAILED: {command(run)}: {failed[run.path]}", flush=True)
    finally:
        for process in running:
            process.terminate()
        for process in running:
            process.wait()
    return failed


def _start(run: Planned) -> subprocess.Popen:
    script = Path(sys.executable).with_name("relax-exp")
    program = [str(script)] if script.exists() else [sys.executable, "-m", "relax_exp"]
    # A session of its own: what is typed here stops it once, not twice.
    with log_of(run).open("w") as log:
        return subprocess.Popen(
            [*program, *run.overrides],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=_end_with_parent if sys.platform == "linux" else None,
        )


def _end_with_parent() -> None:
    """Have the kernel send this process SIGTERM, at which a run saves itself, when its parent is gone."""
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG


def _last_line(run: Planned, code: int) -> str:
    lines = log_of(run).read_text(errors="replace").strip().splitlines() or [f"exit code {code}"]
    reason = "a replica failed" if status(run.path) == "failed" else lines[-1].removeprefix("relax-exp: error: ")
    return f"{reason} (all of it: {log_of(run)})"


def report(plans: Plans, budget: str, out: Path) -> list[str]:
    """Tables and figures of every experiment that has a run; what went wrong."""
    from relax_exp.report.results import collect

    problems = []
    for name, runs in plans.items():
        there = [run for run in runs if status(run.path) != "missing"]
        missing = [command(run) for run in runs if run not in there]
        if not there:
            print(f"{name}: no run yet")
            continue
        try:
            written = collect(name, [run.path for run in there], out, budget, missing)
            print(f"{name}: {len(there)} of {len(runs)} runs, {len(written)} files in {out / name}", flush=True)
        except Exception as error:
            traceback.print_exception(error)
            problems.append(f"report of {name}: {error}")
    return problems


def parser() -> argparse.ArgumentParser:
    """The command line."""
    out = argparse.ArgumentParser(description="Run the papers' experiments, then make their tables and figures.")
    out.add_argument("overrides", nargs="*", metavar="key=value", help="select runs, or are added to every run")
    out.add_argument("--budget", choices=experiments.BUDGETS, default="cpu", help="default: cpu")
    out.add_argument("--jobs", type=int, default=1, metavar="N", help="runs at a time, a process each (default: 1)")
    out.add_argument("--experiments", metavar="NAME,NAME", help=f"default: {','.join(experiments.names())}")
    what = out.add_mutually_exclusive_group()
    what.add_argument("--plan", action="store_true", help="print the plan and end")
    what.add_argument("--report", action="store_true", help="run nothing: tables and figures of what is there")
    return out


def main() -> int:
    """0; 1 if a run or a report failed; 2 if the command or an experiment is wrong; 130 or 143 if stopped."""
    args = parser().parse_args()
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        names = args.experiments.split(",") if args.experiments else experiments.names()
        plans = {name: experiments.planned(name, args.budget, args.overrides) for name in names}
        if args.jobs < 1:
            raise ConfigError(f"--jobs {args.jobs}: must be at least 1")
    except ConfigError as error:
        print(f"reproduce: error: {error}", file=sys.stderr)
        return 2
    try:
        return carry_out(plans, args)
    except KeyboardInterrupt:
        print("\nstopped; the same command goes on", file=sys.stderr)
        return 130


def carry_out(plans: Plans, args: argparse.Namespace) -> int:
    """Plan, runs, report, and what failed. The exit code."""
    everything = list({run.path: run for runs in plans.values() for run in runs}.values())
    failed: dict[Path, str] = {}
    if not args.report:
        todo = [run for run in everything if status(run.path) not in OVER]
        costs = estimate(todo)
        print(table(plans, costs, args.jobs), flush=True)
        if args.plan:
            return 0
        # Short ones first: whenever this is stopped, most is complete.
        todo.sort(key=lambda run: costs[run.path].seconds or 0.0)
        failed = run_all(todo, args.jobs, costs)
    out = Path("runs/results-smoke" if args.budget == "smoke" else "results")
    problems = report(plans, args.budget, out)
    for run in everything:
        if status(run.path) == "failed":
            failed.setdefault(run.path, "a replica failed")
    lines = [f"{command(run)}\n    {failed[run.path]}" for run in everything if run.path in failed]
    if lines or problems:
        print(f"\n{len(lines)} of {len(everything)} runs failed:" if lines else "", *lines, *problems, sep="\n")
    return int(bool(lines or problems))


if __name__ == "__main__":
    sys.exit(main())
