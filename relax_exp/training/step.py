"""One step of training: a pure function, vectorized over replicas, compiled where that pays."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from relax_exp.numerics import cpu_programs, gpu_programs
from relax_exp.numerics.optimizers import OPTIMIZERS
from relax_exp.numerics.random_streams import stream
from relax_exp.numerics.trees import each
from relax_exp.tasks.base import Model, Task, draw

WATCHED = ("loss", "gradient norm", "tuning loss", "tuning gradient norm")  # checked for NaN and infinity each step
SEEN = ("failed_at", "failed_what", "last_finite")  # what the state keeps of them
UNSEEN = WATCHED.index("gradient norm")  # in an update of the tuning parameters alone
TUNED = WATCHED.index("tuning gradient norm")


class State(NamedTuple):
    """Everything that moves, for one replica or stacked over replicas.

    It has the model and the moments of both optimizers, and

    Attributes:
        t: The steps taken.
        tuning_t: The updates of the tuning parameters taken, those of the warm-up included.
        sums: Running sums of the metrics since the last evaluation.
        summed: How many values each of them holds.
        lr: The learning rate of the configuration.
        failed_at: The step at which a watched quantity was first not finite; 0: none, negative: a warm-up update.
        failed_what: Its index in `WATCHED`.
        last_finite: The last finite value of each.
    """

    model: Model
    moments: dict[str, Any]
    tuning_moments: dict[str, Any]
    t: Tensor
    tuning_t: Tensor
    lr: Tensor
    sums: dict[str, Tensor]
    summed: Tensor
    failed_at: Tensor
    failed_what: Tensor
    last_finite: Tensor


Step = Callable[[State, dict[str, Any], dict[str, Tensor]], State]


def make_step(task: Task) -> Step:
    """Make the training step of one replica: ``step(state, batch, noise) -> state``.

    The step draws, mutates and prints nothing.
    """

    def step(state: State, batch: dict[str, Any], noise: dict[str, Tensor]) -> State:
        model = state.model
        grads = task.gradients(model, batch, noise)
        t, tuning_t, lr = state.t + 1, state.tuning_t + 1, task.rate(state.lr, state.t, batch)
        descend = OPTIMIZERS[task.optimizer]
        params, moments = descend(model.params, grads.params, state.moments, t, lr, task.betas)
        tuning_lr = state.lr * task.lr_scale
        tuning, tuning_moments = task.tune(model, grads, state.tuning_moments, tuning_t, tuning_lr, batch, noise)
        zero = torch.zeros_like(grads.loss)
        norms = norm(grads.params, zero), norm(grads.tuning, zero)
        watched = torch.stack([grads.loss, norms[0], grads.tuning_loss, norms[1]])
        metrics = {"train/loss": grads.loss, **grads.metrics}
        return State(
            Model(params, tuning, grads.buffers),
            moments,
            tuning_moments,
            t,
            tuning_t,
            state.lr,
            {k: state.sums[k] + v for k, v in metrics.items()},
            state.summed + 1,
            *_watch(state, watched, watched.isfinite(), t),
        )

    return step


def make_tuning_update(task: Task) -> Callable[[State, dict[str, Any], dict[str, Tensor]], dict[str, Any]]:
    """Make the update of the tuning parameters alone, of one replica, for the warm-up of an estimator.

    It returns what `tuned` puts into the state. The gradient of the model's parameters is not looked at, so that a
    trace of the update need not compute it.
    """

    def update(state: State, batch: dict[str, Any], noise: dict[str, Tensor]) -> dict[str, Any]:
        grads = task.gradients(state.model, batch, noise)
        t, lr = state.tuning_t + 1, state.lr * task.lr_scale
        tuning, moments = task.tune(state.model, grads, state.tuning_moments, t, lr, batch, noise)
        zero = torch.zeros_like(grads.loss)
        watched = [grads.loss, zero, grads.tuning_loss, norm(grads.tuning, zero)]
        finite = torch.stack(watched).isfinite()
        watched[UNSEEN] = state.last_finite[UNSEEN]
        seen = dict(zip(SEEN, _watch(state, torch.stack(watched), finite, -t), strict=True))
        return {"tuning": tuning, "tuning_moments": moments, "tuning_t": t, **seen}

    return update


def of_tuning(old: State, new: State) -> dict[str, Any]:
    """Return what a whole step has changed of what a tuning update changes."""
    # Of several failures the state names the first, which may be the one that does not count. One of the tuning's own
    # gradient shows in the parameters that were made with it.
    unseen = new.failed_what == UNSEEN
    lost = ~norm(new.model.tuning, torch.zeros_like(new.lr)).isfinite()
    fails = (new.failed_at != old.failed_at) & (~unseen | lost)
    last = [(old if i == UNSEEN else new).last_finite[..., i] for i in range(len(WATCHED))]
    return {
        "tuning": new.model.tuning,
        "tuning_moments": new.tuning_moments,
        "tuning_t": new.tuning_t,
        "failed_at": torch.where(fails, -new.tuning_t, old.failed_at),
        "failed_what": torch.where(fails, torch.where(unseen, TUNED, new.failed_what), old.failed_what),
        "last_finite": torch.stack(last, -1),
    }


def tuned(state: State, changed: dict[str, Any]) -> State:
    """Return the state with what `make_tuning_update` or `of_tuning` gave."""
    others = {k: v for k, v in changed.items() if k != "tuning"}
    return state._replace(model=state.model._replace(tuning=changed["tuning"]), **others)


def _watch(state: State, watched: Tensor, finite: Tensor, at: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return when and where values of `WATCHED` were first not finite, and the last finite ones, at count ``at``."""
    alive = state.failed_at == 0
    fails = alive & ~finite.all()
    return (
        torch.where(fails, at, state.failed_at),
        torch.where(fails, (~finite).to(torch.int64).argmax(), state.failed_what),
        torch.where(alive & finite, watched, state.last_finite),
    )


