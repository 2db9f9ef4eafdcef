"""A report: runs, grouped once into the cells and tables that its texts, figures and pages share."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from relax_exp.errors import ReportError
from relax_exp.report import formats
from relax_exp.report.cells import Cell
from relax_exp.report.formats import Table
from relax_exp.report.groups import make_cells
from relax_exp.report.kinds import control
from relax_exp.report.papers.bounds import bounds, reach
from relax_exp.report.papers.control import rl
from relax_exp.report.papers.frozen import frozen
from relax_exp.report.papers.learning_rates import learning_rates
from relax_exp.report.papers.original import of_original, original
from relax_exp.report.papers.paired import paired
from relax_exp.report.papers.score_term import score_term
from relax_exp.report.papers.solving_times import solving_times
from relax_exp.report.papers.straight_through_vaes import STUDIES as STRAIGHT_THROUGH_VAES
from relax_exp.report.papers.structured import structured
from relax_exp.report.papers.table1 import table1
from relax_exp.report.runs import CURVES, MEASURED, Run
from relax_exp.report.studies import STUDIES
from relax_exp.report.tables import commands, failures, of_kinds, row
from relax_exp.run_files import METRICS

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, eq=False)
class Report:
    """Runs, and what is made of them.

    ``by`` are keys that tell tasks apart too, see `make_cells`, which may refuse the runs with a ReportError when the
    cells are asked for.
    """

    runs: list[Run]
    by: Sequence[str] = ()

    @cached_property
    def cells(self) -> list[Cell]:
        """The cells of the runs that train."""
        return make_cells([run for run in self.runs if run.task not in STUDIES], self.by)

    @cached_property
    def studies(self) -> list[Run]:
        """The runs that have tables and figures of their own."""
        return [run for run in self.runs if run.task in STUDIES and run.rows]

    @cached_property
    def pivots(self) -> list[Table]:
        """Tables that set several cells beside each other or beside published numbers."""
        others = [cell for cell in self.cells if not of_original(cell)]
        learning = [cell for cell in others if not control.frozen(cell)]
        vaes = [study.table for study in STRAIGHT_THROUGH_VAES]
        of_others = (table1, *vaes, structured, paired, score_term, bounds, reach, learning_rates, rl, solving_times)
        made = (original(self.cells), *(of(learning) for of in of_others), frozen(others))
        return [table for table in made if table is not None]

    @cached_property
    def lines(self) -> list[Table]:
        """Tables with a line for each cell, and those of the studies."""
        studies = [table for run in self.studies for table in STUDIES[run.task].tables(run)]
        return [*of_kinds(self.cells), *studies]

    @property
    def tables(self) -> list[Table]:
        """All tables."""
        return [*self.pivots, *self.lines]

    def markdown(self) -> str:
        """Write all tables, and below them why replicas failed."""
        return "\n".join([*map(formats.markdown, self.tables), *self.failures])

    @property
    def failures(self) -> list[str]:
        """Why replicas failed, as a section; empty where none did."""
        return failures(self.cells)

    def texts(self) -> dict[str, str]:
        """Return the tables as Markdown, LaTeX and CSV, and the summary: texts by file name."""
        return {
            "table.md": f"{self.markdown()}\n{commands(self.runs)}",
            "table.csv": formats.to_csv(record for table in self.lines for record in table.records),
            "table.tex": formats.PREAMBLE + "\n".join(map(formats.latex, self.tables)),
            **{f"{table.name}.csv": formats.to_csv(table.records) for table in self.pivots},
            "summary.json": json.dumps(self.summaries(), indent=1, ensure_ascii=False) + "\n",
        }

    def figures(self) -> dict[str, Figure]:
        """Draw every figure, by file name."""
        from relax_exp.report.figures.axes import slug
        from relax_exp.report.figures.curves import figures
        from relax_exp.report.figures.tracked import figures_of
        from relax_exp.report.papers.frozen import figure as frozen_figure
        from relax_exp.report.papers.score_term import figure as score_term_figure
        from relax_exp.report.papers.solving_times import figure as solving_figure

        drawn = figures([cell for cell in self.cells if not control.frozen(cell)]) | figures_of(self.cells)
        of_papers = {"frozen": frozen_figure, "solving_times": solving_figure, "score_term": score_term_figure}
        drawn |= {name: found for name, draw in of_papers.items() if (found := draw(self.cells)) is not None}
        for run in self.studies:
            suffix = f"_{slug(STUDIES[run.task].label(run))}" if len(self.studies) > 1 else ""
            drawn |= {f"{name}{suffix}": figure for name, figure in STUDIES[run.task].figures(run).items()}
        return drawn

    def summaries(self) -> list[dict[str, Any]]:
        """Return every cell, see `summary`, and every line of a study."""
        lines = [
            {"kind": run.task, **{k: _rounded(v) for k, v in record.items()}, "rows": rows_of([run])}
            for run in self.studies
            for table in STUDIES[run.task].tables(run)
            for record in table.records
        ]
        return [summary(cell) for cell in self.cells] + lines

    def write(self, out: Path) -> list[Path]:
        """Write texts and figures into the folder ``out`` and return the paths written.

        Raises:
            ReportError: That cannot be done.
        """
        from relax_exp.report.figures.axes import save

        texts, drawn = self.texts(), self.figures()
        try:
            out.mkdir(parents=True, exist_ok=True)
            for name, text in texts.items():
                (out / name).write_text(text, encoding="utf-8")
            pictures = [path for name, figure in drawn.items() for path in save(figure, out / name)]
        except OSError as error:
            raise ReportError(f"cannot write to {out}: {error.strerror or error}") from None
        return [*(out / name for name in texts), *pictures]


def rows_of(runs: list[Run], **which: Any) -> dict[str, Any]:
    """Say where rows are: the file, the runs, and whatever else tells them from others."""
    own = MEASURED[0] if runs[0].task in STUDIES else METRICS
    return {"file": own if runs[0].path.is_dir() else CURVES, "runs": [run.label for run in runs], **which}


def summary(cell: Cell) -> dict[str, Any]:
    """Summarise one cell: what it is, mean and interval of the first number of its table, and where its rows are."""
    _, record = row(cell)
    metric = next((key.removesuffix(" ±") for key in record if key.endswith(" ±")), None)
    config = cell.runs[0].config
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
        "mean": _rounded(record.get(metric)) if metric else None,
        "interval": _rounded(record[f"{metric} ±"]) if metric else None,
        "status": cell.status,
        "rows": rows_of(cell.runs, lr=cell.lr, step=cell.steps),
    }


def _rounded(value: Any) -> Any:
    return None if value != value else float(f"{value:.8g}") if isinstance(value, float) else value
