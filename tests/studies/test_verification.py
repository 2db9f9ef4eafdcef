"""``task=verify``: the table, its files, its exit codes, and estimators of the user's own."""

import json
from pathlib import Path

import pytest

from relax_exp.cli.main import main
from relax_exp.enumeration import checks, problems
from relax_exp.estimators import user_file
from relax_exp.studies import verification

RIGHT = """
from relax_exp.estimators.base import ScoreFunction

class Shifted(ScoreFunction):
    families = ("bernoulli", "categorical")

    def signal(self, f_b, context):
        return f_b - 1.0, {}, {}
"""
BIASED = RIGHT.replace("f_b - 1.0", "0.9 * f_b")


@pytest.fixture
def command(monkeypatch, tmp_path, capfd):
    monkeypatch.chdir(tmp_path)

    def run(*arguments, task="verify"):
        draws = ["task.draws=20000"] if task == "verify" else []
        where = [] if "--dry-run" in arguments else ["out=here"]
        monkeypatch.setattr("sys.argv", ["relax-exp", f"task={task}", *draws, *where, *arguments])
        code = main()
        return code, *capfd.readouterr()

    return run


def test_one_estimator_with_its_options(command, tmp_path):
    code, out, _ = command("estimator=rebar", "estimator.temperature=0.2")
    assert code == 0
    rows = json.loads((tmp_path / "here" / "table.json").read_text())
    assert {row["verdict"] for row in rows} == {"unbiased"}
    assert len({row["problem"] for row in rows}) == len(rows) == 12
    assert all(row["z"] < row["bound"] for row in rows)
    assert "rebar (" in out and "temperature 0.2" in out and "3 bits, f of the logits too" in out
    assert "Variance after tuning" in out
    tuned = json.loads((tmp_path / "here" / "tuned.json").read_text())
    before = {row["problem"]: row["relative"] for row in rows}
    assert len(tuned) == 2 and all(0 < row["tuned"] < before[row["problem"]] for row in tuned)
    assert (tmp_path / "here" / "table.md").read_text() in out
    assert (tmp_path / "here" / "variance.png").stat().st_size > 10_000
    again, out, err = command("estimator=rebar", "estimator.temperature=0.2")
    assert again == 0 and "finished already" in err and "3 bits, f of the logits too" in out


def test_ones_own_right_estimator(command, tmp_path):
    (tmp_path / "mine.py").write_text(RIGHT)
    code, out, _ = command("estimator.path=mine.py")
    assert code == 0 and "Shifted" in out and "1 variable of 5 classes, f a table" in out


def test_ones_own_biased_estimator(command, tmp_path):
    (tmp_path / "mine.py").write_text(BIASED)
    code, out, err = command("estimator.path=mine.py")
    assert code == 1 and "FAILS: biased" in out and "Shifted on bernoulli 4 table" in err
    code, _, _ = command("estimator.path=mine.py")
    assert code == 1, "also when it is finished already"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "there is no such file"),
        ("x = 1", "found none"),
        (RIGHT + RIGHT.replace("Shifted", "Other"), "found Other, Shifted"),
        ("from relax_exp import Estimator\nclass Mine(Estimator): ...", "Mine does not implement estimate"),
        (
            "from relax_exp import Estimator\nclass Mine(Estimator):\n    def __init__(self): super().__init__()",
            "a constructor of its own takes (*args, OPTION=DEFAULT, **kwargs)",
        ),
    ],
)
def test_a_file_that_does_not_fit(command, tmp_path, text, message):
    if text is not None:
        (tmp_path / "mine.py").write_text(text)
    code, _, err = command("estimator.path=mine.py")
    assert code == 2 and message in err and "Traceback" not in err
    assert not (tmp_path / "here").exists()


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("return f_b", "returned a bare tensor; it must return (signal, aux, buffers)"),
        ("return f_b.sum(), {}, {}", "returned a signal (); it must have the shape of f_b, (3,)"),
        ("return f_b * float('nan'), {}, {}", "returned a grad that is not finite"),
        ("return f_b, {}, {'last': f_b.mean()}", "a new value of last, which is not a registered buffer"),
        ("return f_b.nope, {}, {}", "mine.py, line 8, in signal: AttributeError: 'Tensor' object has no attribute"),
        ("return (f_b -, {}, {}", "mine.py, line 8: SyntaxError"),
    ],
)
@pytest.mark.parametrize("task", ["verify", "toy"])
def test_a_mistake_in_ones_own_file_is_shown_as_its_own(command, tmp_path, task, body, message):
    (tmp_path / "mine.py").write_text(RIGHT.replace("return f_b - 1.0, {}, {}", body))
    code, _, err = command("estimator.path=mine.py", task=task)
    assert code == 2 and message in err
    assert "Traceback" not in err and "relax_exp/" not in err
    assert not (tmp_path / "here").exists()


