"""The scripts on the score term and on the published two-layer gradient: what they measure, and that they can."""

import json

import published_two_layers as two_layers
import score_term
import torch

from relax_exp import estimators


def test_the_estimators_that_have_the_term():
    names = score_term.names()
    assert {"rebar", "relax", "rloo", "disarm", "local_expectation"} <= {*names}
    assert not {"vimco", "concrete", "st_gumbel", "exact"} & {*names}
    assert all(estimators.lookup(name).target == "mean" for name in names)


def test_ratios_are_of_the_same_draws(tmp_path, monkeypatch):
    """The largest where nothing else is random; a second call repeats nothing."""
    monkeypatch.setattr(score_term, "names", lambda: ["local_expectation", "reinforce"])
    monkeypatch.setattr(score_term, "DRAWS", 20)
    path = tmp_path / "variance.json"
    for _ in range(2):
        score_term.measure("digits", ["linear1"], [0], 1, path)
    rows = {row["estimator"]: row for row in json.loads(path.read_text())}
    assert len(json.loads(path.read_text())) == len(rows) == 2
    assert rows["local_expectation"]["ratio"] > 20
    assert 0.5 < rows["reinforce"]["ratio"] < 2
    assert "| `local_expectation` |" in score_term.table([*rows.values()])
    score_term.draw([*rows.values()], tmp_path / "variance.png")


def test_the_published_gradient_is_wrong_at_the_second_encoder_only():
    generator = torch.Generator().manual_seed(0)
    model = two_layers.Model(generator)
    exact = two_layers.exact(model)
    for published in (True, False):
        drawn = [two_layers.rebar(model, generator, published) for _ in range(20)]
        for name, expected in exact.items():
            each = torch.stack([d[name] for d in drawn])
            z = (each.mean(0) - expected).abs() / (each.std(0) / 20**0.5).clamp(min=1e-12)
            assert (z.max() > 20) == (published and name.startswith("q2")), name
