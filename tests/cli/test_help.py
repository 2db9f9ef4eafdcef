"""The help: its keys are those of the configuration, for every task and estimator, and it fits 80 columns."""

import contextlib
import re
import sys

import pytest
from hydra import compose, initialize_config_dir

from relax_exp import estimators
from relax_exp.cli import help
from relax_exp.cli import main as cli
from relax_exp.config.yaml_files import CONFIGS
from relax_exp.tasks.registry import TASKS

CHOICES = [[f"task={task}"] for task in TASKS] + [["task=toy", f"estimator={name}"] for name in estimators.names()]


@pytest.mark.parametrize("typed", CHOICES, ids=lambda typed: typed[-1])
def test_help_and_configuration_agree(typed):
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        cfg = compose("config", typed)
    text = help.text(cfg)
    said = set(re.findall(r"^  ((?:task\.|estimator\.)?[a-z]\w*)  +\S", text.partition("Keys, their")[2], re.M))
    there = {key for key in cfg if key not in help.HIDDEN}
    there |= {f"{g}.{k}" for g in ("task", "estimator") if g in cfg for k in cfg[g] if k not in help.HIDDEN}
    assert said == there - set(TASKS[cfg.task.name].unused)
    assert max(map(len, text.replace("$$", "$").splitlines())) <= 80  # Hydra takes a template
    assert "the draft" not in text


def test_the_keys_of_the_chosen_task_come_first_and_have_their_meaning():
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        text = help.text(compose("config", ["task=cartpole", "estimator=relax"]))
    keys = text.partition("Keys, their")[2]
    assert keys.index("task.env") < keys.index("estimator.surrogate") < keys.index("  steps")
    assert re.search(r"batch_size +1 +episodes of an update", keys)  # as the task means it
    assert "Estimators:" not in text


@pytest.mark.parametrize(("typed", "runs"), [("-m task=toy estimator=relax,rebar", 2), ("task=toy estimator=relax", 1)])
def test_a_dry_run_says_what_would_run(typed, runs, monkeypatch, tmp_path, capfd):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["relax-exp", *typed.split(), "--dry-run"])
    assert cli.main() == 0
    lines = capfd.readouterr().out.splitlines()
    assert len(lines) == runs and all("-> runs/toy/" in line and line.endswith("(new)") for line in lines)
    assert not list(tmp_path.iterdir())


def test_a_sweep_ends_with_one_table_of_all_its_runs(monkeypatch, tmp_path, capfd):
    monkeypatch.chdir(tmp_path)
    short = "steps=4 eval_every=2 task.variance_draws=10 compile=false"
    monkeypatch.setattr(sys, "argv", f"relax-exp -m task=toy estimator=reinforce,baseline {short}".split())
    assert cli.main() == 0
    out, err = capfd.readouterr()
    last = out[out.rindex("## Toy problem") :]
    assert "| reinforce" in last and "| baseline" in last
    assert re.search(r"figures of all 2: relax-exp-report runs/toy/\S+ runs/toy/\S+ -o report", err)


def test_keys_that_a_task_sets_anew_keep_their_explanation(monkeypatch, capfd):
    monkeypatch.setattr(sys, "argv", ["relax-exp", "task=vae", "estimator=relax", "--help"])
    with contextlib.suppress(SystemExit):
        cli.main()
    assert "updates of the parameters" in capfd.readouterr().out
