"""The papers' experiments: what their files hold, how runs are selected, and the commands that take them."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys

import pytest
from hydra import compose, initialize_config_dir

from relax_exp.cli.main import main
from relax_exp.cli.report import main as report
from relax_exp.config import identity, resolve, yaml_files
from relax_exp.config import plans as experiments
from relax_exp.config.yaml_files import CONFIGS
from relax_exp.errors import ConfigError
from relax_exp.runs.folder import RunFolder

NAMES = [
    "atari",
    "categorical",
    "histograms",
    "mve_vae",
    "original",
    "permutation",
    "reinmax_vae",
    "rl_continuous",
    "rl_discrete",
    "rl_published",
    "score_term",
    "simplex",
    "structured",
    "table1",
    "temperature",
    "toy",
    "toy_draft",
    "toy_le",
]


@pytest.fixture
def plan(tmp_path, monkeypatch):
    """Writes ``mine.yaml`` as the only experiment, beside the tasks and estimators."""
    for group in ("task", "estimator", "config.yaml"):
        (tmp_path / group).symlink_to(CONFIGS / group)
    (tmp_path / "experiment").mkdir()
    monkeypatch.setattr(yaml_files, "CONFIGS", tmp_path)

    def write(grids, text=None):
        text = text or f"budgets:\n  smoke: {grids}\n  cpu: [{{task: toy}}]\n  paper: [{{task: toy}}]\n"
        (tmp_path / "experiment" / "mine.yaml").write_text(text)

    return write


def test_names():
    assert experiments.names() == NAMES


@pytest.mark.parametrize("file", sorted(path for path in CONFIGS.rglob("*.yaml") if path.parent != CONFIGS), ids=str)
def test_help_shows_a_whole_sentence(file):
    said = yaml_files.summary(file)
    assert said.endswith(".") and said[0].isupper()


@pytest.mark.parametrize("name", NAMES)
def test_every_run_of_every_budget(name):
    """Each is a valid configuration, and no two write to one folder."""
    runs = {budget: experiments.planned(name, budget) for budget in experiments.BUDGETS}
    assert all(run.config["out"] is None for budget in runs.values() for run in budget)
    assert {run.path for run in runs["smoke"]}.isdisjoint(run.path for run in runs["cpu"] + runs["paper"])
    assert max(run.config["steps"] for run in runs["smoke"]) <= 50 and len(runs["smoke"]) <= 4
    for run in (runs["smoke"][0], runs["cpu"][-1], runs["paper"][-1]):  # as Hydra makes it, without the short cut
        with initialize_config_dir(str(CONFIGS), version_base="1.3"):
            assert resolve.resolve(compose("config", run.overrides), run.overrides) == run.config


def test_table1_is_the_published_grid():
    runs = experiments.planned("table1", "paper")
    cells = {(c["task"]["dataset"], c["task"]["model"]) for c in (run.config for run in runs)}
    assert cells == {(d, m) for d in ("mnist", "omniglot") for m in ("linear1", "linear2", "nonlinear")}
    estimators = {(c["estimator"]["name"], c["estimator"].get("granularity")) for c in (run.config for run in runs)}
    plain = {(name, None) for name in ("nvil", "muprop", "concrete", "relax", "disarm", "rloo")}
    assert estimators == plain | {("rebar", "layer"), ("rebar", "parameter")}
    assert len(runs) == 6 * 8
    for run in runs:
        assert run.config["lrs"] == [5e-3, 1e-3, 5e-4, 1e-4, 5e-5] and run.config["steps"] == 2_000_000
        assert run.config["batch_size"] == 24 and run.config["task"]["binarize"] == "static"


def test_rates_of_reinforcement_learning():
    """Policy and control variate have every pair of published rates on CartPole."""
    planned = [run.config for run in experiments.planned("rl_discrete", "cpu")]
    runs = [run for run in planned if run["task"]["frames"] and run["task"]["env"] == "CartPole-v0"]
    for name in ("a2c", "relax"):
        mine = [run for run in runs if run["estimator"]["name"] == name]
        pairs = {(run["lrs"][0], round(run["lrs"][0] * run["estimator"]["lr_scale"], 6)) for run in mine}
        assert pairs == {(a, b) for a in (0.01, 0.003, 0.001) for b in (0.01, 0.003, 0.001)}
        assert all(run["task"]["frames"] == 250_000 and run["seeds"] == [0, 1, 2, 3, 4] for run in mine)


def test_a_grid(plan):
    plan("[{task: toy, estimator: [rebar, relax], lr: [1e-3, 2], seeds: [[0, 1]]}]")
    assert experiments.jobs("mine", "smoke") == [
        ["task=toy", f"estimator={name}", f"lr={lr}", "seeds=[0,1]"]
        for name in ("rebar", "relax")
        for lr in ("0.001", "2")
    ]


SELECTIONS = {
    "": 4,
    "estimator=relax": 2,
    "estimator=relax lr=0.001": 1,
    "estimator=relax,rebar lr=1e-3": 2,
    "estimator.depth=2": 1,  # those that say so
    "threads=1": 4,  # nobody says it: for all
    "seed=3,4": 8,
}


@pytest.mark.parametrize("typed", SELECTIONS)
def test_what_is_typed_selects_or_is_added(plan, typed):
    plan(
        "[{task: toy, estimator: [rebar, relax], lr: 1e-3}, {task: toy, estimator: nvil, lr: 0.1}, "
        "{task: toy, estimator: relax, estimator.depth: 2, lr: 0.1}]"
    )
    runs = experiments.planned("mine", "smoke", typed.split())
    assert len(runs) == SELECTIONS[typed]
    for key, values in (one.split("=") for one in typed.split()):
        for run in runs:
            (said,) = (o.split("=")[1] for o in run.overrides if o.startswith(f"{key}="))
            assert said in values.replace("1e-3", "0.001").split(",")


WRONG = {
    "[]": "budgets.smoke must be a list of grids",
    "{task: toy}": "budgets.smoke must be a list of grids",
    "[toy]": "budgets.smoke[0] must map keys to values",
    "[{task: toy}, {lr: []}]": "budgets.smoke[1]: lr is an empty list",
    "[{out: 'a,b'}]": "out=a,b cannot be typed as one value",
    "[{lr: {a: 1}}]": "budgets.smoke[0]",
    "[{task: toy": "cannot be read",
    "[{task: toy, estimator: relax, lrr: 1}]": "mine budget=smoke, task=toy estimator=relax lrr=1: unknown key lrr",
    "[{task: toy, estimator: relax, lr: 0}]": "lr=0: must be a finite number > 0",
    "[{task: toy, estimator: relaxx}]": "did you mean relax?",
    "[{task: toy, estimator: [exact, exact]}]": "has a run twice",
}


@pytest.mark.parametrize("grids", WRONG)
def test_wrong_files(plan, grids):
    plan(grids)
    with pytest.raises(ConfigError) as error:
        experiments.planned("mine", "smoke")
    assert WRONG[grids] in str(error.value)


@pytest.mark.parametrize(
    "text, said",
    [
        ("budgets: [1]", "must have one key, budgets"),
        ("budgets: {smoke: [{task: toy}]}", "budgets has the keys smoke: must be smoke, cpu, published, paper"),
        ("budgets: {smoke: 1, cpu: 1, papr: 1}", "must be smoke, cpu, published, paper"),
        ("budgets: {}\nlr: 1", "must have one key, budgets"),
    ],
)
def test_wrong_budgets(plan, text, said):
    plan("", text)
    with pytest.raises(ConfigError, match=said):
        experiments.jobs("mine", "smoke")


def test_unknown_names():
    with pytest.raises(ConfigError, match=r"unknown experiment toyy: .*did you mean toy\?"):
        experiments.jobs("toyy", "cpu")
    with pytest.raises(ConfigError, match=r"budget=cpuu: .*did you mean cpu\?"):
        experiments.jobs("toy", "cpuu")


@pytest.fixture
def command(monkeypatch, tmp_path, capfd):
    """Runs a command line whose runs end at once: (exit code, output, errors)."""
    from relax_exp.runs import run

    def execute(resolved):
        with RunFolder(identity.run_path(resolved), resolved) as folder:
            (folder.path / "metrics.jsonl").write_text('{"step": 1, "seed": 0, "lr": 0.1}\n')
            folder.update_meta(status="done")
        return 0

    def type_in(line):
        monkeypatch.setattr(sys, "argv", ["relax-exp", *shlex.split(line)])
        return main(), *capfd.readouterr()

    monkeypatch.setattr(run, "execute", execute)
    monkeypatch.chdir(tmp_path)
    return type_in


COMMANDS = {
    "experiment=toy": "experiment=toy needs one of budget=smoke (2 runs), budget=cpu (5 runs), "
    "budget=published (5 runs), budget=paper (5 runs)",
    "experiment=toy budget=cpuu": "budget=cpuu: experiment=toy needs one of",
    "task=toy estimator=relax budget=cpu": "budget=cpu goes with experiment=NAME, one of atari, categorical",
    "experiment=arsm_vae budget=cpu": "budget=cpu goes with experiment=NAME",
    "experiment=toy,table1 budget=cpu": "is many runs, so type it alone",
    "experiment=toy budget=smoke --cfg job": "--cfg job is for one run; for many type --dry-run",
    "experiment=toy budget=smoke steps=7": "no run of experiment=toy budget=smoke has steps=7; there are 50",
    "experiment=toy budget=smoke +x=7": "+x=7: only key=value and key=value,value are possible",
    "experiment=toy budget=smoke ~lr": "only key=value",
    "experiment=toy budget=smoke 'lr=interval(0,1)'": "only key=value",
    "experiment=toy budget=smoke lrr=1": "unknown key lrr",
    "experiment=toy budget=smoke lr=0": "lr=0: must be a finite number > 0",
    "experiment=toy budget=smoke out=x": "two jobs write to one folder",
}


@pytest.mark.parametrize("line", COMMANDS)
def test_commands_that_are_wrong(command, tmp_path, line):
    code, out, err = command(line)
    assert (code, out) == (2, "")
    assert err.startswith("relax-exp: error: ") and err.count("\n") == 1 and COMMANDS[line] in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("multirun", ["", "-m"])
def test_a_command(command, tmp_path, multirun):
    code, out, _ = command(f"{multirun} experiment=toy budget=smoke threads=1")
    assert code == 0
    planned = experiments.planned("toy", "smoke", ["threads=1"])
    said = [line for line in out.splitlines() if line.startswith("job ")]
    assert said == [f"job {i}: {shlex.join(run.overrides)}" for i, run in enumerate(planned)]
    assert {path.relative_to(tmp_path) for path in tmp_path.glob("runs/*/*")} == {run.path for run in planned}
    for run in planned:  # one of its runs again, typed alone
        assert f"relax-exp {shlex.join(run.overrides)}" in (run.path / "meta.json").read_text()


def test_the_next_command_is_another(command):
    assert command("experiment=toy budget=smoke estimator=relax")[0] == 0
    assert command("-m task=toy estimator=exact,rebar")[1].count("job ") == 2


def test_help(command):
    code, out, _ = command("experiment=table1 --help")
    assert code == 0 and "Table 1: the binary VAE" in out and re.search(r"budget=paper +48 runs", out)
    done = subprocess.run([sys.executable, "-m", "relax_exp", "--help"], capture_output=True, text=True)
    presets, plans = done.stdout.split("Experiments of many runs")
    assert "arsm_vae " in presets.split("Presets of a run")[1] and "table1 " in plans


def test_status(command, capfd):
    """Runs of an experiment wherever they are, and the commands of those that are missing."""
    line = ["--status", "--experiment", "toy", "--budget", "smoke"]
    assert report(line) == 0
    first, second = capfd.readouterr().out.split("2 runs are missing:\n")[1].splitlines()
    assert command(first.removeprefix("relax-exp ") + " out=there/it")[0] == 0
    assert command("task=toy estimator=exact out=there/other")[0] == 0
    assert report(["there", *line]) == 0
    out = capfd.readouterr().out
    assert "there/it" in out and "there/other" not in out and out.endswith(f"1 runs are missing:\n{second}\n")
    assert report(["there", "--status", "--experiment", "toyy"]) == 2
    assert "did you mean toy?" in capfd.readouterr().err


def test_status_of_runs_that_were_killed_or_crashed(command, tmp_path, capfd):
    command("task=toy estimator=exact out=there/a")
    meta = tmp_path / "there/a/meta.json"
    meta.write_text(meta.read_text().replace('"done"', '"running"', 1))
    (tmp_path / "there/b").mkdir()
    (tmp_path / "there/b/error.txt").write_text("relax-exp ...\n\nTraceback ...\nValueError: oops\n")
    assert report(["there", "--status"]) == 0
    out = capfd.readouterr().out
    assert " killed " in out and "there/b crashed: ValueError: oops (there/b/error.txt)" in out
    with (tmp_path / "there/a/lock").open("w") as file:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX)
        assert report(["there", "--status"]) == 0
        assert " running " in capfd.readouterr().out
