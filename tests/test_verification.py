"""``task=verify``: the table, its files, its exit codes, and estimators of the user's own."""

import json

import pytest

from relax_exp import cli, verification, verify

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

    def run(*arguments):
        monkeypatch.setattr("sys.argv", ["relax-exp", "task=verify", "task.draws=20000", "out=here", *arguments])
        code = cli.main()
        return code, *capfd.readouterr()

    return run


def test_one_estimator_with_its_options(command, tmp_path):
    code, out, _ = command("estimator=rebar", "estimator.temperature=0.2")
    assert code == 0
    rows = json.loads((tmp_path / "here" / "table.json").read_text())
    assert {row["verdict"] for row in rows} == {"unbiased"}
    assert len({row["problem"] for row in rows}) == len(rows) == 8
    assert all(row["z"] < row["bound"] for row in rows)
    assert "temperature=0.2" in out and "bernoulli 3 direct" in out
    assert (tmp_path / "here" / "table.md").read_text() in out
    assert (tmp_path / "here" / "variance.png").stat().st_size > 10_000
    again, out, err = command("estimator=rebar", "estimator.temperature=0.2")
    assert again == 0 and "finished already" in err and "bernoulli 3 direct" in out


def test_ones_own_right_estimator(command, tmp_path):
    (tmp_path / "mine.py").write_text(RIGHT)
    code, out, _ = command("estimator.path=mine.py")
    assert code == 0 and "Shifted" in out and "categorical 1x5 table" in out


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
    ],
)
def test_a_file_that_does_not_fit(command, tmp_path, text, message):
    if text is not None:
        (tmp_path / "mine.py").write_text(text)
    code, _, err = command("estimator.path=mine.py")
    assert code == 1 and message in err and "Traceback" not in err
    assert not (tmp_path / "here").exists()


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
    assert {p.family for p in verify.problems()} == {"bernoulli", "categorical", "gaussian"}
