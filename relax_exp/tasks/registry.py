"""The tasks, by name: types of their keys, class, family and what the console shows of them."""

from __future__ import annotations

from typing import Annotated, Literal, NamedTuple, TypedDict

from relax_exp import estimators
from relax_exp.data import BINARIZATIONS, DATASETS
from relax_exp.schema import (
    BelowOne,
    Categories,
    Check,
    Count,
    Draws,
    Fraction,
    NotNegative,
    Positive,
    Text,
)


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
    until_solved: bool
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
    runner: str = "runs.run"
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
    "temperature": TaskEntry(TemperatureOptions, None, "studies.temperature"),
    "verify": TaskEntry(VerifyOptions, None, "studies.verification"),
}


CATEGORIES = {"arsm": 30, "cos": 4}  # of the categorical toy problems, where none are given


CLASSES = {  # module and class
    "toy": ("toy", "Toy"),
    "categorical_toy": ("categorical_toy", "CategoricalToy"),
    "lax_toy": ("lax_toy", "LaxToy"),
    "vae": ("vae", "VAE"),
    "categorical_vae": ("categorical_vae", "CategoricalVAE"),
    "sequence": ("sequence", "Sequence"),
    "cartpole": ("cartpole", "CartPole"),
    "atari": ("atari", "Atari"),
    "continuous": ("continuous", "Continuous"),
}
HEADLINES = {  # metrics shown on the console at each evaluation
    "toy": ("excess", "theta", "grad/log_variance"),
    "categorical_toy": ("loss", "excess", "p_best", "grad/log_variance"),
    "lax_toy": ("excess", "mean", "std", "grad/log_variance"),
    "vae": ("train/elbo", "valid/elbo", "valid/bound100", "grad/log_variance"),
    "categorical_vae": ("train/elbo", "valid/elbo", "valid/bound100", "grad/log_variance"),
    "sequence": ("train/bpc", "valid/bpc", "valid/bpc100", "valid/bpc_counts", "grad/log_variance"),
    "continuous": ("return", "return100", "episodes", "frames", "solved_episodes", "grad/log_variance"),
    "cartpole": ("return", "return100", "episodes", "frames", "solved_episodes", "grad/log_variance"),
    "atari": ("return", "value_loss", "entropy", "eval/return", "time/frames_per_second"),
}
