"""What the tables of control say: which environments can be solved, by how many seeds, and which rate is the best."""

import pytest
from folders import cells_of, configuration, text_row, write_run

from relax_exp.report import tables
from relax_exp.report.formats import EMPTY
from relax_exp.report.groups import choose
from relax_exp.report.kinds import control


def control_run(path, solved=(300, 420, None), returns=(480.0, 470.0, 200.0), lr=0.01, **task):
    """A run whose seeds solve their environment after so many episodes, and end at these mean returns."""
    task = {"name": "cartpole", "env": "CartPole-v1", "threshold": None} | task
    rows = [
        {"step": 100, "seed": seed, "lr": lr, "return100": value, "episodes": 500, "frames": 25_000,
         "solved_episodes": episodes,
         "solved_frames": None if episodes is None else 50 * episodes, "grad/log_variance": 1.0, "time/elapsed": 3.0}
        for seed, (episodes, value) in enumerate(zip(solved, returns, strict=True))
    ]  # fmt: skip
    return write_run(path, configuration(task, "a2c", range(len(solved)), (lr,)), rows)


def cell(path, **options):
    (found,) = cells_of(control_run(path, **options))
    return found


def test_it_counts_the_seeds_that_solve_it(tmp_path):
    assert control.solved(cell(tmp_path / "run")) == ("2 of 3", {"seeds that solve it": 2})


@pytest.mark.parametrize(
    "task, expected",
    [
        ({"name": "cartpole", "env": "CartPole-v1"}, True),
        ({"name": "continuous", "env": "LunarLander-v3"}, True),  # gymnasium has a threshold for it
        ({"name": "continuous", "env": "Pendulum-v1"}, False),  # and none for this
        ({"name": "continuous", "env": "Pendulum-v1", "threshold": -200.0}, True),
        ({"name": "continuous", "env": "nobody/Knows-v0"}, False),
    ],
)
def test_an_environment_can_be_solved_where_somebody_says_when(task, expected, tmp_path):
    found = cell(tmp_path / "run", solved=(None, None), returns=(1.0, 2.0), **task)
    assert control.solvable(found) is expected
    assert control.solved(found)[0] == ("0 of 2" if expected else EMPTY)


def test_what_was_solved_can_be(tmp_path):
    assert control.solvable(cell(tmp_path / "run", name="continuous", env="nobody/Knows-v0"))


def test_the_table_has_means_over_the_seeds(tmp_path):
    row = text_row(tables.markdown(cells_of(control_run(tmp_path / "run", solved=(300, 420, 480)))), "a2c")
    assert row["task"] == "CartPole-v1"
    assert row["seeds that solve it"] == "3 of 3"
    assert row["episodes to solve"].startswith("400 ± ")
    assert row["frames to solve"].startswith("20000 ± ")


def test_seeds_that_never_get_there_count_as_long_as_they_were_watched(tmp_path):
    row = text_row(tables.markdown(cells_of(control_run(tmp_path / "run"))), "a2c")
    assert row["seeds that solve it"] == "2 of 3"
    assert row["episodes to solve"].startswith("≥ 407 ± ")  # 300 + 2/3 of 120 + 1/3 of 80
    assert row["frames to solve"].startswith("≥ 20333 ± ")
    row = text_row(tables.markdown(cells_of(control_run(tmp_path / "none", solved=(None, None, None)))), "a2c")
    assert (row["seeds that solve it"], row["episodes to solve"]) == ("0 of 3", EMPTY)


def test_a_rate_at_which_all_solve_it_goes_before_a_faster_one(tmp_path):
    control_run(tmp_path / "all", solved=(500, 500, 500), lr=0.01)
    control_run(tmp_path / "some", solved=(100, 100, None), lr=0.03)
    best, rule = choose(cells_of(tmp_path))
    assert best.lr == 0.01 and rule == control.CARTPOLE.best[2]


def test_where_no_rate_does_the_number_of_seeds_decides_and_then_the_return(tmp_path):
    control_run(tmp_path / "one", solved=(100, None, None), returns=(480.0, 400.0, 400.0), lr=0.01)
    control_run(tmp_path / "two", solved=(900, 900, None), returns=(480.0, 300.0, 100.0), lr=0.03)
    assert choose(cells_of(tmp_path))[0].lr == 0.03
    control_run(tmp_path / "two too", solved=(900, 900, None), returns=(480.0, 300.0, 150.0), lr=0.1)
    assert choose(cells_of(tmp_path))[0].lr == 0.1
