"""`GradientMonitor`: its numbers against known ones, and training goes on as if it had not been there."""

import itertools
import math

import pytest
import torch
from torch import nn

from relax_exp import GradientMonitor, Latent


class Noisy(nn.Module):
    """A loss whose gradient in w is (1, 2) plus standard normal noise times ``scale``, and in ``unused`` none."""

    def __init__(self, scale):
        super().__init__()
        self.scale, self.w, self.unused = scale, nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(1))

    def loss(self):
        return (self.w * (torch.tensor([1.0, 2.0]) + self.scale * torch.randn(2))).sum()


def test_known_noise():
    torch.manual_seed(0)
    model = Noisy(0.5)
    found = GradientMonitor(model, reference=2000, draws=2000).measure(model.loss)
    assert set(found) == {"w"}
    assert found["w"].variance == pytest.approx(0.25, rel=0.1)
    assert found["w"].noise_scale == pytest.approx(2 * 0.25 / 5, rel=0.1)
    assert 0.95 < found["w"].cosine < 1


def test_no_noise_and_no_signal():
    model = Noisy(0.0)
    found = GradientMonitor(model, reference=4, draws=2).measure(model.loss)["w"]
    assert found.variance == 0 and found.noise_scale == 0 and found.cosine == pytest.approx(1)
    torch.manual_seed(3)
    pure = GradientMonitor(model, reference=10, draws=2).measure(lambda: (model.w * torch.randn(2)).sum() * 100)["w"]
    assert pure.noise_scale > 2 or math.isinf(pure.noise_scale)


def test_a_parameter_that_some_draws_do_not_reach_keeps_its_own_gradients():
    """Two experts in turn, with gradients of 1 and of 100: half of each one's draws are zero."""
    a, b = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)
    turns = itertools.cycle([lambda: a.weight.sum(), lambda: 100 * b.weight.sum()])
    found = GradientMonitor(nn.ModuleDict({"a": a, "b": b}), reference=1000, draws=2).measure(lambda: next(turns)())
    assert found["a.weight"].variance == pytest.approx(0.25, rel=0.01)
    assert found["b.weight"].variance == pytest.approx(2500, rel=0.01)
    assert found["a.weight"].cosine == found["b.weight"].cosine == pytest.approx(0.5)


def test_training_goes_on_as_without_it():
    def train(watched):
        torch.manual_seed(0)
        encoder, z = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)), Latent("nvil", "bernoulli", 4)
        model = nn.ModuleList([encoder, z])
        optimizer, x = torch.optim.SGD(model.parameters(), 0.1), torch.randn(8, 3)
        monitor = GradientMonitor(model, reference=3, draws=2)

        def loss():
            return z(encoder(x), lambda b: (b.sum(1) - 1).square()).loss.mean()

        for step in range(3):
            optimizer.zero_grad()
            loss().backward()
            if watched:
                assert monitor.measure(loss, step)["0.0.weight"].variance > 0
            optimizer.step()
        return model.state_dict()

    torch.testing.assert_close(train(True), train(False), rtol=0, atol=0)


def test_it_writes_what_it_returns(tmp_path):
    written = {}

    class Writer:
        def add_scalar(self, tag, value, step):
            written[tag, step] = value

    model = Noisy(0.5)
    found = GradientMonitor(model, Writer(), reference=4, draws=2).measure(model.loss, 7)
    assert written == {(f"gradient_{k}/w", 7): v for k, v in found["w"]._asdict().items()}
    GradientMonitor(model, tmp_path, reference=4, draws=2).measure(model.loss, 7)
    assert any("tfevents" in path.name for path in tmp_path.iterdir())


def test_bad_use_is_named():
    with pytest.raises(ValueError, match="no parameter that requires a gradient"):
        GradientMonitor(nn.ReLU()).measure(lambda: torch.zeros(()))
    model = Noisy(1.0)
    with pytest.raises(ValueError, match="scalar loss"):
        GradientMonitor(model).measure(lambda: torch.zeros(3))
    with pytest.raises(ValueError, match="not call backward"):
        GradientMonitor(model).measure(lambda: model.loss().backward())
    with pytest.raises(ValueError, match="reference=1"):
        GradientMonitor(model, reference=1)
