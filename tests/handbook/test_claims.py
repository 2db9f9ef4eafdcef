"""The claims page: the rule that decides, and that every claim in docs/claims.yaml can be decided."""

import pytest
import yaml
from handbook import claims
from handbook.claims import FAILS, HOLDS, UNDECIDED, Curve


def curve(seed, values, **config):
    return Curve(config, seed, 0.1, [{"step": 10 * i, "elbo": value} for i, value in enumerate(values, 1)])


@pytest.fixture
def runs(monkeypatch):
    """Two estimators, three seeds each: a is 1.0, 1.1, 1.2 above b at the last common step."""
    made = [curve(s, [0, 5 + 1 + s / 10, 99], name="a") for s in range(3)] + [
        curve(s, [0, 5], name="b") for s in range(3)
    ]
    monkeypatch.setattr(claims, "curves", lambda folder: tuple(made))
    return {"folder": "x", "metric": "elbo", "a": {"name": "a"}, "b": {"name": "b"}}


def test_a_difference_holds_where_its_interval_is_on_the_claimed_side(runs):
    found = claims.difference(**runs)
    assert found.verdict == HOLDS
    assert "+1.10 ± 0.25" in found.ours  # t(2) = 4.303, sd .1, n 3
    assert found.extent == "20 steps, 3 paired seeds"


def test_the_other_side_fails_and_short_runs_decide_nothing(runs):
    assert claims.difference(**runs, claim="<").verdict == FAILS
    assert claims.difference(**runs, published_steps=1000).verdict == UNDECIDED
    assert claims.difference(**{**runs, "b": {"name": "c"}}).ours == "not run"


def test_one_seed_decides_nothing(monkeypatch, runs):
    monkeypatch.setattr(claims, "curves", lambda folder: (curve(0, [9], name="a"), curve(0, [1], name="b")))
    found = claims.difference(**runs)
    assert (found.verdict, "no interval" in found.ours) == (UNDECIDED, True)


def test_who_never_got_there_counts_as_long_as_it_was_watched(monkeypatch, runs):
    made = [Curve({"name": "a"}, s, 0.1, [{"step": 1, "episodes": 50.0, "elbo": 40.0}]) for s in range(3)]
    made += [
        Curve({"name": "b"}, s, 0.1, [{"step": 1, "episodes": 50.0} | ({"elbo": 45.0} if s else {})]) for s in range(3)
    ]
    monkeypatch.setattr(claims, "curves", lambda folder: tuple(made))
    left_out = claims.difference(**runs, over="end")
    assert "-5.00" in left_out.ours and left_out.extent == "1 steps, 2 paired seeds"
    counted = claims.difference(**runs, over="end", never="episodes")
    assert "40.00 against 46.67: -6.67" in counted.ours
    assert counted.extent.endswith("3 paired seeds; 1 of the replicas never got there and counts as long as watched")


def test_the_verification_decides_by_lines_with_a_verdict():
    found = claims.enumerated("yes")
    table = claims.verified()
    unbiased = {row["estimator"].split()[0] for row in table} - {
        row["estimator"].split()[0] for row in table if row["verdict"] != "unbiased"
    }
    assert {"rebar", "relax", "lax", "reinforce", "nvil", "muprop"} <= unbiased
    assert found.verdict == HOLDS and found.ours.startswith(f"{len(unbiased)} estimators, ")
    assert claims.enumerated("no").verdict == HOLDS


def test_counts_are_compared_by_an_exact_test(monkeypatch):
    made = [curve(s, [1.0], name="a") for s in range(5)] + [curve(s, [float(s == 0)], name="b") for s in range(5)]
    monkeypatch.setattr(claims, "curves", lambda folder: tuple(made))
    of = {"folder": "x", "metric": "elbo", "claim": ">", "bound": 0.5, "where": {"name": "a"}, "against": {"name": "b"}}
    assert claims.count(**of).verdict == HOLDS  # 5 of 5 against 1 of 5: p = .048
    monkeypatch.setattr(claims, "curves", lambda folder: tuple(made[:4] + made[5:8]))
    assert claims.count(**of).verdict == UNDECIDED


def test_every_claim_is_decided_by_a_measure_and_has_its_data():
    papers = yaml.safe_load(claims.FILE.read_text())
    said = [claim for paper in papers for claim in paper["claims"]]
    assert len(said) == len({claim["claim"] for claim in said})
    for claim in said:
        found = claims.MEASURES[claim["measure"]](**claim.get("of", {}))
        assert found.verdict in claims.CLASSES, claim["claim"]
        assert found.ours not in ("not run", "not measured"), claim["claim"]
        assert (claims.ROOT / "results" / claim["data"]).is_dir()
    assert claims.page().count('<span class="') == len(said)


def test_a_replica_that_was_watched_too_shortly_leaves_its_pair_out(monkeypatch, runs):
    made = [Curve({"name": "a"}, s, 0.1, [{"step": 1, "episodes": 90.0, "elbo": 40.0 + s}]) for s in range(3)]
    made += [
        Curve({"name": "b"}, s, 0.1, [{"step": 1, "episodes": 30.0} | ({"elbo": 45.0} if s else {})]) for s in range(3)
    ]
    monkeypatch.setattr(claims, "curves", lambda folder: tuple(made))
    assert claims.difference(**runs, over="end", never="episodes").extent == "1 steps, 2 paired seeds"
    with pytest.raises(ValueError, match="over must be end"):
        claims.difference(**runs, never="episodes")


def test_a_claim_has_to_name_what_its_runs_differ_in(monkeypatch, runs):
    made = [curve(0, [1.0], name=name, lr=lr) for name in "ab" for lr in (1, 2)]
    monkeypatch.setattr(claims, "curves", lambda folder: tuple(made))
    with pytest.raises(ValueError, match="several runs of one length"):
        claims.difference(**runs)
