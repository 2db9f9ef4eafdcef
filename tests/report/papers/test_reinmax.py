"""The VAE of ReinMax beside the published means."""

import pytest
from folders import REINMAX_TASK, cells_of, configuration, reinmax_run, write_run

from relax_exp.report.papers.published import published
from relax_exp.report.papers.reinmax import reinmax


def test_means_within_half_a_nat_or_two_joint_standard_errors(tmp_path):
    reinmax_run(tmp_path / "a", [0.6, 0.6, 0.6], [-0.4, 0.6, 1.6])
    table = reinmax(cells_of(tmp_path))
    assert [(row[2], row[3], row[4], row[6], row[7], row[10], row[11]) for row in table.rows] == [
        ("1", "3", "-208.74", "+0.60", "no", "+0.60", "yes"),  # the spread of the seeds is 1
        ("2", "3", "-182.15", "+0.60", "no", "+0.60", "yes"),
    ]


def test_seeds_whose_latents_say_nothing_are_left_out_and_counted(tmp_path):
    reinmax_run(tmp_path / "a", [1.0, 3.0, -60.0], [1.0, 3.0, -60.0])  # at epoch 2 the third has -242
    first, second = reinmax(cells_of(tmp_path)).rows
    assert [row[3] for row in (first, second)] == ["2 (and 1 collapsed)"] * 2
    assert [row[6] for row in (first, second)] == ["+2.00", "+2.00"]


def test_without_a_seed_that_learns_there_is_no_mean(tmp_path):
    reinmax_run(tmp_path / "a", [-60.0], [-60.0])
    _, second = reinmax(cells_of(tmp_path)).rows
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
    lines = {row[2]: row for row in reinmax(cells_of(tmp_path)).rows}
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
    assert reinmax(cells_of(tmp_path)) is None


def test_every_cell_of_the_plan_has_published_numbers():
    from relax_exp.config.plans import planned

    runs = [it.config for it in planned("reinmax_vae", "paper")]
    known = published()["reinmax_vae"]["cells"]
    assert len(runs) == 28 == sum(map(len, known.values()))
    for config in runs:
        task = config["task"]
        settings = known[f"{task['categories']}x{task['variables']}"][config["estimator"]["name"]]["settings"]
        given = {
            "optimizer": task["optimizer"],
            "lr": config["lrs"][0],
            "temperature": config["estimator"]["temperature"],
        }
        assert settings == given
        assert (config["steps"], config["eval_every"], len(config["seeds"])) == (96_000, 600, 10)
