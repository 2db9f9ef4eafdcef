"""Whether a task and an estimator fit: each rule on either side of its bound, and what the message says to type."""

import pytest

from relax_exp.config import compatibility
from relax_exp.errors import ConfigError

VAE = {"name": "vae", "model": "linear1", "dataset": "digits", "decoder_hidden": None, "latents": 8}
CATEGORICAL = {"name": "categorical_vae", "variables": 2, "categories": 3, "layers": 1}
CARTPOLE = {"name": "cartpole", "variance_every": 100, "variance_draws": 10}
EPISODES = {"track": {}, "eval_every": 50, "steps": 1000}


def refused(words: str):
    return pytest.raises(ConfigError, match=words)


def test_the_decoder_of_a_nonlinear_model_is_as_wide_as_the_image_or_as_asked():
    assert compatibility.decoder_hidden(VAE) is None
    assert compatibility.decoder_hidden(VAE | {"model": "nonlinear"}) == 64
    assert compatibility.decoder_hidden(VAE | {"model": "nonlinear", "decoder_hidden": 20}) == 20
    with refused("use task.model=nonlinear"):
        compatibility.decoder_hidden(VAE | {"decoder_hidden": 20})


def test_enumeration_of_bits_ends_at_its_limit():
    compatibility.check_states(VAE | {"latents": 16}, "exact")
    with refused("task.latents must be at most 16"):
        compatibility.check_states(VAE | {"latents": 17}, "exact")
    compatibility.check_states(VAE | {"latents": 200}, "reinforce")


def test_enumeration_of_categories_ends_at_its_limit():
    compatibility.check_states(CATEGORICAL | {"variables": 16, "categories": 2}, "exact")
    with refused("lower task.variables or task.categories, or use rloo"):
        compatibility.check_states(CATEGORICAL | {"variables": 17, "categories": 2}, "exact")


def test_one_category_leaves_little_to_choose_from():
    with refused("nothing to estimate"):
        compatibility.check_states(CATEGORICAL | {"categories": 1}, "arsm")


def test_samples_without_replacement_are_for_one_layer():
    compatibility.check_states(CATEGORICAL, "unordered")
    with refused("task.layers=1, or use rloo"):
        compatibility.check_states(CATEGORICAL | {"layers": 2}, "unordered")


def test_variances_from_episodes_are_measured_at_evaluations_and_not_too_often():
    compatibility.check_episodes(CARTPOLE, EPISODES)
    compatibility.check_episodes(CARTPOLE | {"variance_every": None}, EPISODES)
    with refused("leave track out"):
        compatibility.check_episodes(CARTPOLE, EPISODES | {"track": {"reinforce": {}}})
    with refused("must be a multiple of eval_every=50"):
        compatibility.check_episodes(CARTPOLE | {"variance_every": 75}, EPISODES)


def test_the_least_interval_that_it_suggests_is_one_that_it_takes():
    many = EPISODES | {"steps": 100_000}
    with refused("use at least 2000"):
        compatibility.check_episodes(CARTPOLE, many)
    compatibility.check_episodes(CARTPOLE | {"variance_every": 2000}, many)


def test_segments_are_whole_and_of_one_replica():
    task, config = {"name": "atari", "envs": 16}, {"seeds": [0], "lrs": [1e-3], "batch_size": 80}
    compatibility.check_segments(task, config)
    with refused("must be a multiple, as 80 for five steps"):
        compatibility.check_segments(task, config | {"batch_size": 81})
    with refused("-m seed=0,1,2"):
        compatibility.check_segments(task, config | {"seeds": [0, 1]})


def test_bounds_come_at_evaluations():
    task, config = (
        {"name": "vae", "bound_every": 1500},
        {"eval_every": 1000, "batch_size": 24, "seeds": [0], "lrs": [0.1]},
    )
    with refused("must be a multiple of eval_every=1000"):
        compatibility.check_size(task, config)
    compatibility.check_size(task | {"bound_every": 3000}, config)
    compatibility.check_size(task | {"bound_every": 500}, config)


def test_published_errors_are_offered_where_the_published_code_had_them():
    compatibility.check_published_errors({"name": "cartpole"}, "categorical", {"advantage": "published_error"})
    compatibility.check_published_errors({"name": "toy"}, "bernoulli", {"advantage": "correct", "sampler": "correct"})
    with refused("use advantage=correct, or task=cartpole"):
        compatibility.check_published_errors({"name": "toy"}, "bernoulli", {"advantage": "published_error"})
    with refused("use sampler=correct, or task=cartpole"):
        compatibility.check_published_errors({"name": "toy"}, "bernoulli", {"sampler": "published_error"})


@pytest.mark.parametrize(
    "task, estimator, words",
    [
        ({"name": "toy"}, {"name": "arsm"}, "arsm is not for bernoulli variables, which task=toy has"),
        ({"name": "toy"}, {"name": "rloo", "samples": 1}, "rloo compares samples, so at least 2"),
        ({"name": "toy", "black_box": True}, {"name": "concrete"}, "task.black_box=true forbids"),
        ({"name": "toy"}, {"name": "rebar", "granularity": "parameter"}, "use granularity=layer"),
    ],
)
def test_an_estimator_that_cannot_do_the_task_is_refused_with_the_reason(task, estimator, words):
    with refused(words):
        compatibility.check_fit(task, estimator, {})


def test_an_estimator_that_can_is_not():
    compatibility.check_fit({"name": "toy", "black_box": True}, {"name": "relax", "surrogate": "network"}, {})
    compatibility.check_fit({"name": "toy"}, {"name": "rebar"}, {})
