"""Check whether a task and an estimator fit each other by comparing what the records of both say, without torch."""

from __future__ import annotations

import math

from relax_exp import estimators
from relax_exp.data import PIXELS
from relax_exp.errors import ConfigError
from relax_exp.estimators import user_file
from relax_exp.schema import one_of
from relax_exp.tasks.registry import TASKS

MAX_NUMBERS = 2 * 10**8  # drawn for the latents in one step: almost a gigabyte, and a step holds several such
MAX_LATENTS = 10**6  # of a row
MAX_MEASUREMENTS = 50  # of a variance from further episodes, in one run

OPAQUE = {  # what makes f a black box: in words, and of a task's configuration
    "an environment": lambda task: TASKS[task["name"]].experience != "data",
    "task.black_box=true": lambda task: task.get("black_box"),
    "task.problem=step": lambda task: task.get("problem") == "step",
}


def decoder_hidden(task: dict) -> int | None:
    """Return the units in each hidden layer of a binary VAE's decoder; None where the model has no such layers.

    Where none are given it is the number of pixels.

    Raises:
        ConfigError: Units are given for a model that has no such layers.
    """
    given = task["decoder_hidden"]
    if task["model"] == "nonlinear":
        return PIXELS[task["dataset"]] if given is None else given
    if given is not None:
        raise ConfigError(
            f"task.decoder_hidden={given}: the decoder of task.model={task['model']} has no hidden layers; leave it "
            "out, or use task.model=nonlinear"
        )
    return None


def check_size(task: dict, config: dict) -> None:
    """Check whether a step's noise can be held and bounds, epochs and the environment fit the rest.

    Raises:
        ConfigError: It cannot, or they do not.
    """
    sizes = {f"task.{key}": task[key] for key in ("latents", "variables", "categories") if task.get(key)}
    numbers = config["batch_size"] * len(config["seeds"]) * len(config["lrs"]) * math.prod(sizes.values())
    if numbers > MAX_NUMBERS or math.prod(sizes.values()) > MAX_LATENTS:
        if math.prod(sizes.values()) <= MAX_LATENTS:
            sizes["batch_size"] = config["batch_size"]
        key = max(sizes, key=sizes.__getitem__)
        raise ConfigError(f"each step would draw {numbers:,} numbers for the latents: lower {key}={sizes[key]}")
    every, evaluated = task.get("bound_every"), config["eval_every"]
    if every and every % evaluated and evaluated % every:
        raise ConfigError(f"task.bound_every={every}: must be a multiple of eval_every={evaluated}")
    warmup, cosine = task.get("warmup_epochs", 0), task.get("cosine_epochs")
    if cosine and cosine <= warmup:
        raise ConfigError(
            f"task.cosine_epochs={cosine}: counts the epochs of the warm-up, so must be more than "
            f"task.warmup_epochs={warmup}, or null"
        )
    if str(task.get("env", "")).startswith("ALE/") and TASKS[task["name"]].experience != "segments":
        raise ConfigError(f"task.env={task['env']} is an Atari game: type task=atari task.env={task['env']}")


def check_states(task: dict, name: str) -> None:
    """Check whether an estimator that enumerates or compares states can cope with so many.

    Raises:
        ConfigError: There are too many.
    """
    entry = estimators.lookup(name)
    if entry.max_states and 2 ** task.get("latents", 0) > entry.max_states:
        most = entry.max_states.bit_length() - 1
        raise ConfigError(f"{name} enumerates 2^{task['latents']} states: task.latents must be at most {most}")
    if entry.one_layer and task.get("layers", 1) > 1:
        raise ConfigError(f"{name} works on one layer of latents: set task.layers=1, or use rloo")
    if "categories" not in task:
        return
    variables, categories = task.get("variables", 1), task["categories"] or 2
    if categories == 1 and not entry.one_category:
        able = [other for other in estimators.names() if estimators.lookup(other).one_category]
        raise ConfigError(f"with one category there is nothing to estimate: use {one_of(able)}")
    if entry.max_categories and categories > entry.max_categories:
        raise ConfigError(f"{name} compares all pairs of categories: at most {entry.max_categories} of them; use ars")
    if entry.max_states and categories**variables > entry.max_states:
        raise ConfigError(
            f"{name} enumerates {categories}^{variables} states, the limit is {entry.max_states}: lower "
            "task.variables or task.categories, or use rloo"
        )