OPTIONS = RIGHT.replace(
    "    def signal",
    """    def __init__(self, *args, shift: float = 1.0, **kwargs):
        super().__init__(*args, **kwargs)
        self.shift = shift

    def signal""",
).replace("f_b - 1.0", "f_b - self.shift")


def test_ones_own_estimator_takes_options_and_trains(command, tmp_path):
    (tmp_path / "mine.py").write_text(OPTIONS)
    small = ("steps=20", "eval_every=10", "compile=false", "task.variance_draws=10")
    code, _, _ = command("estimator.path=mine.py", "estimator.shift=0.25", *small, task="toy")
    assert code == 0
    assert "shift: 0.25" in (tmp_path / "here" / "config.yaml").read_text()
    code, _, err = command("estimator.path=mine.py", "estimator.shft=0.25", *small, task="toy")
    assert code == 2 and "unknown key estimator.shft: must be one of shift" in err
    code, _, err = command("estimator.path=mine.py", task="cartpole")
    assert code == 2 and "yours trains on one of toy, vae" in err
    code, _, err = command("estimator=relax", "estimator.path=mine.py", *small, task="toy")
    assert code == 2 and "exclude each other" in err


def test_another_text_of_the_file_is_another_run(tmp_path):
    (tmp_path / "mine.py").write_text(RIGHT)
    first = user_file.digest(tmp_path / "mine.py")
    (tmp_path / "mine.py").write_text(BIASED)
    assert user_file.digest(tmp_path / "mine.py") != first


def test_one_file_typed_in_two_ways_is_one_run(command):
    Path("mine.py").write_text(RIGHT)
    said = [command(f"estimator.path={path}", "--dry-run", task="toy")[1] for path in ("mine.py", "./mine.py")]
    assert said[0].partition("->")[2] == said[1].partition("->")[2]


def test_gradients_that_are_not_numbers_are_named():
    verdict = checks.Verdict(float("nan"), float("nan"), 1, float("nan"), float("nan"), float("nan"), 0.0)
    assert "not finite" in verification.judge(verdict, True, 5.0)


def test_a_bias_that_no_problem_shows_fails():
    row = {"estimator": "x", "problem": "p", "verdict": "bias not resolved"}
    assert verification.failures([row]) == ["x: said to be biased, but no problem shows it"]
    assert verification.failures([row, row | {"verdict": "biased"}]) == []


def test_variance_falls_as_one_over_m():
    law = verification.m_sample_law(20_000, most=16)
    assert list(law) == [1, 2, 4, 8, 16]
    for m, variance in law.items():
        assert variance * m == pytest.approx(law[1], rel=0.05)


def test_all_covers_the_registry():
    labels = {label.split()[0] for label, _, _ in verification.cells({"name": "all", "path": None})}
    assert labels == set(verification.estimators.names())
    assert {p.family for p in problems.problems()} == {
        "bernoulli",
        "categorical",
        "gaussian",
        "permutation",
        "subset",
        "top_k",
    }
