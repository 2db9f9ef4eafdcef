"""What a configuration may say: types and checks in Python, values and documentation in configs/*.yaml.

`resolve` turns what Hydra composed into a plain nested dictionary or raises ConfigError with a message for the user.
torch is never imported here.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, TypedDict

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from relax_exp import added_keys, estimators, limits
from relax_exp.data import BINARIZATIONS, DATASETS
from relax_exp.estimators import options, own
from relax_exp.schema import (
    DISTINCT,
    NOT_EMPTY,
    BelowOne,
    Categories,
    Check,
    ConfigError,
    Count,
    Draws,
    Fraction,
    NotNegative,
    Positive,
    Seed,
    Text,
    check,
    checked,
    hints,
    one_of,
)

_HERE = Path(__file__).parent
CONFIGS = next(path for path in (_HERE / "configs", _HERE.parent / "configs") if path.is_dir())  # wheel, source tree
MACHINE_KEYS = ("out", "data_root", "device", "threads", "compile", "tf32")  # say where and how, and change no number


class RunOptions(TypedDict):
    """Top-level keys."""

    steps: Count
    lr: Positive
    lrs: Annotated[list[Positive], NOT_EMPTY, DISTINCT] | None
    seed: Seed
    seeds: Annotated[list[Seed], NOT_EMPTY, DISTINCT] | None
    batch_size: Count
    eval_every: Count
    track: Annotated[list[Literal[*estimators.names()]], DISTINCT]
    device: Literal["auto", "cpu", "cuda"]
    threads: Count
    compile: Literal["auto", True, False]
    tf32: bool
    dtype: Literal["float32", "float64"]
    data_root: Text | None
    out: Text | None


class ToyOptions(TypedDict):
    """Keys of task=toy."""

    t: Fraction
    latents: Count
    black_box: bool
    variance_draws: Draws
    freeze: bool


class VAEOptions(TypedDict):
    """Keys of task=vae."""

    dataset: Literal[*DATASETS]
    model: Literal["linear1", "linear2", "nonlinear"]
    latents: Count
    hidden: Count
    decoder_hidden: Count | None
    binarize: Literal[*BINARIZATIONS]
    first_epoch: Literal["file", "shuffled"]
    bound_every: Count | None
    score_term: Literal["dropped", "kept"]
    variance_draws: Draws


class CategoricalToyOptions(TypedDict):
    """Keys of task=categorical_toy."""

    problem: Literal["arsm", "cos"]
    categories: Categories | None
    optimizer: Literal["adam", "sgd"]
    variance_draws: Draws


class LaxToyOptions(TypedDict):
    """Keys of task=lax_toy."""

    problem: Literal["quadratic", "cosine", "step"]
    t: float
    latents: Count
    variance_draws: Draws


class CategoricalVAEOptions(TypedDict):
    """Keys of task=categorical_vae."""

    dataset: Literal[*DATASETS]
    layers: Literal[1, 2]
    variables: Count
    categories: Categories
    hidden: list[Count]
    activation: Literal["tanh", "relu", "leaky_relu"]
    binarize: Literal[*BINARIZATIONS]
    centred: bool
    learned_prior: bool
    pinned: bool
    relaxed: Literal["elbo", "kl", "density"]
    bound_every: Count | None
    score_term: Literal["dropped", "kept"]
    variance_draws: Draws


class SequenceOptions(TypedDict):
    """Keys of task=sequence."""

    variables: Count
    categories: Count
    segment: Count
    order: Annotated[int, Check(">= 0", lambda value: value >= 0)]
    hidden: Count
    relaxed: Literal["elbo", "kl", "density"]
    bound_every: Count | None
    score_term: Literal["dropped", "kept"]
    variance_draws: Draws


class CartPoleOptions(TypedDict):
    """Keys of task=cartpole."""

    env: Text
    max_steps: Count | None
    threshold: float | None
    frames: Count | None
    frame_skip: Count
    hidden: list[Count]
    gamma: Fraction
    entropy: NotNegative
    discount_weight: bool
    optimizer: Literal["adam", "rmsprop", "sgd"]
    beta2: Annotated[float, Check("from 0 to below 1", lambda value: 0 <= value < 1)]
    pseudo_rollouts: Count
    variance_every: Count | None
    variance_draws: Draws


class ContinuousOptions(TypedDict):
    """Keys of task=continuous."""

    env: Text
    threshold: float | None
    frames: Count | None
    envs: Count
    hidden: list[Count]
    gamma: Fraction
    trace: Fraction
    reward_scale: Positive
    normalize: bool
    entropy: NotNegative
    value_updates: Count
    surrogate_updates: Count
    optimizer: Literal["adam", "rmsprop", "sgd"]
    variance_every: Count | None
    variance_draws: Draws


class AtariOptions(TypedDict):
    """Keys of task=atari."""

    env: Text
    envs: Count
    gamma: Fraction
    entropy: NotNegative
    value_coef: NotNegative
    clip: Positive
    optimizer: Literal["adam", "rmsprop", "sgd"]
    frame_skip: Count
    sticky: BelowOne
    noop_max: Annotated[int, Check(">= 0", lambda value: value >= 0)]
    fire_reset: bool
    clip_rewards: bool
    max_frames: Count
    evaluate_episodes: Count
    variance_draws: Draws


class TemperatureOptions(TypedDict):
    """Keys of task=temperature."""

    problem: Literal["arsm", "cos"]
    categories: Categories | None
    optimizer: Literal["adam", "sgd"]
    draws: Draws
    points: Draws
    scale: NotNegative


class VerifyOptions(TypedDict):
    """Keys of task=verify."""

    draws: Draws


class TaskEntry(NamedTuple):
    """The keys of a task, the family of its random variables (None: any), and the module that executes it.

    ``estimators``: those that can do the task, where its family alone does not say so.
    """

    options: type
    family: str | None
    runner: str = "run"
    estimators: tuple[str, ...] | None = None


TASKS = {
    "toy": TaskEntry(ToyOptions, "bernoulli"),
    "vae": TaskEntry(VAEOptions, "bernoulli"),
    "categorical_toy": TaskEntry(CategoricalToyOptions, "categorical"),
    "lax_toy": TaskEntry(LaxToyOptions, "gaussian"),
    "categorical_vae": TaskEntry(CategoricalVAEOptions, "categorical"),
    "sequence": TaskEntry(SequenceOptions, "categorical"),
    "cartpole": TaskEntry(CartPoleOptions, "categorical", estimators=estimators.FROM_EPISODES),
    "continuous": TaskEntry(ContinuousOptions, "gaussian", estimators=("a2c", "lax")),
    "atari": TaskEntry(AtariOptions, "categorical", estimators=("a2c", "relax")),
    "temperature": TaskEntry(TemperatureOptions, None, "temperature"),
    "verify": TaskEntry(VerifyOptions, None, "verification"),
}

OPAQUE = {  # keys of a task that make f a black box
    "an environment": lambda task: "env" in task,
    "task.black_box=true": lambda task: task.get("black_box"),
    "task.problem=step": lambda task: task.get("problem") == "step",
}


def resolve(cfg: DictConfig, overrides: list[str]) -> dict:
    """The checked configuration: ``{"task": {"name", ...}, "estimator": {"name", ...}, "steps", ...}``.

    ``seeds`` and ``lrs`` are always lists (``seed`` and ``lr`` are gone), ``track`` maps names to options, ``compile``
    is "auto", True or False. ``overrides``: what was typed. Raises ConfigError.
    """
    groups = {"task": TASKS, "estimator": estimators.names()}
    if missing := [f"{group}=NAME, {one_of(names)}" for group, names in groups.items() if group not in cfg]:
        raise ConfigError(f"choose {'; and '.join(missing)} (relax-exp --help explains them)")
    try:
        values: Any = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise ConfigError(f"{error.full_key}: {error}".splitlines()[0]) from error

    task, estimator = values.pop("task"), values.pop("estimator")
    defaults = task.pop("estimator_defaults", {})
    name = checked("task.name", task.pop("name", None), Literal[*TASKS])
    task = {"name": name, **check(task, hints(TASKS[name].options), "task.")}
    estimator = _estimator(estimator, defaults)
    config = check(values, hints(RunOptions))
    config["track"] = {name: _estimator(_file(name, defaults), defaults) for name in config["track"]}

    typed = {override.lstrip("+").split("=")[0] for override in overrides}
    for one, many in (("lr", "lrs"), ("seed", "seeds")):
        if {one, many} <= typed:
            raise ConfigError(f"{one} and {many} exclude each other: type {one}=VALUE or '{many}=[VALUE,VALUE]'")
        value = config.pop(one)
        if config[many] is None or one in typed:
            config[many] = [value]

    for each in (estimator, *config["track"].values()):
        _check_fit(task, each, defaults)
    if "score_term" in task and all(_target(each) != "mean" for each in (estimator, *config["track"].values())):
        task["score_term"] = "kept"  # it has no effect there
    if "decoder_hidden" in task:
        task["decoder_hidden"] = limits.decoder_hidden(task)
    if "env" in task:
        limits.check_episodes(task, config)
    if name == "atari":
        limits.check_segments(task, config)
    return {"task": task, "estimator": estimator, **config}


def replicas(config: dict) -> list[tuple[int, float]]:
    """(seed, lr) of every replica, in the order in which they are stacked."""
    return [(seed, lr) for seed in config["seeds"] for lr in config["lrs"]]


def numbers(config: dict) -> dict:
    """The part of the configuration that changes the numbers, less keys at the value they had before they were keys."""
    return {key: value for key, value in added_keys.without(config).items() if key not in MACHINE_KEYS}


def run_hash(config: dict, without: Iterable[str] = ()) -> str:
    """Ten hexadecimal digits over `numbers`, seeds and learning rates included unless they are ``without``."""
    kept = {key: value for key, value in numbers(config).items() if key not in without}
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()[:10]


def group_key(config: dict) -> str:
    """The hash without the seeds: runs that differ in nothing else belong to one row of a report."""
    return run_hash(config, without=["seeds"])


def run_path(config: dict) -> Path:
    """Where the run is written: ``out``, else ``runs/TASK/ESTIMATOR-HASH``."""
    if config["out"] is not None:
        return Path(config["out"]).expanduser()
    return Path("runs", config["task"]["name"], f"{config['estimator']['name']}-{run_hash(config)}")


def _file(name: str, defaults: dict) -> dict:
    """The estimator's YAML file with a task's defaults filled in."""
    if name == "all":
        return {"name": "all", "path": None}
    section = OmegaConf.load(CONFIGS / "estimator" / f"{name}.yaml")
    cfg = OmegaConf.create({"task": {"estimator_defaults": defaults}, "estimator": section})
    return OmegaConf.to_container(cfg, resolve=True)["estimator"]


def _estimator(section: dict, defaults: dict) -> dict:
    """The options of an estimator, checked against the catalogue and against its own file. Raises ConfigError."""
    path = {"path": checked("estimator.path", section.pop("path"), Text | None)} if "path" in section else {}
    if path.get("path") is not None:
        return _own(section, path["path"])
    if path and section["name"] == "all":
        return {"name": "all", **path}
    name = checked("estimator.name", section.get("name"), Literal[*estimators.names()])
    return {**check(section, options.types(_file(name, defaults)), "estimator."), **path}


def _own(section: dict, path: str) -> dict:
    """The same for an estimator in a user's file; ``digest`` tells one text of the file from another."""
    if (name := section.pop("name", "all")) != "all":
        raise ConfigError(f"estimator={name} and estimator.path={path} exclude each other: leave one of them out")
    values = own.defaults(own.load(path))
    section = check(values | section, options.types(values), "estimator.")
    return {"name": Path(path).stem, "path": path, "digest": own.digest(path), **section}


