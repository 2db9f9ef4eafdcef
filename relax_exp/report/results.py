"""Results: a committed folder for each experiment, whose tables and figures are made from its own files alone.

`collect` puts runs into a folder (`relax_exp.report.archive`), `render` makes everything else from what is there, and
`check` says where what is there is not what `render` would make. Prose belongs into README.md outside of the marks.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from relax_exp.errors import ReportError
from relax_exp.report import archive, formats
from relax_exp.report.formats import Table
from relax_exp.report.groups import Cell, make_cells
from relax_exp.report.papers.bounds import bounds, reach
from relax_exp.report.papers.control import rl
from relax_exp.report.papers.learning_rates import learning_rates
from relax_exp.report.papers.paired import paired
from relax_exp.report.papers.readme import PAGE, inserted
from relax_exp.report.papers.table1 import table1
from relax_exp.report.runs import CURVES, MEASURED, METRICS, Run, find_folders, read_run
from relax_exp.report.studies import STUDIES
from relax_exp.report.tables import commands, failures, of_kinds, row

README, BEGIN, END = "README.md", "<!-- made from the files here: write below the closing mark -->", "<!-- end -->"


def collect(
    name: str, folders: Iterable[str | Path], out: str | Path, budget: str = "", missing: Sequence[str] = ()
) -> list[Path]:
    """Put the runs in ``folders`` (and below) into ``out``/``name`` with their tables and figures; the paths written.

    ``budget``: what the runs were allowed, in words; ``missing``: what was planned and not run, for instance commands.
    Raises ReportError where there are no runs, where one cell would mix configurations, or where one cannot write.
    """
    runs = [read_run(folder) for folder in find_folders(folders)]
    if not runs:
        raise ReportError(f"no runs found in {', '.join(map(str, folders))}")
    cells_of(runs)  # refuses before anything is written
    folder = Path(out) / name
    try:
        written = archive.write(runs, folder, experiment=name, budget=budget, missing=list(missing))
    except OSError as error:
        raise ReportError(f"cannot write to {folder}: {error.strerror or error}") from None
    return written + render(folder)


def render(folder: str | Path) -> list[Path]:
    """Tables, figures, summary and README.md of a folder of results, from its other files; the paths written.

    Also the headline in the README two folders above, if it has marks for one, see `relax_exp.report.papers.readme`.
    """
    folder = Path(folder)
    about, runs = archive.read(folder)
    paths = write(runs, folder)
    readme = folder / README
    readme.write_text(_inserted(_read(readme), about, runs, folder), encoding="utf-8")
    page, text = folder / PAGE, _read(folder / PAGE)
    if (new := inserted(text, about.get("experiment", folder.name), cells_of(runs))) == text:
        return [*paths, readme]
    page.write_text(new, encoding="utf-8")
    return [*paths, readme, page]


def check(folder: str | Path) -> list[str]:
    """What `render` would write differently, a line for each file; figures are not compared. Empty: all as it was."""
    folder = Path(folder)
    about, runs = archive.read(folder)
    texts = make(runs)
    texts[README] = _inserted(_read(folder / README), about, runs, folder)
    texts[PAGE] = inserted(_read(folder / PAGE), about.get("experiment", folder.name), cells_of(runs))
    differences = []
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


def write(runs: list[Run], out: Path, by: Sequence[str] = ()) -> list[Path]:
    """Tables, summary and every figure of the runs into ``out``; the paths written."""
    from relax_exp.report.figures.axes import save, slug
    from relax_exp.report.figures.curves import figures
    from relax_exp.report.figures.tracked import figures_of

    cells = cells_of(runs, by)
    texts = make(runs, by)
    drawn = figures(cells) | figures_of(cells)
    studies = studies_of(runs)
    for run in studies:
        suffix = f"_{slug(STUDIES[run.task].label(run))}" if len(studies) > 1 else ""
        drawn |= {f"{name}{suffix}": figure for name, figure in STUDIES[run.task].figures(run).items()}
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            (out / name).write_text(text, encoding="utf-8")
        return [out / name for name in texts] + [path for name, fig in drawn.items() for path in save(fig, out / name)]
    except OSError as error:
        raise ReportError(f"cannot write to {out}: {error.strerror or error}") from None


def make(runs: list[Run], by: Sequence[str] = ()) -> dict[str, str]:
    """The tables of the runs as Markdown, LaTeX and CSV, and the summary: texts by file name."""
    cells = cells_of(runs, by)
    pivots, others = tables_of(runs, cells)
    return {
        "table.md": f"{markdown(runs, by)}\n{commands(runs)}",
        "table.csv": formats.to_csv(record for table in others for record in table.records),
        "table.tex": formats.PREAMBLE + "\n".join(map(formats.latex, [*pivots, *others])),
        **{f"{table.name}.csv": formats.to_csv(table.records) for table in pivots},
        "summary.json": json.dumps(summaries(runs, cells), indent=1, ensure_ascii=False) + "\n",
    }


def everything(runs: list[Run], by: Sequence[str] = ()) -> list[Table]:
    """All tables of the runs."""
    pivots, others = tables_of(runs, cells_of(runs, by))
    return [*pivots, *others]


def markdown(runs: list[Run], by: Sequence[str] = ()) -> str:
    """All tables of the runs, and below them why replicas failed."""
    return "\n".join([*map(formats.markdown, everything(runs, by)), *failures(cells_of(runs, by))])


def tables_of(runs: list[Run], cells: list[Cell]) -> tuple[list[Table], list[Table]]:
    """Tables that set several cells beside each other or beside published numbers; and those with a line a cell."""
    made = (of(cells) for of in (table1, paired, bounds, reach, learning_rates, rl))
    pivots = [table for table in made if table is not None]
    studies = [table for run in studies_of(runs) for table in STUDIES[run.task].tables(run)]
    return pivots, [*of_kinds(cells), *studies]


def cells_of(runs: list[Run], by: Sequence[str] = ()) -> list[Cell]:
    """The cells of runs that train."""
    return make_cells([run for run in runs if run.task not in STUDIES], by)


def studies_of(runs: list[Run]) -> list[Run]:
    """The runs that have tables and figures of their own."""
    return [run for run in runs if run.task in STUDIES and run.rows]


def summaries(runs: list[Run], cells: list[Cell]) -> list[dict[str, Any]]:
    """Every cell, see `summary`, and every line of a study."""
    lines = [
        {"kind": run.task, **{k: _rounded(v) for k, v in record.items()}, "rows": rows_of([run])}
        for run in studies_of(runs)
        for table in STUDIES[run.task].tables(run)
        for record in table.records
    ]
    return [summary(cell) for cell in cells] + lines


def rows_of(runs: list[Run], **which: Any) -> dict[str, Any]:
    """Where rows are: the file, the runs, and whatever else tells them from others."""
    own = MEASURED[0] if runs[0].task in STUDIES else METRICS
    return {"file": own if runs[0].path.is_dir() else CURVES, "runs": [run.label for run in runs], **which}


def summary(cell: Cell) -> dict[str, Any]:
    """One cell: what it is, mean and interval of the first number of its table, and where its rows are."""
    _, record = row(cell)
    metric = next((key.removesuffix(" ±") for key in record if key.endswith(" ±")), None)
    config = cell.runs[0].config
    value = {key: _rounded(record.get(key)) for key in (metric, f"{metric} ±")}
    return {
        "kind": cell.kind,
        "task": cell.task,
        "model": config["task"].get("model"),
        "dataset": config["task"].get("dataset"),
        "estimator": cell.estimator,
        "lr": cell.lr,
        "seeds": [r.seed for r in cell.counted],
        "steps": cell.steps,
        "planned": cell.planned,
        "metric": metric,
        "mean": value[metric],
        "interval": value[f"{metric} ±"],
        "status": cell.status,
        "rows": rows_of(cell.runs, lr=cell.lr, step=cell.steps),
    }


def _rounded(value: Any) -> Any:
    return None if value != value else float(f"{value:.8g}") if isinstance(value, float) else value


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return ""


def _inserted(text: str, about: dict[str, Any], runs: list[Run], folder: Path) -> str:
    """README.md with its generated part made anew; what is written around the marks stays."""
    part = f"{BEGIN}\n{_about(about, runs)}{END}\n"
    before, mark, rest = text.partition(f"{BEGIN}\n")
    if not mark:
        return f"# {about.get('experiment', folder.name)}\n\n{part}" + (f"\n{text}" if text else "")
    return before + part + rest.partition(f"{END}\n")[2]


def _about(about: dict[str, Any], runs: list[Run]) -> str:
    """Where the numbers come from: budget, dates, machines, versions, commits, what is missing."""
    metas = [run.meta for run in runs]
    starts = sorted(m["start"][:10] for m in metas if m.get("start"))
    ends = sorted((m.get("end") or m["start"])[:10] for m in metas if m.get("start"))
    hardware = [m["hardware"] for m in metas if m.get("hardware")]
    machines = [f"{h.get('gpu') or h.get('cpu')}, {h.get('cores')} cores" for h in hardware]
    versions = [f"{name} {m['versions'].get(name)}" for m in metas if m.get("versions") for name in ("python", "torch")]
    commits = [m["git"]["commit"][:10] + " + changes" * m["git"]["dirty"] for m in metas if m.get("git")]
    unfinished = [f"{r.run.label} (seed {r.seed}, lr {r.lr:g}): {r.status}" for run in runs if run.task not in STUDIES
                  for r in run.replicas() if r.status != "done"]  # fmt: skip
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


def _once(texts: Iterable[str]) -> str:
    return "; ".join(dict.fromkeys(texts))


def _span(dates: list[str]) -> str:
    return " to ".join(dict.fromkeys(dates))
