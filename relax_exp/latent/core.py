"""What `Latent` and `Chain` share: one pass with an autograd graph, then every layer's estimator without one.

Tensors here have one dimension of n rows. In front of it stand the K chains of a K-sample estimator, or the points at
which an estimator compares f: ``(*lead, n, ...)``. The user's callables see all of these as ``(rows, ...)``.

The first pass draws the samples and evaluates f where autograd sees it: that graph holds the direct gradients, those of
f's own parameters and of whatever f was given as a row tensor. Everything else, further evaluations of f included, runs
under ``torch.no_grad`` with `torch.func` inside: nothing of it reaches f's parameters, and no second graph is kept.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.func import functional_call

from relax_exp.estimators.base import Estimator, FromSample, Objective, Output, SampleOnly, ScoreFunction
from relax_exp.estimators.exact import Exact
from relax_exp.estimators.pathwise import Pathwise
from relax_exp.estimators.rodeo import GradientLeaveOneOut
from relax_exp.latent import checks
from relax_exp.latent.attach import Tuning, attach, tuned
from relax_exp.numerics.sums import total

Noise = dict[str, Tensor]
TEMPERATURE = 0.5  # of a relaxed layer above one that relaxes, where it has none of its own


class Program(NamedTuple):
    """The model, as callables of flat lists, with its ``rows`` (row tensors, ``(n, ...)``).

    Attributes:
        parameters: Of layer i, (samples below, row tensors) -> its logits.
        loss: (samples, logits of all layers, row tensors) -> one number a row.
        contexts: Of layer i as in ``parameters``, or None.
        score_term: Whether the first pass hands the logits to ``loss`` with their gradient.
    """

    parameters: Sequence[Callable[[list[Tensor], list[Tensor]], Tensor]]
    loss: Callable[[list[Tensor], list[Tensor], list[Tensor]], Tensor]
    contexts: Sequence[Callable[[list[Tensor], list[Tensor]], Tensor] | None]
    rows: list[Tensor]
    n: int
    score_term: bool = True


class Passes:
    """The passes through one model that the gradients of one step take."""

    def __init__(self, estimators: Sequence[Estimator], program: Program, noise: Sequence[Noise]):
        self.estimators, self.program, self.noise = estimators, program, noise

    def climb(self, samples: list[Tensor], logits: list[Tensor], lead: tuple[int, ...], convert, keep=None):
        """Return samples and logits of all layers, and losses ``(*lead, n)``, from the samples of the lower layers on.

        Args:
            samples: Those of the lower layers.
            logits: Their logits.
            lead: The dimensions in front of the rows.
            convert: Of the number of a layer and its logits, what stands for its sample. The samples of a layer may
                have more leading dimensions than its logits: those above have them too.
            keep: What is done to the logits before ``loss`` sees them.
        """
        program, n = self.program, self.program.n
        samples, logits = list(samples), list(logits)
        for k in range(len(samples), len(self.estimators)):
            points, rows = self._points(samples, lead), self._rows(lead)
            estimator = self.estimators[k]
            shape = estimator.family.parameter_shape(estimator.event_shape)
            logits.append(program.parameters[k](points, rows).reshape(*lead, n, *shape))
            samples.append(convert(k, logits[-1]))
            lead = samples[-1].shape[: -1 - len(estimator.event_shape)]
        shown = [spread(x, lead, len(self._parameters(i))) for i, x in enumerate(logits)]
        shown = shown if keep is None else [keep(x) for x in shown]
        losses = program.loss(self._points(samples, lead), shown, self._rows(lead))
        return samples, logits, losses.reshape(*lead, n)

    def _parameters(self, i: int) -> tuple[int, ...]:
        return self.estimators[i].family.parameter_shape(self.estimators[i].event_shape)

    def _points(self, samples: list[Tensor], lead: tuple[int, ...]) -> list[Tensor]:
        return [spread(b, lead, len(self.estimators[i].event_shape)) for i, b in enumerate(samples)]

    def _rows(self, lead: tuple[int, ...]) -> list[Tensor]:
        return [spread(row, lead, row.dim() - 1) for row in self.program.rows]

    def hard(self, k: int, logits: Tensor) -> Tensor:
        """Draw layer k's sample, along its path where the estimator is pathwise."""
        estimator = self.estimators[k]
        if isinstance(estimator, Pathwise):
            return estimator.relax(logits, self.noise[k])
        return estimator.sample(logits.detach(), self.noise[k])

    def objective(self, i: int, samples: list[Tensor], logits: list[Tensor], temperatures: list) -> Objective:
        """Return f as a function of what stands in place of layer i's sample.

        The layers below stay as they were drawn.
        """
        event = len(self.estimators[i].event_shape)

        def soft(k: int, logits: Tensor) -> Tensor:
            estimator = self.estimators[k]
            if isinstance(estimator, Pathwise):
                return self.hard(k, logits)
            return estimator.soften(estimator.family.path(logits, self.noise[k]["u"]), logits, temperatures[k])

        def mean(k: int, logits: Tensor) -> Tensor:
            return self.estimators[k].family.mean(logits)

        def value(convert):
            def at(s: Tensor, own: Tensor) -> Tensor:
                lead = s.shape[: -1 - event]
                return self.climb([*samples[:i], s], [*logits[:i], own], lead, convert)[2]

            return at

        return Objective(value(self.hard), value(soft), value(mean))

    def outputs(
        self, samples: list[Tensor], logits: list[Tensor], f_b: Tensor, drawn: list[int], tuning: Tuning | None
    ) -> tuple[Tensor, dict[int, Output]]:
        """Return the sum of the tuning losses, and what the estimators of the layers in ``drawn`` make of one pass."""
        losses: list[Tensor] = []
        outs: dict[int, Output] = {}
        temperatures = [self._temperature(i, tuning) for i in range(len(self.estimators))] if len(logits) > 1 else []
        for i in drawn:
            estimator, context = self.estimators[i], self.context(i, samples)
            own = None if tuning is None else tuning[i]
            if takes_samples(estimator):
                outs[i] = sampled(estimator, own, (logits[i], samples[i], f_b, self.noise[i], context))
            else:
                f = self.objective(i, samples, logits, temperatures)
                outs[i] = call(estimator, own, (logits[i], f), self.noise[i], context, f_b)
            losses.append(estimator.tuning_loss(outs[i]))
        return total(losses), outs

    def _temperature(self, i: int, tuning: Tuning | None) -> Tensor | float:
        own = dict(self.estimators[i].named_parameters()) if tuning is None else tuning.get(i, {})
        return own["log_temperature"].exp() if "log_temperature" in own else TEMPERATURE

    def context(self, i: int, samples: list[Tensor]) -> Tensor | None:
        """Return what layer i's estimator may look at, ``(*lead, n, *context_shape)``."""
        make, shape = self.program.contexts[i], self.estimators[i].context_shape
        if make is None or shape is None:
            return None
        below = samples[:i]
        lead = below[-1].shape[: -1 - len(self.estimators[i - 1].event_shape)] if below else ()
        made, n = make(self._points(below, lead), self._rows(lead)), self.program.n
        return checks.shaped(made, (math.prod(lead) * n, *shape), f"the context of layer {i}").reshape(*lead, n, *shape)


