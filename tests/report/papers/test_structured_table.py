"""Structured prediction beside the published tables: whose line, which sign, how many samples."""

import pytest
from folders import cells_of, configuration, write_run

from relax_exp.report.kinds import of_task
from relax_exp.report.papers.structured import structured
from relax_exp.report.report import Report
from relax_exp.report.tables import of_kinds

TASK = {"name": "structured", "dataset": "mnist", "layers": 2, "variables": 200, "categories": None,
        "binarize": "static", "centred": True, "optimizer": "adam", "test_samples": 100}  # fmt: skip
WORDS = {"variables": 20, "categories": 10}


def write(path, estimator, bounds, lrs=(1e-3,), metric="test/bound100", batch_size=100, **changed):
    """A run of 1,000 steps whose seed s ends at ``bounds[s]``, in the first rate; half a nat less a rate."""
    config = configuration({**TASK, **changed}, estimator, range(len(bounds)), lrs, 1000) | {"batch_size": batch_size}
    rows = [
        {"step": 1000, "seed": seed, "lr": lr, metric: bound - i / 2, "valid/bound100": bound - i, "train/elbo": -99.0}
        for seed, bound in enumerate(bounds)
        for i, lr in enumerate(lrs)
    ]
    return write_run(path, config, rows)


def lines(path):
    table = structured(cells_of(path))
    return {(row[0], row[1]): row[2:] for row in table.rows if row}


def test_each_estimator_stands_beside_its_published_numbers(tmp_path):
    write(tmp_path / "a", "arm", [-80.0, -82.0])
    write(tmp_path / "b", "straight_through", [-70.0], metric="test/bound1000")
    write(tmp_path / "c", "disarm", [-75.0], lrs=(1e-3, 3e-3))
    write(tmp_path / "d", "concrete", [-65.0], **WORDS)
    found = lines(tmp_path)
    bits, words = "200-200 bits", "(20 x 10) x 2"
    assert found[bits, "arm"] == ["–", "–", "57.9", "81.00 ± 12.71", "100", "2", "0.001", "2"]
    assert found[bits, "straight_through"] == ["56.1", "58.9", "–", "70.00", "1,000", "2", "0.001", "1"]
    assert found[bits, "disarm"] == ["–", "–", "–", "75.00", "100", "2", "0.001", "1"]
    assert found[bits, "reinforce"] == ["–", "72.0", "–", "not run", "–", "–", "–", "–"]
    assert found[bits, "1/2"][:4] == ["57.2", "–", "–", "not offered"] and found[bits, "DARN"][1] == "59.7"
    assert found[words, "concrete"] == ["–", "59.0", "–", "65.00", "100", "2", "0.001", "1"]
    assert found[words, "st_gumbel"][1] == "59.7" and (words, "arm") not in found


def test_annealed_straight_through_stands_in_a_line_of_its_own(tmp_path):
    write(tmp_path / "a", "straight_through", [-70.0])
    assert lines(tmp_path)["200-200 bits", "annealed ST"][:4] == ["–", "58.7", "–", "not run"]
    write(tmp_path / "b", {"name": "straight_through", "schedule": "annealed", "rate": 1e-3}, [-69.0])
    found = {label: row[1:4] for (_, label), row in lines(tmp_path).items() if label.startswith("straight_through")}
    assert found["straight_through"] == ["58.9", "–", "70.00"]
    (annealed,) = [row for label, row in found.items() if label != "straight_through"]
    assert annealed == ["58.7", "–", "69.00"]


def test_settings_have_lines_of_their_own(tmp_path):
    write(tmp_path / "a", "disarm", [-80.0])
    write(tmp_path / "b", "disarm", [-90.0], optimizer="momentum")
    assert {label: row[3] for (_, label), row in lines(tmp_path).items() if "disarm" in label} == {
        "disarm, optimizer=adam": "80.00",
        "disarm, optimizer=momentum": "90.00",
    }


OTHERS = [
    {"dataset": "digits"},
    {"variables": 100},
    {"layers": 3},
    {"binarize": "none"},
    {"batch_size": 50},
    {"categories": 10},
]


@pytest.mark.parametrize("other", OTHERS)
def test_other_networks_are_not_compared(tmp_path, other):
    write(tmp_path / "a", "arm", [-80.0], **other)
    assert structured(cells_of(tmp_path)) is None


def test_the_two_forms_have_tables_of_their_own(tmp_path):
    """In their own sign, and with names in words."""
    write(tmp_path / "a", "arm", [-80.0])
    write(tmp_path / "b", "concrete", [-65.0], **WORDS)
    cells = cells_of(tmp_path)
    assert [cell.kind for cell in cells] == ["structured", "structured_categorical"]
    bits, words = of_kinds(cells)
    assert bits.readable()[1][0][0] == "MNIST, 2 x 200 bits"
    assert words.readable()[1][0][0] == "MNIST, 2 x 20 variables of 10 categories"
    headers = [*bits.headers]
    assert bits.rows[0][headers.index("test, 100 samples")] == "-80.00" and "test, 1,000 samples" not in headers
    assert of_task({**TASK, **WORDS}).name == "structured_categorical"


def test_the_report_has_the_table(tmp_path):
    write(tmp_path / "a", "arm", [-80.0])
    runs = [run for cell in cells_of(tmp_path) for run in cell.runs]
    assert "structured_published.csv" in Report(runs).texts()
