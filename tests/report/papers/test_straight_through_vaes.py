"""The VAEs of ReinMax and MVE beside the published means."""

from types import SimpleNamespace

import pytest
from folders import REINMAX_TASK, cells_of, configuration, reinmax_run, write_run

from relax_exp.report.papers.published import published
from relax_exp.report.papers.straight_through_vaes import STUDIES

REINMAX, MVE = STUDIES


def test_means_within_half_a_nat_or_two_joint_standard_errors(tmp_path):
    reinmax_run(tmp_path / "a", [0.6, 0.6, 0.6], [-0.4, 0.6, 1.6])
    table = REINMAX.table(cells_of(tmp_path))
    assert [(row[2], row[3], row[4], row[6], row[7], row[10], row[11]) for row in table.rows] == [
        ("1", "3", "-208.74", "+0.60", "no", "+0.60", "yes"),  # the spread of the seeds is 1
        ("2", "3", "-182.15", "+0.60", "no", "+0.60", "yes"),
    ]


def test_seeds_whose_latents_say_nothing_are_left_out_and_counted(tmp_path):
    reinmax_run(tmp_path / "a", [1.0, 3.0, -60.0], [1.0, 3.0, -60.0])  # at epoch 2 the third has -242
    first, second = REINMAX.table(cells_of(tmp_path)).rows
    assert [row[3] for row in (first, second)] == ["2 (and 1 collapsed)"] * 2
    assert [row[6] for row in (first, second)] == ["+2.00", "+2.00"]


def test_without_a_seed_that_learns_there_is_no_mean(tmp_path):
    reinmax_run(tmp_path / "a", [-60.0], [-60.0])
    _, second = REINMAX.table(cells_of(tmp_path)).rows
    assert second[3:8] == ["0 (and 1 collapsed)", "-182.15", "–", "–", "–"]


def test_the_published_seed_that_collapsed_is_left_out_of_its_means(tmp_path):
    theirs = published()["reinmax_vae"]["cells"]["8x4"]["straight_through"]
    assert len(theirs["collapsed"]["train"]) == 5 and "collapsed" not in theirs["settings"]
    config = configuration(REINMAX_TASK, {"name": "straight_through", "temperature": 1.3}, [0], (1e-3,), 24000)
    config |= {"batch_size": 100, "eval_every": 600}
    rows = [
        {"step": 600 * i, "seed": 0, "lr": 1e-3, "train/relaxed_kl": -150.0, "test/elbo_full": -150.0}
        for i in range(1, 41)
    ]
    write_run(tmp_path / "a", config, rows)
    lines = {row[2]: row for row in REINMAX.table(cells_of(tmp_path)).rows}
    nine = (10 * 148.84 - 214.54) / 9
    assert lines["10"][4] == f"-{nine:.2f}" and lines["40"][4] == "-137.72"  # by then that seed has learnt


OTHERS = [
    {"binarize": "threshold"},
    {"categories": 5},
    {"train_images": "train"},
    {"optimizer": "radam"},
    {"centred": True},
    {"lr": 7e-3},
    {"temperature": 1.0},
    {"eval_every": 300},
]


@pytest.mark.parametrize("other", OTHERS)
def test_other_models_are_not_compared(tmp_path, other):
    reinmax_run(tmp_path / "a", [0.0], [0.0], **other)
    assert REINMAX.table(cells_of(tmp_path)) is None


MVE_TASK = {**REINMAX_TASK, "categories": 16, "variables": 32, "activation": "leaky_relu", "optimizer": "adamw",
            "warmup_epochs": 10, "cosine_epochs": 500}  # fmt: skip


@pytest.mark.parametrize("other", [{}, {"cosine_epochs": 20}, {"growth": 0.0}])
def test_mves_first_epochs_are_no_collapse(tmp_path, other):
    """While the rate rises all seeds are worse than a model without latents; the fifth epoch tells which learn."""
    estimator = {"name": "mve", "temperature": 1, "growth": other.get("growth", 9.2288e-5), "anneal_every": 300}
    task = {**MVE_TASK, "cosine_epochs": other.get("cosine_epochs", 500)}
    config = configuration(task, estimator, [0, 1], (0.0031623,), 1500) | {"batch_size": 200, "eval_every": 300}
    theirs = published()["mve_vae"]["cells"]["16x32"]["mve"]["train"]
    values = [-theirs[0], -theirs[1], -180.0, -160.0, -theirs[2]]
    rows = [
        {"step": 300 * i, "seed": seed, "lr": 0.0031623, "train/relaxed_kl": value + seed - 0.5}
        for i, value in enumerate(values, 1)
        for seed in range(2)
    ]
    write_run(tmp_path / "a", config, rows)
    table = MVE.table(cells_of(tmp_path))
    if other:
        assert table is None
    else:
        assert [(row[2], row[3], row[6], row[7]) for row in table.rows] == [(e, "2", "+0.00", "yes") for e in "125"]
    assert REINMAX.table(cells_of(tmp_path)) is None


@pytest.mark.parametrize(("study", "count", "steps", "seeds"), [(REINMAX, 28, 96_000, 10), (MVE, 5, 150_000, 5)])
def test_every_cell_of_the_plan_has_published_numbers(study, count, steps, seeds):
    from relax_exp.config.plans import planned

    runs = [it.config for it in planned(study.key, "paper")]
    known = study.known["cells"]
    assert len(runs) == count == sum(map(len, known.values()))
    for config in runs:
        cell = SimpleNamespace(
            kind="categorical_vae",
            name=config["estimator"]["name"],
            steps=steps,
            lr=config["lrs"][0],
            runs=[SimpleNamespace(config=config)],
        )
        assert study.published_of(cell) is not None, config
        assert (config["steps"], len(config["seeds"])) == (steps, seeds)
