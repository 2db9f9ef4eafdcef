"""Results: a committed folder for each experiment, whose tables and figures are made from its own files alone.

`collect` puts runs into a folder (`relax_exp.report.archive`), `render` makes everything else from what is there, and
`check` says where what is there is not what `render` would make. Prose belongs into README.md outside of the marks.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from relax_exp.config.identity import run_hash
from relax_exp.errors import ReportError
from relax_exp.report import archive
from relax_exp.report.papers.readme import PAGE, inserted
from relax_exp.report.report import Report
from relax_exp.report.runs import CURVES, PROVENANCE, Run, find_folders, read_run
from relax_exp.report.studies import STUDIES
from relax_exp.run_files import DONE

README, BEGIN, END = "README.md", "<!-- made from the files here: write below the closing mark -->", "<!-- end -->"


def collect(
    name: str,
    folders: Iterable[str | Path],
    out: str | Path,
    budget: str = "",
    missing: Sequence[str] = (),
    add: bool = False,
) -> list[Path]:
    """Put the runs in ``folders`` (and below) into ``out``/``name`` with their tables and figures.

    Args:
        name: The experiment.
        folders: Where the runs are.
        out: Where the folders of results are.
        budget: What the runs were allowed, in words.
        missing: What was planned and not run, for instance commands.
        add: Keep the runs that are in ``out``/``name`` already, but for those that ``folders`` hold too (by their
            hashes), and what is said there of ``budget`` and ``missing``, where neither is given.

    Returns:
        The paths written.

    Raises:
        ReportError: There are no runs, one cell would mix configurations, or one cannot write.
    """
    runs = [read_run(folder) for folder in find_folders(folders)]
    if not runs:
        raise ReportError(f"no runs found in {', '.join(map(str, folders))}")
    folder = Path(out) / name
    if add and (folder / PROVENANCE).is_file():
        about, before = archive.read(folder)
        new = {run_hash(archive.without_paths(run.config)) for run in runs}
        runs += [run for run in before if run_hash(archive.without_paths(run.config)) not in new]
        budget, missing = budget or about.get("budget", ""), missing or about.get("missing", ())
    _ = Report(runs).cells  # refuses before anything is written
    try:
        written = archive.write(runs, folder, experiment=name, budget=budget, missing=list(missing))
    except OSError as error:
        raise ReportError(f"cannot write to {folder}: {error.strerror or error}") from None
    return written + render(folder)


def render(folder: str | Path) -> list[Path]:
    """Make tables, figures, summary and README.md of a folder of results from its other files.

    The headline in the README two folders above is made too, if it has marks for one, see
    `relax_exp.report.papers.readme`.

    Returns:
        The paths written.
    """
    folder = Path(folder)
    about, runs = archive.read(folder)
    report = Report(runs)
    paths = report.write(folder)
    readme = folder / README
    readme.write_text(_inserted(_read(readme), about, runs, folder), encoding="utf-8")
    page, text = folder / PAGE, _read(folder / PAGE)
    if (new := inserted(text, about.get("experiment", folder.name), report.cells)) == text:
        return [*paths, readme]
    page.write_text(new, encoding="utf-8")
    return [*paths, readme, page]


def check(folder: str | Path) -> list[str]:
    """Return what `render` would write differently, and tables that it would not write, a line for each file.

    Figures are not compared.

    The list is empty where all is as it was.
    """
    folder = Path(folder)
    about, runs = archive.read(folder)
    report = Report(runs)
    texts = report.texts()
    texts[README] = _inserted(_read(folder / README), about, runs, folder)
    texts[PAGE] = inserted(_read(folder / PAGE), about.get("experiment", folder.name), report.cells)
    others = sorted({path.name for path in folder.glob("*.csv")} - {*texts, CURVES})
    differences = [f"{folder / name}: the committed runs give no such table any more" for name in others]
    for name, text in texts.items():
        there = _read(folder / name).splitlines()
        for number, (new, old) in enumerate(_aligned(text.splitlines(), there), 1):
            if new != old:
                what = "is missing" if old is None else f"is {old!r}"
                differences.append(f"{folder / name}: line {number} {what}, but the committed runs give {new!r}")
                break
    return differences


def _aligned(new: list[str], old: list[str]) -> Iterable[tuple[str | None, str | None]]:
    size = max(len(new), len(old))
    pad: list[list[str | None]] = [[*lines, *[None] * (size - len(lines))] for lines in (new, old)]
    return zip(*pad, strict=True)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return ""


def _inserted(text: str, about: dict[str, Any], runs: list[Run], folder: Path) -> str:
    """Return README.md with its generated part made anew; what is written around the marks stays."""
    part = f"{BEGIN}\n{_about(about, runs)}{END}\n"
    before, mark, rest = text.partition(f"{BEGIN}\n")
    if not mark:
        return f"# {about.get('experiment', folder.name)}\n\n{part}" + (f"\n{text}" if text else "")
    return before + part + rest.partition(f"{END}\n")[2]


def _about(about: dict[str, Any], runs: list[Run]) -> str:
    """Say where the numbers come from: budget, dates, machines, versions, commits, what is missing."""
    metas = [run.meta for run in runs]
    starts = sorted(m["start"][:10] for m in metas if m.get("start"))
    ends = sorted((m.get("end") or m["start"])[:10] for m in metas if m.get("start"))
    machines = [_machine(m["hardware"], m.get("device", "cpu")) for m in metas if m.get("hardware")]
    versions = [f"{name} {m['versions'].get(name)}" for m in metas if m.get("versions") for name in ("python", "torch")]
    commits = [m["git"]["commit"][:10] + " + changes" * m["git"]["dirty"] for m in metas if m.get("git")]
    unfinished = [f"{r.run.label} (seed {r.seed}, lr {r.lr:g}): {r.status}" for run in runs if run.task not in STUDIES
                  for r in run.replicas() if r.status != DONE]  # fmt: skip
    lines = {
        "budget": about.get("budget") or "",
        "runs": f"{len(runs)}, " + _span(starts[:1] + ends[-1:]),
        "hardware": _once(machines),
        "versions": _once(versions),
        "commits": _once(commits),
    }
    text = "".join(f"- {name}: {line}\n" for name, line in lines.items() if line)
    text += (
        "- files: `curves.csv`, `provenance.json` (all numbers, and where they come from); made of these by "
        "`relax-exp-report --render`: `table.md` (and the runs' commands), `.csv`, `.tex`, `summary.json`, figures\n"
    )
    for title, entries in (("not finished", unfinished), ("not run", about.get("missing") or [])):
        text += "".join([f"\n{title.capitalize()}:\n\n", *(f"- `{e}`\n" for e in entries)]) if entries else ""
    return text


def _machine(hardware: dict[str, Any], device: str) -> str:
    """Name the machine by what the run was computed on: a GPU that it did not use goes unsaid."""
    name = device.partition(" ")[2] if device.startswith("cuda") else hardware.get("cpu")
    return f"{name}, {hardware.get('cores')} cores"


def _once(texts: Iterable[str]) -> str:
    return "; ".join(dict.fromkeys(texts))


def _span(dates: list[str]) -> str:
    return " to ".join(dict.fromkeys(dates))
