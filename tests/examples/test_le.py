"""The estimator of Le's notes: unbiased, with the network and the ReLU that they print."""

from pathlib import Path

import pytest
import torch

from relax_exp import estimators
from relax_exp.cli.main import main
from relax_exp.numerics.random_streams import stream

FILE = Path(__file__).parents[2] / "examples" / "le.py"


def build(**options):
    generator = stream(0, "le")
    return estimators.build("Le", "bernoulli", (1,), path=str(FILE), generator=generator, **options).double()


@pytest.mark.parametrize("output", ["relu", "linear"])
def test_it_is_unbiased_and_tunes_what_the_notes_tune(output):
    est, logits = build(output=output), torch.full((1, 1), 0.4, dtype=torch.float64)
    assert [tuple(layer.weight.shape) for layer in (est.network.from_z, *est.network.hidden, est.network.out)] == [
        (5, 1), (5, 5), (1, 5)
    ]  # fmt: skip
    assert "log_temperature" in dict(est.named_parameters()) and "eta" not in dict(est.named_parameters())
    p = torch.sigmoid(logits)
    exact = (p * (1 - p) * (1 - 2 * 0.2)).item()
    out = est(logits.expand(200_000, 1), lambda b: (b - 0.2).square().sum(-1), generator=stream(1, "le"))
    assert abs(out.grad.mean().item() - exact) < 4.5 * out.grad.std().item() / 200_000**0.5


def test_the_relu_cuts_the_surrogate_off():
    z, f = torch.linspace(-3, 3, 7, dtype=torch.float64).unsqueeze(-1), lambda b: (b - 0.2).square().sum(-1)
    est, linear = build(), build(output="linear")
    linear.load_state_dict(est.state_dict())
    rebar = estimators.build("rebar", "bernoulli", (1,)).double().control_variate(z, torch.zeros_like(z), f)
    cut, whole = (it.control_variate(z, torch.zeros_like(z), f) - rebar for it in (est, linear))
    torch.testing.assert_close(cut, whole.relu(), atol=1e-12, rtol=0)


def test_it_trains(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["relax-exp", "task=toy", f"estimator.path={FILE}", "steps=20", "out=run"])
    assert main() == 0 and "le" in capsys.readouterr().out
