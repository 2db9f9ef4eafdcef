"""``task=simplex``: the Concrete density, and Gumbel-Rao against straight-through Gumbel-Softmax on the quadratic."""

import json
import math

import pytest
import torch
from torch import Tensor

from relax_exp.cli.main import main
from relax_exp.distributions.categorical import Categorical
from relax_exp.numerics.random_streams import stream
from relax_exp.report import results
from relax_exp.report.runs import read_run
from relax_exp.report.studies import simplex as report
from relax_exp.runs.build import make_task
from relax_exp.studies import simplex
from relax_exp.studies.temperature import deviation
from relax_exp.tasks.categorical_toy import quadratic

WEIGHTS = torch.tensor(report.WEIGHTS, dtype=torch.float64)


def quadratic_task(categories=3):
    options = {"problem": "quadratic", "categories": categories, "dtype": torch.float64}
    return make_task("categorical_toy", {"name": "exact"}, **options)


def over_the_simplex() -> tuple[Tensor, Tensor]:
    """Points s = softmax(y1, y2, 0) for y on a grid, and the area in (s1, s2) that each stands for."""
    y = torch.linspace(-40, 40, 1601, dtype=torch.float64)
    first, second = torch.meshgrid(y, y, indexing="ij")
    s = torch.stack([first, second, torch.zeros_like(first)], -1).softmax(-1).clamp(min=1e-300)
    return s, s.prod(-1) * (y[1] - y[0]).square()


@pytest.mark.parametrize("temperature", report.DENSITIES)
def test_the_density_integrates_to_one_and_has_the_mean_of_samples(temperature):
    s, area = over_the_simplex()
    mass = simplex.density(WEIGHTS, s, temperature) * area
    assert mass.sum().item() == pytest.approx(1, abs=1e-6)
    u = torch.rand((200_000, 1, 3), generator=stream(0, "concrete"), dtype=torch.float64)
    drawn = Categorical.relax(Categorical.path(WEIGHTS.log().expand_as(u), u), temperature)[:, 0]
    for of in (lambda s: s, torch.square, lambda s: s * s.roll(1, -1)):
        mean, error = of(drawn).mean(0), of(drawn).std(0) / len(drawn) ** 0.5
        assert (((mass.unsqueeze(-1) * of(s)).sum((0, 1)) - mean) / error).abs().max() < 4.5


def test_the_density_is_the_printed_one():
    s = torch.tensor([[0.2, 0.3, 0.5], [0.7, 0.2, 0.1]], dtype=torch.float64)
    for t in (0.3, 1.0, 2.0):
        printed = 2 * t**2 * (WEIGHTS * s ** (-t - 1)).prod(-1) / (WEIGHTS * s**-t).sum(-1) ** 3
        torch.testing.assert_close(simplex.density(WEIGHTS, s, t), printed)


@pytest.mark.parametrize("temperature, inside", [(0.3, False), (0.5, False), (2.0, True)])
def test_modes_leave_the_interior_at_the_bound(temperature, inside):
    """Maddison et al. 2017: at temperatures up to 1 / (C - 1) there are none."""
    n = 60
    i, j = torch.meshgrid(torch.arange(1, n - 1), torch.arange(1, n - 1), indexing="ij")
    s = torch.stack([i, j, n - i - j], -1).double() / n
    real = s[..., 2] > 0
    values = torch.where(real, simplex.density(WEIGHTS, s.clamp(min=1e-9), temperature), math.inf)
    around = [values.roll(shift, (0, 1)) for shift in ((1, 0), (-1, 0), (0, 1), (0, -1), (1, -1), (-1, 1))]
    highest = (torch.stack(around) < values).all(0) & real
    middle = (s > 0.1).all(-1)
    assert bool((highest & middle).any()) == inside


def test_the_quadratic_is_the_papers():
    q = [[math.exp(-2 * abs(i - j)) for j in range(3)] for i in range(3)]
    for s in ([1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.2, 0.5, 0.3]):
        away = [x - 1 / 3 for x in s]
        value = sum(q[i][j] * away[i] * away[j] for i in range(3) for j in range(3))
        assert quadratic(torch.tensor(s, dtype=torch.float64)).item() == pytest.approx(value)
    assert quadratic(torch.full((3,), 1 / 3)).item() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("p", [[1 / 3, 1 / 3, 1 / 3], [4 / 7, 1 / 7, 2 / 7], [0.02, 0.96, 0.02]])
