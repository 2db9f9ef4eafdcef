"""The tasks, one record each: their keys and what else is to be known of them before they are imported.

Plain data that does not import torch, since configuration checks read it. Values and their meaning are in
``configs/task/NAME.yaml``, and nowhere else; types and checks are here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar, dataclass_transform

from relax_exp import estimators
from relax_exp.data import Binarization, Dataset
from relax_exp.schema import (
    BelowOne,
    Categories,
    Check,
    Count,
    Draws,
    Fraction,
    NotNegative,
    NotNegativeCount,
    Positive,
    Text,
)


@dataclass(frozen=True, kw_only=True)
class TaskEntry:
    """All that is to be known of a task before it is imported.

    What its tables and figures show is a `relax_exp.report.kinds.base.Kind` of the same name, where it has one.

    Attributes:
        options: The frozen dataclass of its keys, which its class is handed whole.
        path: The module and class below `relax_exp.tasks`; of a study, the module below `relax_exp.studies` that
            executes it.
        family: That of its random variables; None: any, as in a study. See `family_of`.
        experience: What it learns from, which decides on its trainer: "data" (a data set, or nothing but noise), whole
            "episodes", "batches" of them, or "segments" of games that go on.
        estimators: Those that can do the task, where its family alone does not say so.
        headline: Metrics shown on the console at each evaluation.
        encoder: Whether it has one, whose tensors an estimator can tell apart.
        gpu: Whether its steps are large enough that ``device=auto`` takes a GPU where there is one.
        unused: Keys of every run that it does not look at.
        beside: The estimators that it sets beside each other each time, in words, so that none can be chosen.
    """

    options: type
    path: str
    family: str | None = None
    experience: Literal["data", "episodes", "batches", "segments"] = "data"
    estimators: tuple[str, ...] | None = None
    headline: tuple[str, ...] = ("loss", "grad/log_variance")
    encoder: bool = False
    gpu: bool = False
    unused: tuple[str, ...] = ()
    beside: str = ""

    def family_of(self, task: Mapping[str, Any]) -> str | None:
        """Return the family of a configuration's variables: binary ones are categorical where it has categories."""
        return "categorical" if self.family == "bernoulli" and task.get("categories") else self.family

    @property
    def families(self) -> tuple[str, ...]:
        """All that `family_of` may be."""
        both = self.family == "bernoulli" and "categories" in self.options.__annotations__
        return ("bernoulli", "categorical") if both else (self.family,) if self.family else ()

    @property
    def runner(self) -> str:
        """The module below `relax_exp` that executes a run of the task."""
        return "runs.run" if ":" in self.path else f"studies.{self.path}"


TASKS: dict[str, TaskEntry] = {}
OF_TRAINING = ("steps", "lr", "lrs", "batch_size", "eval_every", "track")  # keys of every run that trains
Options = TypeVar("Options", bound=type)


@dataclass_transform(frozen_default=True, kw_only_default=True)
def task(name: str, path: str, **record: Any) -> Callable[[Options], Options]:
    """Make a frozen dataclass of a class with the keys of a task, and enter its `TaskEntry` in `TASKS`."""

    def enter(cls: Options) -> Options:
        options = dataclass(frozen=True, kw_only=True)(cls)
        TASKS[name] = TaskEntry(options=options, path=path, **record)
        return options

    return enter


# At the end the bounds of all validation images, which tables show, beside those of the first 1,000.
OF_BOUNDS = (
    "train/elbo",
    "valid/elbo",
    "valid/elbo_full",
    "valid/bound100",
    "valid/bound100_full",
    "grad/log_variance",
)
OF_STATES = ("loss", "excess", "p_best", "grad/log_variance")
OF_EPISODES = ("return", "return100", "episodes", "frames", "solved_episodes", "grad/log_variance")


@task("toy", "toy:Toy", family="bernoulli", headline=("excess", "theta", "grad/log_variance"))
class ToyOptions:
    """Keys of task=toy."""

    t: Fraction
    latents: Count
    black_box: bool
    variance_draws: Draws
    freeze: bool


@task("vae", "vae:VAE", family="bernoulli", headline=OF_BOUNDS, encoder=True, gpu=True)
class VAEOptions:
    """Keys of task=vae."""

    dataset: Dataset
    model: Literal["linear1", "linear2", "nonlinear"]
    latents: Count
    hidden: Count
    decoder_hidden: Count | None
    binarize: Binarization
    first_epoch: Literal["file", "shuffled"]
    initial_weights: Literal["glorot", "he"]
    moving_variance: BelowOne | None
    bound_every: Count | None
    score_term: Literal["dropped", "kept"]
    variance_draws: Draws


@task("categorical_toy", "categorical_toy:CategoricalToy", family="categorical", headline=OF_STATES)
class CategoricalToyOptions:
    """Keys of task=categorical_toy."""

    problem: Literal["arsm", "cos", "quadratic"]
    categories: Categories | None
    optimizer: Literal["adam", "sgd"]
    variance_draws: Draws


@task("permutation", "permutation:Permutation", family="permutation", headline=OF_STATES)
class PermutationOptions:
    """Keys of task=permutation."""

    items: Annotated[int, Check("from 2 to 8", lambda value: 2 <= value <= 8)]
    eps: Positive
    variance_draws: Draws


@task("lax_toy", "lax_toy:LaxToy", family="gaussian", headline=("excess", "mean", "std", "grad/log_variance"))
class LaxToyOptions:
    """Keys of task=lax_toy."""

    problem: Literal["quadratic", "cosine", "step"]
    t: float
    latents: Count
    variance_draws: Draws