def spread(x: Tensor, lead: tuple[int, ...], dims: int) -> Tensor:
    """Turn ``([*lead,] n, ...)`` with ``dims`` dimensions of a row into ``(rows, ...)``, repeated along ``lead``."""
    if not lead:
        return x
    n, *row = x.shape[x.dim() - dims - 1 :]
    return x.expand(*lead, n, *row).reshape(math.prod(lead) * n, *row)


class Step(NamedTuple):
    """What one pass of training gives.

    It has the losses ``(n,)``, attached to logits, tuning parameters and f's own; the samples; new buffers by layer.
    """

    losses: Tensor
    samples: list[Tensor]
    buffers: list[dict[str, Tensor]]


def step(estimators: Sequence[Estimator], program: Program, noise: Sequence[Noise], tune: bool) -> Step:
    """Draw everything once, and return losses whose ``backward`` gives all gradients."""
    passes = Passes(estimators, program, noise)
    if len(estimators) == 1 and isinstance(estimators[0], (Exact, GradientLeaveOneOut)):
        return _at_once(passes, tune)
    bound = any(estimator.target == "bound" for estimator in estimators)
    drawn = [i for i, estimator in enumerate(estimators) if not isinstance(estimator, Pathwise)]
    keep = None if bound or program.score_term or not drawn else Tensor.detach
    samples, logits, f_b = passes.climb([], [], (), passes.hard, keep)
    buffers = [it.advance(dict(it.named_buffers())) if isinstance(it, Pathwise) else {} for it in estimators]
    losses = row_losses(estimators, logits, samples, f_b, drawn)
    samples = [b.detach() for b in samples]
    if not drawn or not torch.is_grad_enabled():
        return Step(losses, samples, buffers)
    fixed, f_b = [x.detach() for x in logits], f_b.detach()

    def outputs(tuning: Tuning | None) -> tuple[Tensor, dict[int, Output]]:
        return passes.outputs(samples, fixed, f_b, drawn, tuning)

    tuning, outs = tuned(estimators, outputs, drawn, tune)
    for i in drawn:
        buffers[i] = outs[i].buffers
    return Step(attach(losses, estimators, logits, outs, tuning), samples, buffers)


