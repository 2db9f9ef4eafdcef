"""The command ``relax-exp-report``: tables and figures from run folders."""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import relax_exp

if TYPE_CHECKING:
    from relax_exp.report.report import Report
    from relax_exp.report.runs import Run


def gathered(
    paths: Sequence[str | Path], experiment: str | None = None, budget: str = ""
) -> tuple[list[Run], list[str]]:
    """Read the runs that can be read, with ``experiment`` its runs at that budget only.

    Returns:
        The runs, and what was left out and why.

    Raises:
        ReportError: There are none.
        ConfigError: There is no such experiment or budget.
    """
    from relax_exp.config.identity import run_hash
    from relax_exp.config.plans import compared
    from relax_exp.errors import ReportError
    from relax_exp.report.archive import gather

    runs, left_out = gather(paths)
    if runs and experiment is not None:
        hashes = [run_hash(run.config) for run in runs]
        wanted, missing = compared(experiment, budget, hashes)
        runs = [run for run, its in zip(runs, hashes, strict=True) if its in wanted]
        left_out += [f"{len(missing)} runs of experiment={experiment} budget={budget} are missing"] if missing else []
    if not runs:
        what = f"no runs of experiment={experiment} budget={budget}" if experiment else "no runs"
        raise ReportError("\n".join([*left_out, f"{what} found in {', '.join(map(str, paths))}"]))
    return runs, left_out


def write(report: Report, out: Path) -> list[Path]:
    """Write all files of a report and return their paths."""
    from relax_exp.report import tensorboard

    return [*report.write(out), tensorboard.write(report.tables, out)]


def check(paths: Sequence[str | Path]) -> list[str]:
    """Return where folders of results are not what their runs give, see `relax_exp.report.results.check`."""
    from relax_exp.report import results

    return [difference for folder in committed(paths) for difference in results.check(folder)]


def render(paths: Sequence[str | Path]) -> list[Path]:
    """Make the tables and figures in folders of results anew, and return the paths written."""
    from relax_exp.report import results

    return [path for folder in committed(paths) for path in results.render(folder)]


def committed(paths: Sequence[str | Path]) -> list[Path]:
    """Return the folders of results in the paths and below.

    Raises:
        ReportError: There are none.
    """
    from relax_exp.errors import ReportError
    from relax_exp.report.runs import find_results

    folders = find_results(paths)
    if not folders:
        raise ReportError(f"no results (folders with curves.csv and provenance.json) in {', '.join(map(str, paths))}")
    return folders


def parser() -> argparse.ArgumentParser:
    """Build the parser of the command line."""
    out = argparse.ArgumentParser(prog="relax-exp-report", description="Tables and figures from run folders.")
    out.add_argument("--version", action="version", version=f"relax-exp-report {relax_exp.__version__}")
    out.add_argument("runs", nargs="*", default=["runs"], metavar="RUNS", help="run folders, or folders above them")
    out.add_argument(
        "-o",
        "--out",
        metavar="DIR",
        help="where to write (default: report/ inside the first RUNS; with --collect: results/)",
    )
    committed = "folders of results, from their curves.csv and provenance.json"
    mode = out.add_mutually_exclusive_group()
    mode.add_argument("--status", action="store_true", help="list the runs and how far they are; write nothing")
    mode.add_argument(
        "--collect", metavar="NAME", help="put the runs into OUT/NAME, a folder of results to be committed"
    )
    mode.add_argument("--render", action="store_true", help=f"make tables and figures anew in {committed}")
    mode.add_argument("--check", action="store_true", help=f"say which tables differ, in {committed}")
    out.add_argument(
        "--experiment",
        metavar="NAME",
        help="only the runs of this experiment at this --budget; with --status also which of them are missing",
    )
    out.add_argument(
        "--budget",
        metavar="TEXT",
        default="",
        help="with --experiment: one of its budgets, as smoke; with --collect: what the runs were allowed, in words",
    )
    out.add_argument("--add", action="store_true", help="with --collect: keep the runs that OUT/NAME has already")
    by = "configuration keys (such as steps,batch_size) that tell rows apart where the report refuses to mix runs"
    out.add_argument("--by", metavar="KEYS", default="", help=by)
    return out


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Returns:
        The exit code: 0, 1 (something is missing or cannot be read, each with one message), 2 (what was asked for does
        not exist) or 130 (Ctrl-C).
    """
    args = parser().parse_args(argv)
    from relax_exp.errors import ConfigError, ReportError

    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal without θ or ±
    try:
        if wrong := _misused(args):
            print(f"relax-exp-report: {wrong}", file=sys.stderr)
            return 2
        if args.status:
            from relax_exp.cli.status import status

            text, left_out = status(args.runs, args.experiment, args.budget)
            print(text, flush=True)
            return _said(left_out)
        if args.collect:
            from relax_exp.report.results import collect

            written = collect(args.collect, args.runs, args.out or "results", args.budget, add=args.add)
            print(*(f"wrote {path}" for path in written), sep="\n", flush=True)
            return 0
        if args.check:
            differences = check(args.runs)
            print(*differences, *([] if differences else ["all as the committed runs give it"]), sep="\n", flush=True)
            return int(bool(differences))
        if args.render:
            print(*(f"wrote {path}" for path in render(args.runs)), sep="\n", flush=True)
            return 0
        from relax_exp.report.formats import printed
        from relax_exp.report.report import Report

        runs, left_out = gathered(args.runs, args.experiment, args.budget)
        made = Report(runs, [key for key in args.by.split(",") if key])
        written = write(made, Path(args.out or Path(args.runs[0]) / "report"))
        print(printed(made.tables, made.failures), "", *(f"wrote {path}" for path in written), sep="\n", flush=True)
        return _said(left_out)
    except BrokenPipeError:  # whoever was reading has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        print(file=sys.stderr)  # so that a prompt does not stand behind the terminal's ^C
        return 130
    except (ReportError, ConfigError) as error:
        print(f"relax-exp-report: {error}", file=sys.stderr)
        return 2 if isinstance(error, ConfigError) else 1
    except OSError as error:
        if error.filename is None:  # no file of the user's
            raise
        print(f"relax-exp-report: cannot read or write {error.filename}: {error.strerror}", file=sys.stderr)
        return 1
    return 0


def _misused(args: argparse.Namespace) -> str | None:
    """Say which option was given beside one that it has no meaning with; None where there is none."""
    mode = next((name for name in ("status", "collect", "check", "render") if getattr(args, name)), None)
    goes_with = {
        "add": (("collect",), "--collect NAME"),
        "by": ((None,), "a report, not with --{}"),
        "out": ((None, "collect"), "a report or --collect, not with --{}"),
        "experiment": ((None, "status"), "a report or --status, not with --{}: give the folders of its runs instead"),
        "budget": (("collect",), "--experiment NAME or --collect NAME"),
    }
    for name, (modes, what) in goes_with.items():
        allowed = mode in modes or (name == "budget" and args.experiment is not None)
        if getattr(args, name) and not allowed:
            return f"--{name} goes with {what.format(mode)}"
    return None


def _said(left_out: Sequence[str]) -> int:
    """Print what was left out, and return the exit code: 1 if that is anything."""
    for line in left_out:
        print(f"relax-exp-report: {line}", file=sys.stderr, flush=True)
    return int(bool(left_out))


if __name__ == "__main__":
    sys.exit(main())