@task(
    "categorical_vae",
    "categorical_vae:CategoricalVAE",
    family="categorical",
    headline=(*OF_BOUNDS[:-1], "test/elbo_full", OF_BOUNDS[-1]),
    encoder=True,
    gpu=True,
)
class CategoricalVAEOptions:
    """Keys of task=categorical_vae."""

    dataset: Dataset
    layers: Literal[1, 2]
    variables: Count
    categories: Categories
    hidden: list[Count]
    activation: Literal["tanh", "relu", "leaky_relu"]
    initial_weights: Literal["glorot", "torch"]
    optimizer: Literal["adam", "radam", "adamw"]
    warmup_epochs: NotNegativeCount
    cosine_epochs: Count | None
    binarize: Binarization
    train_images: Literal["train", "all"]
    centred: bool
    learned_prior: bool
    pinned: bool
    relaxed: Literal["elbo", "kl", "density"]
    bound_every: Count | None
    score_term: Literal["dropped", "kept"]
    variance_draws: Draws


@task(
    "sequence",
    "sequence:Sequence",
    family="categorical",
    headline=("train/bpc", "valid/bpc", "valid/bpc100", "valid/bpc_counts", "grad/log_variance"),
    gpu=True,
)
class SequenceOptions:
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


@task(
    "structured",
    "structured:Structured",
    family="bernoulli",
    headline=(*OF_BOUNDS[:-1], "test/bound1000", OF_BOUNDS[-1]),
    encoder=True,
    gpu=True,
)
class StructuredOptions:
    """Keys of task=structured."""

    dataset: Dataset
    layers: Literal[1, 2, 3]
    variables: Count
    categories: Categories | None
    binarize: Binarization
    centred: bool
    optimizer: Literal["adam", "momentum"]
    test_samples: Count
    bound_every: Count | None
    variance_draws: Draws


@dataclass(frozen=True, kw_only=True)
class DiscreteControlOptions:
    """Keys of an environment with few actions, and of how long it is played."""

    env: Text
    max_steps: Count | None
    threshold: float | None
    frames: Count | None
    frame_skip: Count
    until_solved: bool
    freeze_at: float | None


@dataclass(frozen=True, kw_only=True)
class PolicyOptions:
    """Keys of what `relax_exp.tasks.episodic.PolicyTask` learns, whatever the environment."""

    hidden: list[Count]
    gamma: Fraction
    entropy: NotNegative
    discount_weight: bool
    optimizer: Literal["adam", "rmsprop", "sgd"]
    beta2: Annotated[float, Check("from 0 to below 1", lambda value: 0 <= value < 1)]
    pseudo_rollouts: Count


@task(
    "cartpole",
    "cartpole:CartPole",
    family="categorical",
    experience="episodes",
    estimators=estimators.FROM_EPISODES,
    headline=OF_EPISODES,
)
class CartPoleOptions(PolicyOptions, DiscreteControlOptions):
    """Keys of task=cartpole."""

    variance_every: Count | None
    variance_draws: Draws


@task(
    "continuous",
    "continuous:Continuous",
    family="gaussian",
    experience="batches",
    estimators=("a2c", "lax"),
    headline=OF_EPISODES,
)
class ContinuousOptions:
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
    surrogate_objective: Literal["batch", "episodes"]
    optimizer: Literal["adam", "rmsprop", "sgd"]
    variance_every: Count | None
    variance_draws: Draws


@task(
    "atari",
    "atari:Atari",
    family="categorical",
    experience="segments",
    estimators=("a2c", "relax"),
    headline=("return", "value_loss", "entropy", "eval/return", "time/frames_per_second"),
    gpu=True,
)
class AtariOptions:
    """Keys of task=atari."""

    env: Text
    envs: Count
    gamma: Fraction
    entropy: NotNegative
    value_coef: NotNegative
    clip: Positive
    optimizer: Literal["adam", "rmsprop", "rmsprop_tf", "sgd"]
    frame_skip: Count
    sticky: BelowOne
    noop_max: Annotated[int, Check(">= 0", lambda value: value >= 0)]
    fire_reset: bool
    life_loss_ends: bool
    clip_rewards: bool
    max_frames: Count
    evaluate_episodes: Count
    variance_draws: Draws


@task("temperature", "temperature", estimators=("concrete", "st_gumbel", "straight_through"))
class TemperatureOptions:
    """Keys of task=temperature."""

    problem: Literal["arsm", "cos", "quadratic"]
    categories: Categories | None
    optimizer: Literal["adam", "sgd"]
    draws: Draws
    points: Draws
    scale: NotNegative


@task(
    "simplex",
    "simplex",
    estimators=("st_gumbel", "gumbel_rao"),
    unused=OF_TRAINING,
    beside="st_gumbel and gumbel_rao",
)
class SimplexOptions:
    """Keys of task=simplex."""

    draws: Draws
    points: Draws


@task(
    "histograms",
    "histograms",
    estimators=("reinforce", "rebar", "relax", "lax", "reparameterization"),
    unused=("batch_size", "eval_every", "track"),
    beside="its estimators",
)
class HistogramsOptions:
    """Keys of task=histograms."""

    t: Fraction
    problem: Literal["quadratic", "cosine"]
    draws: Draws


@task("verify", "verification", unused=OF_TRAINING)
class VerifyOptions:
    """Keys of task=verify."""

    draws: Draws


CATEGORIES = {"arsm": 30, "cos": 4, "quadratic": 3}  # of the categorical toy problems, where none are given