def row_losses(estimators, logits, samples, f_b: Tensor, drawn: list[int]) -> Tensor:
    """Turn f at the samples, ``([K,] n)``, into the loss of each row, ``(n,)``."""
    if not drawn:
        return f_b
    first = drawn[0]
    return estimators[first].loss_at(logits[first], samples[first])(f_b)


def _at_once(passes: Passes, tune: bool) -> Step:
    """Take one layer whose estimator evaluates f itself where autograd sees it: the enumeration, or f with df/db."""
    (estimator,), (noise,), program = passes.estimators, passes.noise, passes.program
    logits = program.parameters[0]([], program.rows)
    f, context = passes.objective(0, [], [], []), passes.context(0, [])

    def outputs(tuning: Tuning | None) -> tuple[Tensor, dict[int, Output]]:
        out = call(estimator, None if tuning is None else tuning[0], (logits.detach(), f), noise, context)
        return estimator.tuning_loss(out), {0: out}

    tuning, outs = tuned([estimator], outputs, [0], tune and torch.is_grad_enabled(), torch.is_grad_enabled())
    out = outs[0]
    return Step(attach(out.loss, [estimator], [logits], outs, tuning), [out.sample.detach()], [out.buffers])


def from_sample(
    estimator: Estimator, logits: Tensor, b: Tensor, f_b: Tensor, noise: Noise, context: Tensor | None, tune: bool
) -> Step:
    """Do what `step` does for one layer whose samples and losses are given."""
    fixed = logits.detach(), b, f_b.detach(), noise, context

    def outputs(tuning: Tuning | None) -> tuple[Tensor, dict[int, Output]]:
        out = sampled(estimator, None if tuning is None else tuning[0], fixed)
        return estimator.tuning_loss(out), {0: out}

    tuning, outs = tuned([estimator], outputs, [0], tune and torch.is_grad_enabled())
    losses = row_losses([estimator], [logits], [b], f_b, [0])
    return Step(attach(losses, [estimator], [logits], outs, tuning), [b], [outs[0].buffers])


def call(estimator: Estimator, tuning, arguments: tuple, noise: Noise, context: Tensor | None, f_b=None) -> Output:
    """Call the estimator, under other parameters where there are some."""
    keywords = {"noise": noise, "context": context, "f_b": f_b}
    return (
        estimator(*arguments, **keywords) if tuning is None else functional_call(estimator, tuning, arguments, keywords)
    )


def takes_samples(estimator: Estimator) -> bool:
    """Tell whether its samples and f at them are all that an estimator needs.

    It is then a `SampleOnly`.
    """
    return estimator.family.discrete and type(estimator).estimate in (SampleOnly.estimate, ScoreFunction.estimate)


def sampled(estimator: Estimator, tuning, arguments: tuple) -> Output:
    """Call the estimator's ``from_sample``, under other parameters where there are some."""
    if tuning is None:
        return estimator.from_sample(*arguments)
    return functional_call(FromSample(estimator), {f"of.{k}": v for k, v in tuning.items()}, arguments)
