"""Keys that were added after runs had been made: old configurations keep their meaning, their hash and their group."""

import json
from pathlib import Path

import pytest

from relax_exp.config.added_keys import completed, without
from relax_exp.config.identity import group_key, run_hash

RESULTS = Path(__file__).parents[2] / "results"
PINNED = {  # hashes of committed runs, by label
    "issue5/arsm-vae": "5c54c6503c",
    "atari/a2c-16694818dc": "16694818dc",
    "categorical_toy/ars-22b4007ffd": "22b4007ffd",
    "continuous/a2c-9cf907c73e": "9cf907c73e",
    "cartpole/a2c-0b167df9f9": "0b167df9f9",
    "seq/concrete": "9aaa963ec2",
    "vae/concrete-2fc4ca0d71": "2fc4ca0d71",
    "issue5/temperature-arsm30": "421baf75ad",
    "toy/rebar-b1d8e89607": "b1d8e89607",
    "verify-run/all-1e6": "a58c095905",
}


def committed() -> dict[str, dict]:
    """Every committed run by its label."""
    files = sorted(RESULTS.glob("*/provenance.json"))
    return {label: run for file in files for label, run in json.loads(file.read_text())["runs"].items()}


def test_no_hash_of_a_committed_run_changes():
    runs = committed()
    assert {label: run_hash(completed(runs[label]["config"])) for label in PINNED} == PINNED
    for label, run in runs.items():
        assert run_hash(completed(run["config"])) == run["meta"]["hash"], label


OLD = {"task": {"name": "vae", "model": "nonlinear", "hidden": 100}, "estimator": {"name": "exact"}, "steps": 1}


def test_an_old_configuration_gets_what_its_run_was_made_with():
    task = completed(OLD)["task"]
    assert task["decoder_hidden"] == 100
    assert task["first_epoch"] == "shuffled"
    assert task["score_term"] == "kept"
    assert completed(OLD)["allow_tf32"] is False
    assert without(completed(OLD)) == without(OLD) == OLD


def test_tf32_belongs_to_the_numbers_and_what_older_runs_said_of_it_does_not():
    old = {**OLD, "tf32": True, "seeds": [0]}  # on a CPU, where it had no effect
    assert "tf32" not in completed(old)
    assert run_hash(completed(old)) == run_hash(old) == run_hash({**OLD, "seeds": [0], "allow_tf32": False})
    assert group_key({**OLD, "seeds": [0], "allow_tf32": True}) != group_key(old)
    assert run_hash({**old, "deterministic": False}) == run_hash(old)


def test_a_value_that_is_there_stays():
    values = {"decoder_hidden": 784, "first_epoch": "file", "score_term": "dropped"}
    values |= {"initial_weights": "he", "moving_variance": 0.9}
    new = {**OLD, "task": {**OLD["task"], **values}}
    assert completed(new) == {**new, "allow_tf32": False}
    assert without(completed(new)) == new
    assert run_hash(new) != run_hash(OLD)
    assert group_key({**new, "seeds": [0]}) != group_key({**OLD, "seeds": [0]})


def test_a_linear_model_has_no_width_to_say():
    linear = {**OLD, "task": {"name": "vae", "model": "linear1", "hidden": 200}}
    assert completed(linear)["task"]["decoder_hidden"] is None
    assert run_hash(completed(linear)) == run_hash(linear)


@pytest.mark.parametrize("kind", ["task", "estimator"])
def test_a_run_that_has_no_such_section_is_left_alone(kind):
    config = {"steps": 3, kind: {"name": "verify", "draws": 10}}
    assert completed(config) == {**config, "allow_tf32": False}
    assert without(completed(config)) == without(config) == config
