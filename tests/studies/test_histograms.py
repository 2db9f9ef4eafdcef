"""``task=histograms``: single gradients at fixed parameters."""

import math

import pytest
import torch

from relax_exp.cli.main import main
from relax_exp.report import results
from relax_exp.report.runs import read_run
from relax_exp.report.studies import histograms as report
from relax_exp.studies import histograms


def config(**changes):
    task = {"name": "histograms", "t": 0.499, "problem": "quadratic", "draws": 20_000}
    return {"task": task | changes, "steps": 300, "seeds": [0], "lrs": [0.01]}


def z(gradients, exact):
    return (gradients.mean() - exact).abs() / (gradients.std() / len(gradients) ** 0.5)


@pytest.fixture(scope="module")
def gaussian():
    with torch.no_grad():
        return histograms.of_gaussian(config())


@pytest.mark.parametrize("t", [0.499, 0.3])
def test_bits(t):
    with torch.no_grad():
        found, exact = histograms.of_bits(config(t=t))
    assert exact == pytest.approx(0.25 * (1 - 2 * t))
    assert all(z(gradients, exact) < 4.5 for gradients in found.values())
    assert sorted({round(x, 9) for x in found["reinforce"].tolist()}) == pytest.approx([-(t**2) / 2, (1 - t) ** 2 / 2])
    assert found["relax"].std() < 0.5 * found["reinforce"].std()


def test_lax_is_the_sum_of_its_parts_draw_by_draw(gaussian):
    found, _ = gaussian
    plain, of_surrogate, along_path = (found[name] for name in report.LAX_PARTS)
    torch.testing.assert_close(found["lax"], plain - of_surrogate + along_path)
    assert of_surrogate.std() > 0


def test_gradients_of_a_gaussian(gaussian):
    found, exact = gaussian
    assert exact == pytest.approx(-2)  # d/dm E[(b - 1)^2] at m = 0
    assert all(z(found[name], exact) < 4.5 for name in report.CONTINUOUS)
    of_surrogate, along_path = (found[name] for name in report.LAX_PARTS[1:])
    error = (of_surrogate - along_path).std() / len(along_path) ** 0.5
    assert (of_surrogate.mean() - along_path.mean()).abs() < 4.5 * error  # both of E[c]
    assert found["lax"].std() < found["reinforce"].std()


def test_the_bins_hold_all_that_is_not_outside():
    gradients = torch.cat([torch.linspace(-1, 1, 990), torch.full((10,), 50.0)]).double()
    rows, bins = histograms.summarized("toy", {"reinforce": gradients, "relax": gradients / 10}, 0.0)
    for row in rows:
        own = [b for b in bins if b["estimator"] == row["estimator"]]
        assert len(own) == histograms.BINS and own[histograms.BINS // 2]["left"] == -own[histograms.BINS // 2]["right"]
        assert sum(b["share"] for b in own) + row["outside"] == pytest.approx(1)
    assert rows[0]["outside"] == pytest.approx(0.01) and rows[0]["mean"] == pytest.approx(0.5)


def test_the_study_leaves_tables_figures_and_results(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    typed = ["relax-exp", "task=histograms", "task.draws=500", "steps=20", "task.problem=cosine", "out=runs/it"]
    monkeypatch.setattr("sys.argv", typed)
    assert main() == 0
    assert "Gaussian, cosine" in capsys.readouterr().out
    run = read_run("runs/it")
    (table,) = report.tables(run)
    assert [row[1] for row in table.rows] == [*report.DISCRETE, *report.CONTINUOUS, *report.LAX_PARTS[1:]]
    assert all(math.isclose(record["exact"], 0.0005) for record in table.records[:3])
    assert set(report.figures(run)) == {"histograms", "lax_parts"}
    results.collect("histograms", ["runs"], "results")
    assert results.check("results/histograms") == []