@pytest.mark.parametrize("temperature", [0.1, 1.0])
def test_gumbel_rao_has_the_bias_of_st_gumbel_and_no_more_error(p, temperature):
    task, logits = quadratic_task(), torch.tensor([p], dtype=torch.float64).log()
    single = deviation("st_gumbel", {"temperature": temperature}, task, logits, 20_000, 0)
    last = single
    for samples in (3, 30):
        many = deviation("gumbel_rao", {"temperature": temperature, "draws": samples}, task, logits, 20_000, 0)
        assert many.variance < last.variance
        assert (many.mean - single.mean).norm() < 4 * (many.error.square() + single.error.square()).sqrt()
        assert many.bias.square() + many.variance < single.bias.square() + single.variance
        last = many


def test_the_bias_is_that_of_an_integral():
    """Two categories: z_1 - z_0 is logistic, so the mean gradient is a one-dimensional integral."""
    task, at = quadratic_task(2), 0.7
    logits = torch.tensor([[0.9, -0.5]], dtype=torch.float64)
    u = (torch.arange(400_000, dtype=torch.float64) + 0.5) / 400_000
    z = logits[0, 1] - logits[0, 0] + torch.logit(u)
    away = 2 * (1 - math.exp(-2))  # (e1 - e0)' 2 Q (b - c) for b = e1, and its opposite for b = e0
    slope = torch.sigmoid(z / at) * torch.sigmoid(-z / at) / at
    mean = (z.sign() * slope).mean() * away
    for name, options in {"st_gumbel": {}, "gumbel_rao": {"draws": 5}}.items():
        found = deviation(name, options | {"temperature": at}, task, logits, 100_000, 0)
        assert abs((found.mean + found.exact)[1] - mean) < 4 * found.error
        assert found.bias > 10 * found.error


def test_the_exact_gradient_is_that_of_the_expectation():
    logits = torch.tensor([[0.3, -1.0, 0.4]], dtype=torch.float64, requires_grad=True)
    expected = (logits.softmax(-1) * quadratic(torch.eye(3, dtype=torch.float64))).sum()
    (gradient,) = torch.autograd.grad(expected, logits)
    found = deviation("rloo", {}, quadratic_task(), logits.detach(), 50_000, 0)
    torch.testing.assert_close(found.exact, gradient[0])
    assert found.mean.norm() < 5 * found.error


def test_the_study_leaves_tables_figures_and_results(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["relax-exp", "task=simplex", "task.draws=80", "task.points=2", "out=runs/it"])
    assert main() == 0
    capsys.readouterr()
    run = read_run("runs/it")
    assert {row["samples"] for row in report.part(run, "temperature")} == {1, *simplex.SAMPLES}
    assert len(report.part(run, "density")) == len(report.DENSITIES) * simplex.PARTS**2
    assert len(report.part(run, "simplex")) == 2 * len(report.MAPS) * 4
    assert {"densities.png", "gumbel_rao.svg", "simplex_variance.png", "table.md"} <= {
        path.name for path in (tmp_path / "runs" / "it").iterdir()
    }
    results.collect("simplex", ["runs"], "results")
    assert results.check("results/simplex") == []
    assert main() == 0 and "finished already" in capsys.readouterr().err


@pytest.mark.parametrize("task", ["simplex", "histograms"])
def test_no_estimator_is_chosen(task, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["relax-exp", f"task={task}", "estimator=relax"])
    assert main() == 2
    assert "leave the estimator out" in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_the_tables_say_what_is_resolved_and_what_is_saved():
    row = {"part": "temperature", "estimator": "st_gumbel", "temperature": 0.5, "bias2": 1e-4, "error2": 1e-4, "mse": 1}
    rows = [row | {"samples": 1, "variance": 2.0}, row | {"samples": 10, "variance": 0.5, "bias2": 1e-2}]
    places = [{"part": "simplex", "temperature": at, "samples": k, "variance": v * (0.5 if k > 1 else 1)}
              for at in report.MAPS for k in (1, report.MAPPED_K) for v in (1.0, 2.0, 3.0, 4.0)]  # fmt: skip
    config = {"task": {"name": "simplex", "draws": 1000, "points": 2}}
    run = report.Run("it", config, {}, [*rows, *places])
    first, second = report.tables(run)
    assert [(line[2], line[5]) for line in first.rows] == [("< 0.0009", "1"), ("0.01", "0.25")]
    assert second.rows[0] == ["0.1", "2.5", "1.25", "0.5", "0.5", "0.5"] and "4 places" in second.note
    assert json.loads(json.dumps(second.records))[0]["median ratio"] == 0.5
