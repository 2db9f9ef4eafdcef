"""Table 1 in a few lines, for a page that shows it: the README above the folders of results."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from relax_exp.report.cells import Cell
from relax_exp.report.formats import EMPTY, NOT_RUN, Table, markdown
from relax_exp.report.papers.published import COLUMNS, published, short
from relax_exp.report.papers.table1 import MODELS, table1
from relax_exp.run_files import DONE

PAGE = "../../README.md"  # from a folder of results
SHOWN = ("rebar", "relax")


def inserted(text: str, name: str, cells: Iterable[Cell]) -> str:
    """Return the page with what is between ``<!-- name -->`` and ``<!-- /name -->`` made anew.

    A page without the marks stays as it is.
    """
    begin, end = f"<!-- {name} -->\n", f"<!-- /{name} -->"
    before, mark, rest = text.partition(begin)
    _, closing, after = rest.partition(end)
    table = headline(list(cells)) if mark and closing else None
    if table is None:
        return text
    _, _, body = markdown(table).partition("\n\n")  # without its title
    return f"{before}{begin}\n{body}\n{end}{after}"


def headline(cells: list[Cell]) -> Table | None:
    """Set REBAR and RELAX in the draft, as published and here beside each other, a line a model.

    None where none of them was trained.
    """
    full = table1(cells)
    if full is None:
        return None
    rows: list[list[str]] = []
    for data in published()["vae"]["images"]:
        for model in MODELS:
            here = [r for r in full.records if (r["dataset"], r["model"]) == (data, model)]
            # Of several decoders the widest is shown, which is the published code's, and of several runs the longest.
            here.sort(key=lambda r: (r.get("decoder units") or 0, r.get("steps", 0)))
            of = {(r["source"], r["estimator"]): r for r in here}
            printed = [_bound(of.get((source, name))) for source in ("draft", "published") for name in SHOWN]
            ours = [of.get(("ours", name), {}) for name in SHOWN]
            ran = {f"{short(r['steps'])}, {len(r['seeds'].split())}": None for r in ours if "steps" in r}
            wide = {str(r["decoder units"]): None for r in ours if r.get("decoder units")}
            rows.append([data, model, *printed, *map(_bound, ours), "; ".join(ran) or EMPTY, ", ".join(wide) or EMPTY])
    headers = ["data", "model", *(f"{source} {COLUMNS[name]}" for source in ("draft", "published", "our")
                                  for name in SHOWN), "our steps, seeds", "decoder's hidden units"]  # fmt: skip
    return Table("headline", "Table 1, REBAR and RELAX", headers, rows, NOTE.format(short(published()["vae"]["steps"])))


def _bound(record: dict[str, Any] | None) -> str:
    if record is None:
        return EMPTY
    if record.get("bound") is None:
        return record.get("status", NOT_RUN)
    half = record.get("bound ±")
    mark = " ‡" if record.get("status", DONE) != DONE else ""
    return f"{record['bound']:.2f}" + (f" ± {half:.2f}" if half is not None else "") + mark


NOTE = (
    "Training bounds in nats per image, higher is better. Draft and published: single runs of {} steps, their highest "
    "bound. Ours: the last bound, mean over seeds ± 95% t interval (one seed: no interval), at the learning rate that "
    "is best by the final 100-sample validation bound. ‡: stopped before its planned end. The published code's "
    "nonlinear decoder has 784 hidden units a layer, its text says 200."
)
