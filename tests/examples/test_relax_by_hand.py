"""The example that is written by hand runs, stays short, and gives the library's gradients."""

import runpy
from pathlib import Path

import pytest
import torch

FILE = Path(__file__).parents[2] / "examples" / "relax_by_hand.py"


@pytest.fixture(scope="module")
def example():
    return runpy.run_path(str(FILE))


def test_it_is_short_and_takes_one_line_from_the_library():
    lines = FILE.read_text().splitlines()
    assert len(lines) <= 120
    assert [line for line in lines if "import" in line and "relax_exp" in line] == [
        "from relax_exp import estimators  # for `library` alone"
    ]


def test_it_runs_and_prints_what_it_found(example, capsys):
    example["main"](steps=30, draws=200)
    out = capsys.readouterr().out
    assert "theta after 30 steps" in out and "the same 200 gradients" in out


@pytest.mark.parametrize("logit", [-2.0, 0.0, 1.5])
def test_gradients_and_those_of_the_variance_are_the_librarys(example, logit):
    torch.manual_seed(0)
    c, (u, v) = example["ControlVariate"](), torch.rand(2, 50, 1)
    logits = torch.full((50, 1), logit)
    ours = example["relax"](logits, c, u, v)
    torch.testing.assert_close(ours, example["library"](logits, c, u, v))
    assert all(p.abs().sum() > 0 for p in torch.autograd.grad(ours.square().mean(), list(c.parameters())))


def test_it_is_unbiased(example):
    torch.manual_seed(1)
    c, (u, v), theta = example["ControlVariate"](), torch.rand(2, 40_000, 1), torch.sigmoid(torch.tensor(0.7))
    draws = example["relax"](torch.full((40_000, 1), 0.7), c, u, v).detach()
    exact = theta * (1 - theta) * (1 - 2 * example["TARGET"])
    assert abs(draws.mean() - exact) / (draws.std() / len(draws) ** 0.5) < 4
