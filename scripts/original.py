"""Two epochs of RELAX on MNIST, beside the bounds of the original code: ``make original``.

Runs ``experiment=original budget=cpu`` (what is finished is not run again), prints the comparison, and ends with exit
code 1 where a mean training bound of an epoch is off by more than half a nat or a run is missing.
"""

from __future__ import annotations

import subprocess
import sys

from relax_exp.config.plans import planned
from relax_exp.report import formats
from relax_exp.report.groups import make_cells
from relax_exp.report.papers.original import original
from relax_exp.report.runs import read_run


def main() -> int:
    """Run what is missing, compare, and say whether all of it agrees."""
    command = [sys.executable, "-m", "relax_exp", "experiment=original", "budget=cpu"]
    if code := subprocess.run(command).returncode:
        return code
    runs = planned("original", "cpu")
    table = original(make_cells([read_run(run.path) for run in runs]))
    if table is None:
        print("no run of experiment=original budget=cpu is there to compare", file=sys.stderr)
        return 1
    print(formats.markdown(table))
    epochs = sum(run.config["steps"] // run.config["eval_every"] for run in runs)  # each run is of one seed
    compared = sum(record["seeds"] for record in table.records)
    return int(compared != epochs or any(record["within"] != "yes" for record in table.records))


if __name__ == "__main__":
    sys.exit(main())