def compile_step(step: Step, backend: str, device: torch.device) -> Step:
    """Compile ``step`` for the shapes of its first call, on ``device``.

    The new state overwrites the old one, so that parameters and moments stay in the processor's cache.
    """
    # A sweep compiles one program after the other: Dynamo would give up after eight of one function, and would make
    # the sizes that differ dynamic, which changes last bits.
    torch.compiler.reset()
    # Checking a few hundred tensors for the shapes that they always have takes a tenth of a step.

    def unguarded(guards: Sequence[Any]) -> list[bool]:
        return [False] * len(guards)

    def copied(old: Tensor, new: Tensor) -> Tensor:
        return old.copy_(new)

    def overwrite(state: State, batch: dict[str, Any], noise: dict[str, Tensor]) -> None:
        tree_map(copied, state, step(state, batch, noise))

    if device.type == "cuda" and backend == "inductor":
        program = gpu_programs.compile(overwrite, guard_filter_fn=unguarded)
    else:
        program = cpu_programs.compile(overwrite, backend, often=True, guard_filter_fn=unguarded)

    def call(state: State, batch: dict[str, Any], noise: dict[str, Tensor]) -> State:
        program(state, batch, noise)
        return state

    return call


def alone(function: Callable[..., Any]) -> Callable[..., Any]:
    """Apply a function to trees with a batch dimension of one, which vmap would turn into batched matrix products."""

    def squeezed(*trees: Any) -> Any:
        return each(lambda x: x.unsqueeze(0), function(*each(lambda x: x[0], trees)))

    return squeezed


def norm(tree: Any, zero: Tensor) -> Tensor:
    """Compute the Euclidean norm of all leaves together."""
    return sum((leaf.square().sum() for leaf in tree_leaves(tree)), zero).sqrt()


def metric_names(task: Task) -> list[str]:
    """Return the names of the metrics that a step averages, found by computing gradients once."""
    model = task.init(stream(0, "names"))
    noise = each(lambda x: x[0], draw(task.noise_shapes(), 1, stream(0, "names"), task.dtype))
    device = tree_leaves(model.params)[0].device
    noise = each(lambda x: x.to(device), noise)
    return ["train/loss", *task.gradients(model, task.example(), noise).metrics]
