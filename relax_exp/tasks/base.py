"""What the trainers ask of tasks: of all of them, and of those that learn from episodes, batches of them, or games."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from relax_exp.numerics.optimizers import adam

if TYPE_CHECKING:
    from relax_exp.envs.atari import Games
    from relax_exp.envs.slots import Slots

Tree = Any  # a pytree of tensors


class Model(NamedTuple):
    """What training changes in one replica: the model's parameters, and parameters and buffers of its estimators."""

    params: Tree
    tuning: Tree
    buffers: Tree


class Gradients(NamedTuple):
    """One draw of all gradients.

    Attributes:
        params: The gradient of the minibatch-mean loss in the model's parameters.
        tuning: The gradient of the tuning loss in the estimators' parameters.
        buffers: New values of the estimators' buffers.
        loss: The minibatch-mean loss, a scalar.
        tuning_loss: The tuning loss, a scalar.
        metrics: Scalars to average over the steps between evaluations.
    """

    params: Tree
    tuning: Tree
    buffers: Tree
    loss: Tensor
    tuning_loss: Tensor
    metrics: dict[str, Tensor]


class Task:
    """Base class. ``init`` and ``gradients`` are for ONE replica; the trainer vmaps ``gradients``. Others take all.

    Attributes: ``options``, the task's keys, an instance of the dataclass in `relax_exp.tasks.registry`; those of the
    estimator, ``estimator_options``, and its name; ``batch_size``; ``optimizer`` of the model's parameters, one of
    `OPTIMIZERS`; ``betas`` of Adam; ``lr_scale`` of the tuning parameters; ``warmup`` updates of the tuning parameters
    before training; ``data`` (N, ...) or None, and ``first_epoch``, whether its rows come as in the "file" or
    "shuffled" in epoch 0; ``dtype``; ``device``.
    """

    name: str
    optimizer: str = "adam"
    betas: tuple[float, float] = (0.9, 0.999)
    data: Tensor | None = None
    first_epoch: str = "shuffled"
    compile_after: float = 2000  # steps from which compile=auto compiles
    selection: str | None = None  # metric by whose highest value parameters are kept for `test`
    data_noise: tuple[str, ...] = ()  # names of noise that makes the minibatch, not the gradient
    evaluations: int = 1  # of f for one gradient
    meta: dict[str, Any] = {}  # noqa: RUF012  # what meta.json says of the task, beside the configuration
    measured_on: dict[str, str] = {}  # noqa: RUF012  # the part of the data, in words, that a metric is measured on

    def __init__(
        self,
        estimator: dict[str, Any],
        options: Any,
        *,
        batch_size: int,
        dtype: torch.dtype = torch.float32,
        device: str | torch.device = "cpu",
    ):
        """Keep what every task is given; ``lr_scale`` and ``warmup`` of the estimator's options are the task's own."""
        self.estimator_options = dict(estimator)
        self.estimator_name: str = self.estimator_options.pop("name")
        self.lr_scale: float = self.estimator_options.pop("lr_scale", 1.0)
        self.warmup: int = self.estimator_options.pop("warmup", 0)
        self.estimator_options.pop("digest", None)  # of the file ``path``, which tells runs apart and builds nothing
        self.options, self.batch_size, self.dtype, self.device = options, batch_size, dtype, torch.device(device)

    def compile(self) -> None:
        """Compile what evaluation spends its time on; called where the step is compiled."""

    def init(self, generator: torch.Generator) -> Model:
        """Draw the initial parameters of one replica from ``generator``."""
        raise NotImplementedError

    def noise_shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shapes of the uniform noise that one step of one replica uses, by name."""
        raise NotImplementedError

    def example(self) -> dict[str, Any]:
        """Return a minibatch such as `gradients` takes, whatever its numbers."""
        return {} if self.data is None else {"x": self.data[: self.batch_size]}

    def of_data(self) -> dict[str, Tensor]:
        """Return what `gradients` takes from the data set besides rows, such as the mean of the images, by name."""
        return {}

    def gradients(self, model: Model, batch: dict[str, Any], noise: dict[str, Tensor]) -> Gradients:
        """Draw all gradients of one replica once; a pure function that draws no noise itself.

        Args:
            model: The parameters and buffers of one replica.
            batch: {}, or {"x": rows of ``data``}, or what the trainer has played. With rows of another data set there
                is its `of_data` too, in the place of the task's own.
            noise: Uniform noise of `noise_shapes`.
        """
        raise NotImplementedError

    def rate(self, lr: Tensor, t: Tensor, batch: dict[str, Any]) -> Tensor:
        """Return the learning rate of the model's parameters in the step after ``t`` of them, a scalar.

        ``lr`` is that of the configuration, at which tuning parameters go on; ``batch`` is what `gradients` is given.
        """
        return lr

    def tune(
        self,
        model: Model,
        grads: Gradients,
        moments: Tree,
        t: Tensor,
        lr: Tensor,
        batch: dict[str, Any],
        noise: dict[str, Tensor],
    ) -> tuple[Tree, Tree]:
        """Return new tuning parameters and moments; pure as `gradients` is.

        Here it is one step of Adam, the ``t``-th.
        """
        return adam(model.tuning, grads.tuning, moments, t, lr, self.betas)

    def evaluate(self, models: Model, seeds: list[int], step: int, final: bool) -> list[dict[str, float]]:
        """Return the metrics of all replicas, one dictionary each, with ``models`` stacked in front.

        It draws from named streams.
        """
        raise NotImplementedError

    def variance(self, models: Model, seeds: list[int], step: int) -> list[dict[str, float]]:
        """Return the gradient's log-variance (`summarize_variance`) of all replicas, from fresh draws.

        `evaluate` has it too.
        """
        raise NotImplementedError

    def test(self, params: dict[str, Tensor], best: dict[str, Tensor], seeds: list[int]) -> list[dict[str, float]]:
        """Return metrics on the test set at the end, of the last ``params`` and of the ``best`` by `selection`.

        Both are stacked over replicas; the result is one dictionary each.
        """
        raise NotImplementedError

    def finish(self, models: Model, labels: list[str]) -> dict[str, Any]:
        """Return files to leave in the run folder at the end, as JSON-able content by name."""
        return {}

    def images(self, models: Model, replica: int, seed: int) -> dict[str, Tensor]:
        """Return pictures for TensorBoard, ``(N, C, H, W)`` in [0, 1] by name, where C is 1 or 3."""
        return {}

    def videos(self, models: Model, replica: int, seed: int) -> dict[str, Tensor]:
        """Return episodes as films, uint8 ``(T, H, W)`` or ``(T, H, W, 3)`` by name."""
        return {}


class EpisodeTask(Task):
    """What the trainer of whole episodes, `relax_exp.training.episodes.Episodes`, asks of a task besides.

    A batch has ``state`` (E, T, S), ``action`` (E, T, A), ``loss`` (E, T) and ``alive`` (E, T): 1 within the episode.

    Attributes:
        episodes: Episodes of an update, E.
        actions: Numbers that an action is made of, A.
        gamma: Discount of a step.
        threshold: Mean return of the last 100 episodes from which the environment counts as solved.
        frames: Steps of the environment after which a replica stops, or None.
        frame_skip: How often an action is taken.
        until_solved: Whether a replica stops once it has solved the environment.
        freeze_at: Mean return of the a2c policy that is copied into a replica and kept fixed there, or None.
        replayed: Whether the estimator asks what other actions would have led to.
        pseudo_rollouts: Such other actions of an episode that are tried.
        variance_every: Steps between measurements of the gradient's variance, or None for none.
        variance_draws: Updates from whose gradients it is measured.
    """

    episodes: int
    actions: int
    gamma: float
    threshold: float
    frames: int | None = None
    frame_skip: int = 1
    until_solved: bool = False
    freeze_at: float | None = None
    replayed: bool = False
    pseudo_rollouts: int = 0
    variance_every: int | None = None
    variance_draws: int = 2

    def make(self, slots: int, **options: Any) -> Slots:
        """Make ``slots`` slots of the environment."""
        raise NotImplementedError

    def learner(self) -> EpisodeTask:
        """Make the task that learns the policies which are frozen at ``freeze_at``."""
        raise NotImplementedError


class BatchTask(EpisodeTask):
    """What the trainer of batches of episodes, `relax_exp.training.episode_batches.Batches`, asks besides.

    Attributes:
        quota: Steps that a slot takes at least.
        trace: The lambda of generalised advantages.
        reward_scale: A factor of the rewards that are learned from.
        by_episode: Whether it asks which episode of its slot a step belongs to.
    """

    quota: int
    trace: float
    reward_scale: float
    by_episode: bool = False

    def mean(self, params: Tree, states: Tensor) -> Tensor:
        """Return the mean of the policy, ``(..., N, A)``, at states ``(..., N, S)``."""
        raise NotImplementedError

    def value(self, tuning: Tree, states: Tensor) -> Tensor:
        """Return V at states ``(..., N, S)``, in units of ``reward_scale``."""
        raise NotImplementedError


class SegmentTask(Task):
    """What the trainer of segments of games, `relax_exp.training.game_segments.Segments`, asks of a task besides.

    Attributes:
        envs: Games side by side.
        length: Steps of a segment.
        gamma: Discount of a step.
        frame_skip: Frames of a step.
    """

    envs: int
    length: int
    gamma: float
    frame_skip: int

    def clip(self, rewards: Tensor) -> Tensor:
        """Return the rewards that are learned from."""
        raise NotImplementedError

    def games(self, slots: int, seed: Callable[[int, int], int], groups: int | None = None) -> Games:
        """Make ``slots`` games, whose k-th seed in a slot is ``seed(slot, k)``."""
        raise NotImplementedError

    def segment_variance(self, model: Model, batch: dict[str, Tensor], seed: int, step: int) -> dict[str, float]:
        """Measure the log-variance of the gradient on one segment."""
        raise NotImplementedError


def draw(
    shapes: dict[str, tuple[int, ...]], count: int, generator: torch.Generator, dtype: torch.dtype
) -> dict[str, Tensor]:
    """Draw the uniform noise of ``count`` steps, ``(count, *shape)`` by name."""
    return {k: torch.rand((count, *s), generator=generator, dtype=dtype) for k, s in shapes.items()}


def log_variances(gradients: Tensor) -> dict[str, Tensor]:
    """Return `summarize_variance` of the sample variance (n - 1) of gradients ``(draws, parameters)``."""
    return summarize_variance(gradients.var(0))


def summarize_variance(variance: Tensor) -> dict[str, Tensor]:
    """Summarise variances ``(parameters,)``, in natural logarithms.

    Returns:
        ``grad/log_variance``, the log of the mean, and ``grad/mean_log_variance``, the mean of the logs.
    """
    tiny = torch.finfo(variance.dtype).tiny
    variance = variance.clamp(min=tiny)
    return {"grad/log_variance": variance.mean().log(), "grad/mean_log_variance": variance.log().mean()}
