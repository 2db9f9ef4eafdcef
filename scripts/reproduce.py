"""The papers' experiments, one ``relax-exp experiment=NAME budget=BUDGET`` after the other, then tables and figures.

``make reproduce-all BUDGET=smoke|cpu|published|paper JOBS=1`` and ``make report BUDGET=...``. It may be stopped at any
moment, by any means: the same command goes on. Several may run at once, also on machines that share the disk.
"""

from __future__ import annotations

import argparse
import shlex
import signal
import sys
import time
import traceback
from pathlib import Path

from tabulate import tabulate

from relax_exp.cli.main import main as relax_exp
from relax_exp.config import plans as experiments
from relax_exp.config.plans import Planned
from relax_exp.errors import ConfigError
from relax_exp.runs.folder import OVER, is_locked, status

STOPPED = 130

Plans = dict[str, list[Planned]]


def left(runs: list[Planned]) -> list[Planned]:
    """The runs that are not over."""
    return [run for run in runs if status(run.path) not in OVER]


def table(plans: Plans) -> str:
    """The plan: runs, what is finished of them and what is to do, for each experiment and together."""
    together = list({run.path: run for runs in plans.values() for run in runs}.values())
    rows = [
        [name, len(runs), len(runs) - len(left(runs)), len(left(runs))]
        for name, runs in [*plans.items(), *([("together", together)] if len(plans) > 1 else [])]
    ]
    return tabulate(rows, ["experiment", "runs", "finished", "to do"])


def run_all(plans: Plans, args: argparse.Namespace) -> bool:
    """Run what is left of every experiment; tell whether that was stopped by Ctrl-C."""
    launcher = ["hydra/launcher=joblib", f"hydra.launcher.n_jobs={args.jobs}"] if args.jobs > 1 else []
    for name, runs in plans.items():
        while left(runs):
            sys.argv = ["relax-exp", f"experiment={name}", f"budget={args.budget}", *args.overrides, *launcher]
            print(shlex.join(sys.argv), flush=True)
            if relax_exp() == STOPPED:
                return True
            elsewhere = [run for run in left(runs) if is_locked(run.path)]
            if not elsewhere:
                break  # what is left has failed
            print(*(f"another process writes {run.path}: waiting for it" for run in elsewhere), sep="\n", flush=True)
            while any(is_locked(run.path) for run in elsewhere):
                time.sleep(1)
    return False


def report(plans: Plans, budget: str, out: Path) -> list[str]:
    """Tables and figures of every experiment that has a run; what went wrong."""
    from relax_exp.report.results import collect

    problems = []
    for name, runs in plans.items():
        there = [run for run in runs if status(run.path) != "missing"]
        missing = [shlex.join(["relax-exp", *run.overrides]) for run in runs if run not in there]
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
    if not args.report:
        print(table(plans), flush=True)
        if args.plan:
            return 0
        try:
            stopped = run_all(plans, args)
        except KeyboardInterrupt:
            stopped = True
        if stopped:
            print("\nstopped; the same command goes on", file=sys.stderr)
            return STOPPED
    out = Path("runs/results-smoke" if args.budget == "smoke" else "results")
    problems = report(plans, args.budget, out)
    everything = {run.path: run for runs in plans.values() for run in runs}
    wrong = ("failed",) if args.report else ("failed", "interrupted", "missing", "running")
    failed = [run for run in everything.values() if status(run.path) in wrong]
    if failed:
        print(f"\n{len(failed)} of {len(everything)} runs failed:")
    print(*(f"{shlex.join(['relax-exp', *run.overrides])}: {status(run.path)}" for run in failed), *problems, sep="\n")
    return int(bool(failed or problems))


if __name__ == "__main__":
    sys.exit(main())
