"""The contract of an estimator: noise in, a gradient with respect to the logits out.

    est   = estimators.build("relax", family="bernoulli", event_shape=(D,))
    noise = est.noise(N, generator)
    out   = est(logits, f, noise=noise, context=x)
    out.grad                    # shape of logits: one draw of an estimate of d E[f] / d logits, row by row
    est.tuning_loss(out)        # scalar; its gradient with respect to est's parameters reduces the variance

``f`` is minimised, acts row by row and maps samples ``(..., N, event)`` to losses ``(..., N)``. It is a plain callable
of the sample or an `Objective`. Nothing here draws except `Estimator.noise`, and nothing is mutated: new values of the
buffers are returned in ``out.buffers``. So every estimator vmaps over replicas, compiles, and can be called through
``torch.func.functional_call``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from relax_exp.distributions import FAMILIES, expand_event
from relax_exp.estimators.options import check_options
from relax_exp.schema import one_of


class Objective(NamedTuple):
    """A loss with the three ways in which estimators may ask for it; each maps ``(sample, logits)`` to ``(..., N)``.

    hard: at samples (layers above sampled hard). relaxed: at points between them (layers above sampled soft, by the
    same noise). mean: at the mean (layers above mean-field; MuProp). ``logits`` broadcasts against the sample and is
    what the loss may depend on directly, such as log q in an ELBO.
    """

    hard: Callable[[Tensor, Tensor], Tensor]
    relaxed: Callable[[Tensor, Tensor], Tensor]
    mean: Callable[[Tensor, Tensor], Tensor]


def as_objective(f: Objective | Callable[[Tensor], Tensor]) -> Objective:
    """A plain function of the sample serves as all three callables of an `Objective`."""
    if isinstance(f, Objective):
        return f

    def plain(sample: Tensor, logits: Tensor) -> Tensor:
        return f(sample)

    return Objective(plain, plain, plain)


class Output(NamedTuple):
    """One draw of an estimator, a pytree of tensors.

    grad: shape of the logits. loss: ``(N,)``, the objective whose ordinary gradient supplies the direct part (f's own
    dependence on the logits, the decoder, the prior). sample: what f was evaluated at. aux: scalars worth logging and
    whatever ``tuning_loss`` needs. buffers: new values of the module's buffers, by name.
    """

    grad: Tensor
    loss: Tensor
    sample: Tensor
    aux: dict[str, Tensor]
    buffers: dict[str, Tensor]


class Checked(type):
    """Options are checked before a constructor sees them, by the declaration in `relax_exp.estimators.options`."""

    def __call__(cls, *args, **given):
        check_options(cls, given)
        return super().__call__(*args, **given)


class Estimator(nn.Module, metaclass=Checked):
    """Base class. A subclass sets the class attributes and implements `noise_shapes` and `estimate`.

    Attributes: ``unbiased``; ``evaluations`` of f for one gradient of one layer; ``needs``: "value" (black box),
    "gradient" (df/db at samples) or "relaxed" (f accepts soft samples); ``target``: what it is a gradient of, the
    "mean" of f over samples, a "bound" of several, or f along a "path"; ``tuned``: has parameters that ``tuning_loss``
    trains. They may depend on the options and are then set in ``__init__``.
    """

    unbiased: bool = True
    evaluations: int = 1
    needs: str = "value"
    target: str = "mean"
    samples: int = 1
    granular: bool = False  # the caller combines ``aux["parts"]``, see `relax_exp.estimators.rebar_relax.Rebar`
    second_order: bool = False  # of a biased one: unbiased where f is quadratic

    def __init__(
        self,
        family: str = "bernoulli",
        event_shape: tuple[int, ...] = (1,),
        context_shape: tuple[int, ...] | None = None,
    ):
        super().__init__()
        if family not in FAMILIES:
            raise ValueError(f"{type(self).__name__}: family={family}: must be {one_of(FAMILIES, str(family))}")
        self.family = FAMILIES[family]
        self.event_shape = tuple(event_shape)
        if len(self.event_shape) != self.family.event_dims or not all(size > 0 for size in self.event_shape):
            wanted = "(D, C)" if self.family.event_dims == 2 else "(D,)"
            raise ValueError(
                f"{type(self).__name__}: event_shape={self.event_shape}: one row's sample of {family} variables is "
                f"{wanted}, positive numbers"
            )
        self.context_shape = None if context_shape is None else tuple(context_shape)

    @property
    def bound_samples(self) -> int:
        """How many samples the bound is made of that is estimated, where ``target`` is "bound"."""
        return self.samples

    @property
    def tuned(self) -> bool:
        """Whether there are parameters for ``tuning_loss`` to train."""
        return next(self.parameters(), None) is not None

    def noise_shapes(self, n: int) -> dict[str, tuple[int, ...]]:
        """Shapes of the uniform noise of one call with ``n`` rows. By default one uniform for each sampled number."""
        chains = (self.samples,) if self.samples > 1 else ()
        return {"u": (*chains, n, *self.event_shape)}

    def noise(self, n: int, generator: torch.Generator | None = None, dtype=None, device=None) -> dict[str, Tensor]:
        """Uniform noise for one call with ``n`` rows: the only place that draws."""
        device = device or (generator.device if generator is not None else None)
        return {
            name: torch.rand(shape, generator=generator, dtype=dtype, device=device)
            for name, shape in self.noise_shapes(n).items()
        }

    def sample(self, logits: Tensor, noise: dict[str, Tensor]) -> Tensor:
        """The sample (or samples, stacked in front) at which ``forward`` evaluates f first."""
        return self.family.sample(logits, noise["u"])

    def forward(
        self,
        logits: Tensor,
        f: Objective | Callable[[Tensor], Tensor],
        noise: dict[str, Tensor] | None = None,
        context: Tensor | None = None,
        generator: torch.Generator | None = None,
        f_b: Tensor | None = None,
    ) -> Output:
        """One draw of the gradient.

        logits: ``(N, event)``; f: see the module; noise: from `noise` (or a ``generator`` to draw it); context:
        ``(N, ...)``, what baselines and surrogates may look at; f_b: f at ``self.sample(logits, noise)`` where the
        caller has evaluated it already. Raises ValueError where shapes do not fit.
        """
        self._check_logits(logits)
        if noise is None:
            noise = self.noise(logits.shape[0], generator, dtype=logits.dtype, device=logits.device)
        return self.estimate(logits.detach(), self.attached(as_objective(f), logits), noise, context, f_b)

    def attached(self, f: Objective, logits: Tensor) -> Objective:
        """f with the losses that become ``out.loss`` bound to these logits, for their direct part.

        `estimate` itself gets the logits detached, so that ``out.grad`` and the tuning loss have no gradient in them.
        """
        return f._replace(hard=lambda sample, _: f.hard(sample, logits))

    def estimate(
        self, logits: Tensor, f: Objective, noise: dict[str, Tensor], context: Tensor | None, f_b: Tensor | None
    ) -> Output:
        """What a subclass implements; arguments as for ``forward``, with the logits detached."""
        raise NotImplementedError(f"{type(self).__name__} does not implement estimate")

    def from_sample(
        self,
        logits: Tensor,
        b: Tensor,
        f_b: Tensor,
        noise: dict[str, Tensor] | None = None,
        context: Tensor | None = None,
    ) -> Output:
        """One draw where the task drew the samples ``b``, with losses ``f_b``, and f cannot be queried."""
        raise TypeError(f"{type(self).__name__} has to choose the samples itself: call it with f, not from_sample")

    def objective(self, f_b: Tensor) -> Tensor:
        """``out.loss``, ``(N,)``, from f at the samples; a task with several layers calls it once for all of them."""
        return f_b

    def tuning_loss(self, out: Output) -> Tensor:
        """Scalar whose gradient with respect to the parameters reduces the variance; zero where nothing is tuned."""
        return out.grad.new_zeros(())

    def _check_logits(self, logits: Tensor) -> None:
        expected = self.family.parameter_shape(self.event_shape)
        if logits.dim() < 1 + len(expected) or tuple(logits.shape[-len(expected) :]) != expected:
            sizes = ", ".join(map(str, expected))
            raise ValueError(f"{type(self).__name__}: logits have shape {tuple(logits.shape)}, expected (N, {sizes})")

    def evaluate(
        self, f: Callable[[Tensor, Tensor], Tensor], sample: Tensor, logits: Tensor, differentiable: bool = False
    ) -> Tensor:
        """f at a sample. Raises ValueError, naming the estimator and the shapes, where f's shape is wrong.

        ``differentiable``: the sample is being differentiated, and an f that does not depend on it smoothly is an error
        too. (While compiling, nothing is checked; the first call of a run is not compiled.)
        """
        value = f(sample, logits)
        expected = sample.shape[: sample.dim() - self.family.event_dims]
        if not isinstance(value, Tensor) or value.shape != expected:
            got = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise ValueError(
                f"{type(self).__name__}: f returned {got} for samples of shape {tuple(sample.shape)}; "
                f"it must act row by row and return {tuple(expected)}"
            )
        watched = differentiable and torch.is_grad_enabled() and not torch.compiler.is_compiling()
        if watched and not value.requires_grad:
            raise ValueError(
                f"{type(self).__name__} differentiates f, but f's losses {tuple(value.shape)} do not depend smoothly "
                f"on its samples {tuple(sample.shape)}; for a black box take an estimator that needs values only"
            )
        return value


class FromSample(nn.Module):
    """An estimator's ``from_sample`` as a module's forward, which ``functional_call`` can reach."""

    def __init__(self, estimator: Estimator):
        super().__init__()
        self.of = estimator

    def forward(self, *args) -> Output:
        """See `Estimator.from_sample`."""
        return self.of.from_sample(*args)


def mean_square(grad: Tensor) -> Tensor:
    """The variance objective of REBAR and RELAX: mean over rows and coordinates of (grad / N)^2.

    Divided by the number of rows as in the published code (the gradient of the minibatch mean), so that published
    weight decays mean the same here. As the estimator is unbiased its gradient is that of the variance (RELAX draft,
    eq. 14).
    """
    return (grad / grad.shape[0]).square().mean()


class SampleOnly(Estimator):
    """An estimator that asks no more of f than its values at the samples: a subclass implements ``from_sample``."""

    def estimate(self, logits, f, noise, context, f_b):
        b = self.sample(logits, noise)
        if f_b is None:
            f_b = self.evaluate(f.hard, b, logits)
        return self.from_sample(logits, b, f_b, noise, context)


class ScoreFunction(SampleOnly):
    """(f - something independent of b) times the score, averaged over ``samples`` independent chains.

    A subclass implements ``signal(f_b, b, context)``: the weight of the score, shape of ``f_b``; its own aux and
    buffers. With ``samples = K > 1`` samples are ``(K, N, event)`` and losses ``(K, N)``; logits may be shared,
    ``(N, event)``, or one row of them for each chain, ``(K, N, event)``, as in the upper layers of a hierarchy.
    """

    def signal(self, f_b: Tensor, context: Tensor | None) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
        """Weight of the score, aux, new buffers; ``f_b`` is detached, ``(N,)`` or ``(K, N)``."""
        raise NotImplementedError(f"{type(self).__name__} does not implement signal")

    def _signal(self, f_b: Tensor, context: Tensor | None) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
        """`signal`, checked. TypeError or ValueError, naming the class, where a subclass returns something else."""
        result, name = self.signal(f_b, context), f"{type(self).__name__}.signal"
        if not isinstance(result, tuple) or len(result) != 3:
            got = "a bare tensor" if isinstance(result, Tensor) else type(result).__name__
            raise TypeError(f"{name} returned {got}; it must return (signal, aux, buffers): return f_b, {{}}, {{}}")
        if not isinstance(result[0], Tensor) or result[0].shape != f_b.shape:
            got = tuple(result[0].shape) if isinstance(result[0], Tensor) else type(result[0]).__name__
            raise ValueError(f"{name} returned a signal {got}; it must have the shape of f_b, {tuple(f_b.shape)}")
        return result

    def objective(self, f_b: Tensor) -> Tensor:
        """The mean over the chains: ``(K, N)`` -> ``(N,)``."""
        return f_b.mean(0) if self.samples > 1 else f_b

    def estimate(self, logits, f, noise, context, f_b):
        """See `Estimator.estimate`. The score of a Gaussian sample is taken from its noise, which loses no digits."""
        if self.family.discrete:
            return super().estimate(logits, f, noise, context, f_b)
        b = self.sample(logits, noise)
        if f_b is None:
            f_b = self.evaluate(f.hard, b, logits)
        score = self.family.score_of(logits, self.family.normal(noise["u"]))
        return self._output(logits, b, f_b, score, context)

    def from_sample(self, logits, b, f_b, noise=None, context=None):
        """See `Estimator.from_sample`: b ``([K,] N, event)``, f_b ``([K,] N)``."""
        logits = logits.detach()
        return self._output(logits, b, f_b, self.family.score(logits, b), context)

    def _output(self, logits, b, f_b, score, context) -> Output:
        """The mean over the chains of signal times ``score``, of the shape of the samples."""
        signal, aux, buffers = self._signal(f_b.detach(), context)
        weight = expand_event(signal, self.family, parameters=True) / self.samples
        grad = weight * score
        if grad.dim() > logits.dim():
            grad = grad.sum(0)
        return Output(grad, self.objective(f_b), b, aux, buffers)