def check_episodes(task: dict, config: dict) -> None:
    """Check whether a task that learns from episodes can measure variances when asked to.

    Raises:
        ConfigError: It cannot.
    """
    if config["track"]:
        raise ConfigError("track=[...] follows an estimator on minibatches, and episodes are none: leave track out")
    every = task.get("variance_every")
    if every and every % config["eval_every"]:
        raise ConfigError(f"task.variance_every={every}: must be a multiple of eval_every={config['eval_every']}")
    if every and config["steps"] // every > MAX_MEASUREMENTS:
        least = -(-config["steps"] // (MAX_MEASUREMENTS * config["eval_every"])) * config["eval_every"]
        raise ConfigError(
            f"task.variance_every={every}: that is {config['steps'] // every} measurements of {task['variance_draws']} "
            f"updates' episodes each, and {MAX_MEASUREMENTS} are the limit: use at least {least}"
        )


def check_segments(task: dict, config: dict) -> None:
    """Check whether a task that learns from segments of games has one replica and whole segments.

    Raises:
        ConfigError: It has not.
    """
    if len(config["seeds"]) * len(config["lrs"]) > 1:
        raise ConfigError(f"task={task['name']} trains one replica a run: for several runs type -m seed=0,1,2")
    if config["batch_size"] % task["envs"]:
        raise ConfigError(
            f"batch_size={config['batch_size']} agent steps in task.envs={task['envs']} games: must be a multiple, as "
            f"{5 * task['envs']} for five steps of each"
        )


def check_published_errors(task: dict, family: str | None, estimator: dict) -> None:
    """Check whether the published code's errors are asked for where that code had them.

    Raises:
        ConfigError: They are asked for elsewhere.
    """
    experience = TASKS[task["name"]].experience
    if estimator.get("advantage") == "published_error" and family is not None and experience != "episodes":
        raise ConfigError(
            "estimator.advantage=published_error mixes the steps of an episode, as the published code does, and "
            f"task={task['name']} learns from something else: use advantage=correct, or task=cartpole"
        )
    tied = estimator.get("noise") == "tied"
    if estimator.get("sampler") == "published_error" and (tied or family not in ("categorical", None)):
        raise ConfigError(
            "estimator.sampler=published_error is an error in drawing z~ for categorical variables, with "
            "estimator.noise=independent: use sampler=correct, or task=cartpole"
        )


def check_fit(task: dict, estimator: dict, defaults: dict) -> None:
    """Check whether the estimator can do the task.

    Raises:
        ConfigError: It cannot.
    """
    name, family = estimator["name"], TASKS[task["name"]].family_of(task)
    if estimator.get("path"):
        check_own(task, estimator)
        return
    least = 1 if name not in estimators.REGISTRY else estimators.lookup(name).least_samples
    if estimator.get("samples", least) < least:
        raise ConfigError(f"estimator.samples={estimator['samples']}: {name} compares samples, so at least {least}")
    check_published_errors(task, family, estimator)
    if family is None:
        return
    able = TASKS[task["name"]].estimators or estimators.names(family)
    if name not in able:
        fits = name in estimators.names(family)
        whose = f"task={task['name']}" if fits else f"{family} variables, which task={task['name']} has"
        raise ConfigError(f"{name} is not for {whose}: use {one_of(able)}")
    opaque = [key for key, on in OPAQUE.items() if on(task)]
    if opaque and estimators.needs(name, estimator) != "value":
        able = [other for other in able if estimators.needs(other, defaults) == "value"]
        raise ConfigError(
            f"{name} differentiates f, which {opaque[0]} forbids: use {one_of(able)} with their defaults here"
        )
    if estimator.get("baseline") == "input" and not ("score_term" in task or TASKS[task["name"]].encoder):
        raise ConfigError(
            f"estimator.baseline=input is a function of what the latents are inferred from, and task={task['name']} "
            "infers none: use baseline=none"
        )
    if estimator.get("granularity") == "parameter" and not TASKS[task["name"]].encoder:
        raise ConfigError(
            f"estimator.granularity=parameter gives each tensor of an encoder an eta, and task={task['name']} has "
            "no encoder: use granularity=layer"
        )
    check_states(task, name)
    if task.get("relaxed") == "density" and not estimators.lookup(name).density:
        able = [other for other in estimators.names(family) if estimators.lookup(other).density]
        raise ConfigError(
            f"task.relaxed=density is a density of soft samples, which {name} has not: use {' or '.join(able)}"
        )


def check_own(task: dict, estimator: dict) -> None:
    """Check whether an estimator in a user's file can do the task.

    Raises:
        ConfigError: It cannot.
    """
    entry, cls = TASKS[task["name"]], user_file.load(estimator["path"])
    family = entry.family_of(task)
    where = f"estimator.path={estimator['path']}"
    if entry.estimators:
        able = [name for name, it in TASKS.items() if it.family and not it.estimators]
        raise ConfigError(
            f"{where}: task={task['name']} takes {one_of(entry.estimators)}; yours trains on {one_of(able)}"
        )
    if family and family not in user_file.families(cls):
        raise ConfigError(
            f"{where}: {cls.__name__} is for {', '.join(user_file.families(cls))} variables, and task={task['name']} "
            f'has {family} ones: set families = ("{family}",) in the class if it can do them'
        )
    opaque = [key for key, on in OPAQUE.items() if on(task)]
    if opaque and cls.needs != "value":
        raise ConfigError(f"{where}: {cls.__name__} differentiates f, which {opaque[0]} forbids")
