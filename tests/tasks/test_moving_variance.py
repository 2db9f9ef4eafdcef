"""The moving variance of the REBAR code, by itself and along a run that it does not disturb."""

import pytest
import torch
from torch.utils._pytree import tree_leaves

from relax_exp.data import load
from relax_exp.runs.build import make_task
from relax_exp.tasks.moving_variance import MovingVariance
from relax_exp.training.replicas import Replicas


def test_it_is_made_of_two_averages_that_start_at_zero():
    drawn = torch.randn(30, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    watch = MovingVariance(0.9)
    moments, seen = watch.start({"a": drawn[0, :3], "b": drawn[0, 3:]}), []
    for row in drawn:
        moments, variance = watch(moments, {"a": row[:3], "b": row[3:]})
        seen.append(variance.item())
    weights = 0.1 * 0.9 ** torch.arange(29, -1, -1, dtype=torch.float64).unsqueeze(-1)
    expected = (weights * drawn.square()).sum(0) - (weights * drawn).sum(0).square()
    assert seen[-1] == pytest.approx(expected.mean().item(), rel=1e-12)
    assert seen[0] == pytest.approx(((0.1 - 0.1**2) * drawn[0].square()).mean().item())


@pytest.mark.parametrize("model", ["linear1", "linear2"])
def test_a_run_does_not_notice(model):
    def replicas(**options):
        task = make_task(
            "vae",
            {"name": "rebar", "noise": "tied"},
            load("digits"),
            model=model,
            latents=3,
            variance_draws=5,
            **options,
        )
        return Replicas(task, [0, 1], [1e-3])

    plain, watched = replicas(), replicas(moving_variance=0.5)
    for it in (plain, watched):
        for _ in it.advance(4):
            pass
    for a, b in zip(tree_leaves(plain.state.model.params), tree_leaves(watched.state.model.params), strict=True):
        torch.testing.assert_close(a, b)
    assert all(row["train/moving_variance"] > 0 for row in watched.means())
    assert "train/moving_variance" not in plain.means()[0]
    ours, theirs = ({k: v for k, v in it.evaluate([0, 1], 4, False)[1].items()} for it in (watched, plain))
    assert ours == pytest.approx(theirs, rel=1e-5)
