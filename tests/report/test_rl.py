"""Tasks with episodes: the table beside the paper's numbers, and curves over frames."""

import math

import numpy as np
from folders import cells_of, configuration, write_run

from relax_exp.report.figures import figures, over_frames
from relax_exp.report.rl import rl


def run(path, estimator, seeds=(0, 1), lr=0.01, ratio=1.0, solved=(300, 500), pace=100, env="CartPole-v0"):
    """A run of two evaluations, whose seed s uses ``pace`` (1 + s) frames a step and solves after so many episodes."""
    options = {"name": estimator, "lr_scale": ratio}
    config = configuration({"name": "cartpole", "env": env}, options, seeds, [lr], steps=1000)
    rows = []
    for step in (500, 1000):
        for seed in seeds:
            at = solved[seed]
            known = at is not None and at <= step
            values = {"return100": float(step / 10 + seed), "episodes": step, "frames": step * pace * (1 + seed)}
            values |= {"solved_episodes": at if known else None, "solved_frames": at * pace if known else None}
            rows.append({"step": step, "seed": seed, "lr": lr, **values, "grad/log_variance": None})
    return write_run(path, config, rows)


def table(path):
    """The lines by their names, each a dictionary by estimator."""
    it = rl(cells_of(path))
    return {(r[0], r[1]): dict(zip(it.headers[2:], r[2:], strict=True)) for r in it.rows if r is not None}, it


def test_our_numbers_stand_below_the_papers(tmp_path):
    run(tmp_path / "a", "a2c")
    run(tmp_path / "b", "relax", solved=(200, None))
    lines, it = table(tmp_path)
    assert lines["CartPole", "published, episodes to solve"] == {"a2c": "1152 ± 90", "relax": "472 ± 114"}
    half = 12.7062047 * 100 * math.sqrt(2) / math.sqrt(2)  # t(1, .975), s = 100 sqrt 2
    assert lines["CartPole-v0", "episodes to solve"] == {"a2c": f"400 ± {half:.0f}", "relax": "200"}
    assert lines["CartPole-v0", "seeds that solve it"] == {"a2c": "2 of 2", "relax": "1 of 2"}
    assert lines["CartPole-v0", "return of the last 100"]["relax"] == f"100.5 ± {12.7062047 / 2:.1f}"
    (record,) = [r for r in it.records if (r["source"], r["estimator"]) == ("ours", "relax")]
    assert (record["seeds"], record["lr chosen by"], record["status"]) == ("0 1", "the only rate run", "done")


def test_both_rates_are_chosen_and_whoever_solves_it_with_all_seeds_goes_first(tmp_path):
    run(tmp_path / "a", "relax", ratio=0.1, solved=(700, 800))
    run(tmp_path / "b", "relax", ratio=1.0, solved=(100, None))
    run(tmp_path / "c", "relax", lr=0.003, ratio=1.0, solved=(600, 700))
    run(tmp_path / "d", "relax", lr=0.003, ratio=0.1, solved=(900, 900))
    lines, it = table(tmp_path)
    assert lines["CartPole-v0", "episodes to solve"]["relax"].startswith("650 ±")
    assert lines["CartPole-v0", "rates (policy, ratio)"]["relax"] == "0.003, 1"
    assert [r["lr chosen by"] for r in it.records if r["source"] == "ours" and r["estimator"] == "relax"] == [
        "best number of episodes to solve, or where not all seeds solve it, last mean return of 0.003, 0.01"
    ]
    (figure,) = figures(cells_of(tmp_path)).values()
    assert len(figure.axes[0].lines) == 1


def test_environments_without_published_numbers_and_estimators_that_did_not_run(tmp_path):
    run(tmp_path / "a", "a2c")
    run(tmp_path / "b", "rloo", env="Acrobot-v1")
    lines, _ = table(tmp_path)
    assert lines["Acrobot-v1", "episodes to solve"] | {"rloo": ""} == {"a2c": "not run", "relax": "not run", "rloo": ""}
    assert ("Acrobot", "published, episodes to solve") not in lines
    assert rl([]) is None


def test_curves_over_frames_cover_what_all_seeds_have(tmp_path):
    run(tmp_path / "a", "a2c")
    (cell,) = cells_of(tmp_path)
    frames, values = over_frames(cell, "return100")  # seed 0: 50 to 100 over frames of 50,000 to 100,000; seed 1: twice
    assert frames[0] == frames[-1] == 100_000 and values.shape[1] == 2
    np.testing.assert_allclose(values[0], [100, 51])
    (figure,) = figures([cell]).values()
    assert [ax.get_xlabel() for ax in figure.axes] == ["frames"]  # no panel for what was not measured
