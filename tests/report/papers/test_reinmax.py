"""The VAE of ReinMax beside the published means."""

import pytest
from folders import cells_of, configuration, write_run

from relax_exp.report.papers.published import published
from relax_exp.report.papers.reinmax import reinmax

TASK = {"name": "categorical_vae", "dataset": "mnist", "layers": 1, "categories": 8, "variables": 4,
        "hidden": [512, 256], "activation": "relu", "initial_weights": "torch", "optimizer": "adam", "binarize": "none",
        "train_images": "all", "relaxed": "kl", "centred": False, "learned_prior": False, "pinned": False}  # fmt: skip


def run(path, train, test, temperature=1.3, lr=5e-4, eval_every=600, **other):
    """A run whose seeds have these numbers above the published ones, at every epoch."""
    estimator = {"name": "reinmax", "temperature": temperature}
    config = configuration({**TASK, **other}, estimator, range(len(train)), (lr,), 1800)
    config |= {"batch_size": 100, "eval_every": eval_every}
    theirs = published()["reinmax_vae"]["cells"]["8x4"]["reinmax"]
    rows = []
    for epoch in (1, 2, 3):
        at = {part: values[min(epoch, 2) - 1] for part, values in theirs.items() if part != "settings"}
        for seed, above in enumerate(zip(train, test, strict=True)):
            values = {"train/relaxed_kl": above[0] - at["train"], "test/elbo_full": above[1] - at["test"]}
            rows.append({"step": 600 * epoch, "seed": seed, "lr": lr, **values})
    return write_run(path, config, rows)


def test_means_within_half_a_nat_or_two_joint_standard_errors(tmp_path):
    run(tmp_path / "a", [0.6, 0.6, 0.6], [-0.4, 0.6, 1.6])
    table = reinmax(cells_of(tmp_path))
    assert [(row[2], row[3], row[4], row[6], row[7], row[10], row[11]) for row in table.rows] == [
        ("1", "3", "-208.74", "+0.60", "no", "+0.60", "yes"),  # the spread of the seeds is 1
        ("2", "3", "-182.15", "+0.60", "no", "+0.60", "yes"),
    ]


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
    run(tmp_path / "a", [0.0], [0.0], **other)
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