def _target(estimator: dict) -> str:
    if estimator.get("path"):
        return own.load(estimator["path"]).target
    return estimators.target(estimator["name"], estimator)


def _check_fit(task: dict, estimator: dict, defaults: dict) -> None:
    """Whether the estimator can do the task. Raises ConfigError."""
    name, family = estimator["name"], TASKS[task["name"]].family
    if estimator.get("path"):
        _check_own(task, estimator)
        return
    least = 1 if name not in estimators.REGISTRY else estimators.lookup(name).least_samples
    if estimator.get("samples", least) < least:
        raise ConfigError(f"estimator.samples={estimator['samples']}: {name} compares samples, so at least {least}")
    limits.check_published_errors(task, family, estimator)
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
    if estimator.get("granularity") == "parameter" and "vae" not in task["name"]:
        raise ConfigError(
            f"estimator.granularity=parameter gives each tensor of an encoder an eta, and task={task['name']} has "
            "no encoder: use granularity=layer"
        )
    if "categories" in task:
        limits.check_categories(task, name)
    if task.get("relaxed") == "density" and name != "concrete":
        raise ConfigError(f"task.relaxed=density is a density of soft samples, which {name} has not: use concrete")
    if name == "exact" and task.get("latents", 0) > limits.MAX_EXACT_LATENTS:
        raise ConfigError(
            f"exact enumerates 2^{task['latents']} states: task.latents must be at most {limits.MAX_EXACT_LATENTS}"
        )


def _check_own(task: dict, estimator: dict) -> None:
    """Whether an estimator in a user's file can do the task. Raises ConfigError."""
    entry, cls = TASKS[task["name"]], own.load(estimator["path"])
    where = f"estimator.path={estimator['path']}"
    if entry.estimators:
        able = [name for name, it in TASKS.items() if it.family and not it.estimators]
        raise ConfigError(
            f"{where}: task={task['name']} takes {one_of(entry.estimators)}; yours trains on {one_of(able)}"
        )
    if entry.family and entry.family not in own.families(cls):
        raise ConfigError(
            f"{where}: {cls.__name__} is for {', '.join(own.families(cls))} variables, and task={task['name']} has "
            f'{entry.family} ones: set families = ("{entry.family}",) in the class if it can do them'
        )
    opaque = [key for key, on in OPAQUE.items() if on(task)]
    if opaque and cls.needs != "value":
        raise ConfigError(f"{where}: {cls.__name__} differentiates f, which {opaque[0]} forbids")
