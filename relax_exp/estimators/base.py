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

from collections.abc import Callable, Sequence
from numbers import Integral
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from relax_exp.distributions import FAMILIES, expand_event, family_of, standard_normal
from relax_exp.estimators.options import check_options
from relax_exp.schema import one_of

if TYPE_CHECKING:  # tests read the shapes and check them; at run time jaxtyping need not be there
    from jaxtyping import Float

Noise = dict[str, Tensor]  # uniform numbers by name
Signal = tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]  # see `ScoreFunction.signal`


class Objective(NamedTuple):
    """A loss in the three forms in which estimators may ask for it.

    Each form maps ``(sample, logits)`` to losses ``(..., N)``. ``logits`` broadcasts against the sample and is what the
    loss may depend on directly, such as log q in an ELBO.

    Attributes:
        hard: The loss at samples, with the layers above sampled hard.
        relaxed: The loss at points between samples, with the layers above sampled soft, by the same noise.
        mean: The loss at the mean, with the layers above passed through their means (MuProp asks for it).
    """

    hard: Callable[[Tensor, Tensor], Tensor]
    relaxed: Callable[[Tensor, Tensor], Tensor]
    mean: Callable[[Tensor, Tensor], Tensor]


def as_objective(f: Objective | Callable[[Tensor], Tensor]) -> Objective:
    """Turn a plain function of the sample into an `Objective` with that function in all three forms.

    An `Objective` is returned as it is.
    """
    if isinstance(f, Objective):
        return f

    def plain(sample: Tensor, logits: Tensor) -> Tensor:
        return f(sample)

    return Objective(plain, plain, plain)


class Output(NamedTuple):
    """One draw of an estimator, as a pytree of tensors.

    Attributes:
        grad: The estimate of d E[f] / d logits for each row, in the shape of the logits. It is detached from the
            logits.
        loss: The objective ``(N,)`` whose ordinary gradient supplies the direct part, which is f's own dependence on
            the logits, the decoder and the prior.
        sample: What f was evaluated at.
        aux: Scalars worth logging, and whatever ``tuning_loss`` needs.
        buffers: New values of the module's buffers, by name.
    """

    grad: Float[Tensor, "N *parameters"]
    loss: Float[Tensor, " N"]
    sample: Float[Tensor, "..."]
    aux: dict[str, Tensor]
    buffers: dict[str, Tensor]


def shape_or_type(value: object) -> tuple[int, ...] | str:
    """Return the shape of a tensor, or the name of the type of anything else."""
    return tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__


def present(noise: Noise | None) -> Noise:
    """Return the noise.

    Raises:
        TypeError: There is none.
    """
    if noise is None:
        raise TypeError("from_sample of this estimator draws conditional variables: pass noise=, from noise()")
    return noise


def as_shape(shape: int | tuple[int, ...], what: str) -> tuple[int, ...]:
    """Return a number as a shape of one dimension, and a shape as it is.

    Raises:
        TypeError: It is neither. The message calls it ``what``.
    """
    sizes = (shape,) if isinstance(shape, Integral) else shape
    if not isinstance(sizes, Sequence) or not all(isinstance(size, Integral) for size in sizes):
        raise TypeError(f"{what}={shape!r}: must be a whole number or a tuple of some, as 3 or (20, 10)")
    return tuple(map(int, sizes))


class Checked(type):
    """Check the options of an estimator before its constructor sees them.

    What is allowed is declared in `relax_exp.estimators.options`. Raises TypeError for an unknown option and ValueError
    for a value that the option may not have.
    """

    def __call__(cls, *args: Any, **given: Any):
        check_options(cls, given)
        return super().__call__(*args, **given)


class Estimator(nn.Module, metaclass=Checked):
    """The base class of all estimators. A subclass sets the class attributes and implements `estimate`.

    It also overrides `noise_shapes` where it needs other noise than one uniform number for each sampled number. The
    attributes may depend on the options; then they are set in ``__init__``.

    Attributes:
        unbiased: Whether the expectation of `Output.grad` is the gradient of ``target``.
        evaluations: The number of evaluations of f for one gradient of one layer.
        needs: What is asked of f: "value" (a black box), "gradient" (df/db at samples) or "relaxed" (f at soft
            samples).
        target: What the gradient is of: the "mean" of f over samples, a "bound" of several samples, or f along a
            "path".
        samples: The number of samples of each row, stacked in front.
        draws_p: Whether its samples are draws from p(b), all of them as likely as p says.
        uses_f_b: Whether f at the sample, from a caller who has it, saves an evaluation.
        uses_slope: Whether it takes df/db at the samples too: ``f_b`` may then be the pair of both.
        shared: Whether, in a hierarchy, some parameters of layer 0 serve all layers, see `Rebar`.
        granular: Whether the caller combines ``aux["parts"]``, see `relax_exp.estimators.rebar_relax.Rebar`.
        second_order: Whether a biased one is unbiased where f is quadratic.
        weight_decay: Of a control variate's network, a factor of the penalty in ``aux``.
    """

    unbiased: bool = True
    evaluations: int = 1
    needs: str = "value"
    target: str = "mean"
    samples: int = 1
    draws_p: bool = True
    uses_f_b: bool = True
    uses_slope: bool = False
    shared: bool = False
    granular: bool = False
    second_order: bool = False
    weight_decay: float = 0.0

    def __init__(
        self,
        family: str = "bernoulli",
        event_shape: int | tuple[int, ...] = (1,),
        context_shape: int | tuple[int, ...] | None = None,
    ):
        super().__init__()
        if family not in FAMILIES:
            raise ValueError(f"{type(self).__name__}: family={family}: must be {one_of(FAMILIES, str(family))}")
        self.event_shape, dims = as_shape(event_shape, "event_shape"), FAMILIES[family].shape_dims
        if len(self.event_shape) != dims or not all(size > 0 for size in self.event_shape):
            wanted = {"categorical": "(D, C)", "subset": "(D, k)", "top_k": "(D, k)"}.get(family, "(D,)")
            raise ValueError(
                f"{type(self).__name__}: event_shape={self.event_shape}: one row's sample of {family} variables is "
                f"{wanted}, positive numbers"
            )
        self.family = family_of(family, self.event_shape)
        self.context_shape = None if context_shape is None else as_shape(context_shape, "context_shape")

    @property
    def bound_samples(self) -> int:
        """The number of samples that the estimated bound is made of, where ``target`` is "bound"."""
        return self.samples

    @property
    def tuned(self) -> bool:
        """True where the estimator has parameters, which ``tuning_loss`` then trains."""
        return next(self.parameters(), None) is not None

    @property
    def noise_shape(self) -> tuple[int, ...]:
        """Shape of the uniforms of one row's sample: one for each sampled number, or for each item of a structure."""
        shape = self.family.parameter_shape if self.family.structured else self.family.sample_shape
        return shape(self.event_shape)

    def noise_shapes(self, n: int) -> dict[str, tuple[int, ...]]:
        """Return the shapes of the uniform noise of one call with ``n`` rows, by name.

        By default there is one uniform number for each sampled number: ``{"u": (n, *event)}``, or ``(samples, n,
        *event)``.
        """
        chains = (self.samples,) if self.samples > 1 else ()
        return {"u": (*chains, n, *self.noise_shape)}

    def noise(
        self,
        n: int,
        generator: torch.Generator | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | None = None,
    ) -> Noise:
        """Draw the uniform noise of one call with ``n`` rows. This is the only place that draws.

        Args:
            n: The number of rows.
            generator: Where the numbers come from; by default torch's global generator.
            dtype: By default torch's default type.
            device: By default that of the generator.

        Returns:
            Tensors of numbers in [0, 1) with the shapes of `noise_shapes`.

        Raises:
            TypeError: The generator is none.
        """
        if generator is not None and not isinstance(generator, torch.Generator):  # pyright: ignore[reportUnnecessaryIsInstance]
            given = f"torch.Generator().manual_seed({generator})" if isinstance(generator, int) else "a torch.Generator"
            raise TypeError(f"generator= must be a torch.Generator, not {type(generator).__name__}: pass {given}")
        device = device or (generator.device if generator is not None else None)
        return {
            name: torch.rand(shape, generator=generator, dtype=dtype, device=device)
            for name, shape in self.noise_shapes(n).items()
        }

    def sample(self, logits: Tensor, noise: Noise) -> Tensor:
        """Return the sample that belongs to the noise, at which ``forward`` evaluates f first.

        Its shape is ``(N, event)``, or ``(K, N, event)`` for estimators with K samples.
        """
        return self.family.sample(logits, noise["u"])

    def soften(self, z: Tensor, logits: Tensor, temperature: Tensor) -> Tensor:
        """Return the relaxed sample at z; ``logits`` are those that z was made from.

        A task asks for it where a layer below differentiates f through this one's relaxed sample.
        """
        return self.family.relax(z, temperature)

    def forward(
        self,
        logits: Float[Tensor, "N *parameters"],
        f: Objective | Callable[[Tensor], Tensor],
        noise: Noise | None = None,
        context: Float[Tensor, "N *context"] | None = None,
        generator: torch.Generator | None = None,
        f_b: Tensor | None = None,
    ) -> Output:
        """Draw one estimate of the gradient for each row.

        Args:
            logits: The parameters of the variables, ``(N, event)``.
            f: The loss to minimise, as this module's text describes it.
            noise: Uniform noise from `noise`.
            context: What baselines and surrogates may look at, ``(N, *context_shape)``.
            generator: Draws the noise where none is given.
            f_b: f at ``self.sample(logits, noise)``, where the caller has evaluated it already.

        Returns:
            An `Output` whose ``grad`` has the shape of ``logits``.

        Raises:
            ValueError: The shape of the logits, or that of f's losses, does not fit.
        """
        self._check_logits(logits)
        if noise is None:
            noise = self.noise(logits.shape[0], generator, dtype=logits.dtype, device=logits.device)
        return self.estimate(logits.detach(), self.attached(as_objective(f), logits), noise, context, f_b)

    def attached(self, f: Objective, logits: Tensor) -> Objective:
        """Bind the losses that become ``out.loss`` to these logits, so that they keep f's direct dependence on them.

        `estimate` itself gets the logits detached, so that ``out.grad`` and the tuning loss have no gradient in them.
        """

        def hard(sample: Tensor, _: Tensor) -> Tensor:
            return f.hard(sample, logits)

        return Objective(hard, f.relaxed, f.mean)

    def estimate(
        self, logits: Tensor, f: Objective, noise: Noise, context: Tensor | None, f_b: Tensor | None
    ) -> Output:
        """Compute the estimate; subclasses implement this.

        The arguments are those of ``forward``, with the logits detached.
        """
        raise NotImplementedError(f"{type(self).__name__} does not implement estimate")

    def from_sample(
        self,
        logits: Tensor,
        b: Tensor,
        f_b: Tensor,
        noise: Noise | None = None,
        context: Tensor | None = None,
    ) -> Output:
        """Estimate the gradient from samples that the task drew, where f cannot be queried.

        Args:
            logits: The parameters of the variables, ``(N, event)``.
            b: The samples, ``(N, event)``, or ``(K, N, event)`` for estimators with K samples.
            f_b: Their losses, ``(N,)`` or ``(K, N)``.
            noise: Uniform noise, which some estimators draw conditional variables from.
            context: What baselines and surrogates may look at, ``(N, *context_shape)``.

        Raises:
            TypeError: The estimator has to choose the samples itself.
        """
        raise TypeError(f"{type(self).__name__} has to choose the samples itself: call it with f, not from_sample")

    def loss_of(self, f_b: Tensor) -> Tensor:
        """Return ``out.loss``, ``(N,)``, from the losses at the samples.

        A task with several layers calls it once for all of them.
        """
        return f_b

    def loss_at(self, logits: Tensor, b: Tensor) -> Callable[[Tensor], Tensor]:
        """Return `loss_of` at these logits and samples, as a function of the losses alone."""
        return self.loss_of

    def tuning_loss(self, out: Output) -> Float[Tensor, ""]:
        """Return the scalar whose gradient with respect to the parameters reduces the variance.

        It is a function of ``out`` alone, and zero where nothing is tuned.
        """
        return out.grad.new_zeros(())

    def _check_logits(self, logits: Tensor) -> None:
        expected = self.family.parameter_shape(self.event_shape)
        if logits.dim() < 1 + len(expected) or tuple(logits.shape[-len(expected) :]) != expected:
            sizes = ", ".join(map(str, expected))
            raise ValueError(f"{type(self).__name__}: logits have shape {tuple(logits.shape)}, expected (N, {sizes})")

    def evaluate(
        self,
        f: Callable[[Tensor, Tensor], object],
        sample: Tensor,
        logits: Tensor,
        differentiable: bool = False,
        known: Tensor | None = None,
    ) -> Tensor:
        """Evaluate f at a sample and check what it returns.

        Nothing is checked while compiling; the first call of a run is not compiled.

        Args:
            f: One of the three forms of an `Objective`, which is a user's and may return anything.
            sample: ``(..., N, event)``.
            logits: What f may depend on directly.
            differentiable: Whether the sample is being differentiated. An f that does not depend on it smoothly is then
                an error too.
            known: The losses, where somebody has evaluated them already: they are returned, and f is not called.

        Returns:
            Losses, ``(..., N)``.

        Raises:
            ValueError: f returns another shape, or cannot be differentiated. The message names the estimator and the
                shapes.
        """
        if known is not None:
            return known
        value = f(sample, logits)
        expected = sample.shape[: sample.dim() - self.family.event_dims]
        if not isinstance(value, Tensor) or value.shape != expected:
            raise ValueError(
                f"{type(self).__name__}: f returned {shape_or_type(value)} for samples of shape {tuple(sample.shape)}; "
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
    """Make an estimator's ``from_sample`` the forward of a module, so that ``functional_call`` can reach it."""

    def __init__(self, estimator: Estimator):
        super().__init__()
        self.of = estimator

    def forward(self, *args: Any) -> Output:
        """Call ``from_sample`` of the estimator with the same arguments."""
        return self.of.from_sample(*args)


def mean_square(grad: Tensor) -> Tensor:
    """Compute the variance objective of REBAR and RELAX, the mean over rows and coordinates of (grad / N)^2.

    It is divided by the number of rows as in the published code, which takes the gradient of the minibatch mean, so
    that published weight decays mean the same here. As the estimator is unbiased, the gradient of this objective is
    that of the variance (RELAX draft, eq. 14).
    """
    return (grad / grad.shape[0]).square().mean()


class SampleOnly(Estimator):
    """The base of estimators that need only f at the samples. A subclass implements ``from_sample``."""

    def estimate(
        self, logits: Tensor, f: Objective, noise: Noise, context: Tensor | None, f_b: Tensor | None
    ) -> Output:
        b = self.sample(logits, noise)
        f_b = self.evaluate(f.hard, b, logits, known=f_b)
        return self.from_sample(logits, b, f_b, noise, context)


class ScoreFunction(SampleOnly):
    """The base of estimators that multiply f, less something independent of b, with the score.

    The result is averaged over ``samples`` independent chains. A subclass implements `signal`, the weight of the score.
    With ``samples`` = K > 1 the samples are ``(K, N, event)`` and the losses ``(K, N)``. The logits may be shared,
    ``(N, event)``, or each chain may have its own, ``(K, N, event)``, as in the upper layers of a hierarchy.
    """

    def signal(self, f_b: Tensor, context: Tensor | None) -> Signal:
        """Return the weight of the score.

        Args:
            f_b: The detached losses at the samples, ``(N,)`` or ``(K, N)``.
            context: What a baseline may look at, ``(N, *context_shape)``.

        Returns:
            The weight, in the shape of ``f_b``; the estimator's own ``aux``; new values of its buffers.
        """
        raise NotImplementedError(f"{type(self).__name__} does not implement signal")

    def _signal(self, f_b: Tensor, context: Tensor | None) -> Signal:
        """Return `signal`, checked by `_checked`."""
        return self._checked(self.signal(f_b, context), f_b)

    def _checked(self, result: Any, f_b: Tensor) -> Signal:
        """Return what a subclass, which may be a user's, gave as `signal`.

        Raises:
            TypeError: It is not a triple.
            ValueError: Its weight does not have the shape of ``f_b``. Both messages name the class.
        """
        name = f"{type(self).__name__}.signal"
        if not issubclass(type(result), tuple) or len(result) != 3:
            got = "a bare tensor" if isinstance(result, Tensor) else type(result).__name__
            raise TypeError(f"{name} returned {got}; it must return (signal, aux, buffers): return f_b, {{}}, {{}}")
        if (got := shape_or_type(result[0])) != tuple(f_b.shape):
            raise ValueError(f"{name} returned a signal {got}; it must have the shape of f_b, {tuple(f_b.shape)}")
        return result

    def loss_of(self, f_b: Tensor) -> Tensor:
        """Return the mean over the chains: ``(K, N)`` -> ``(N,)``."""
        return f_b.mean(0) if self.samples > 1 else f_b

    def estimate(
        self, logits: Tensor, f: Objective, noise: Noise, context: Tensor | None, f_b: Tensor | None
    ) -> Output:
        """Estimate the gradient as the base class does, but take the score of a Gaussian sample from its noise.

        The score from the noise loses no digits, whereas (b - mean) / std does.
        """
        if self.family.discrete:
            return super().estimate(logits, f, noise, context, f_b)
        b = self.sample(logits, noise)
        f_b = self.evaluate(f.hard, b, logits, known=f_b)
        score = self.family.score_of(logits, standard_normal(noise["u"]))
        return self._output(logits, b, f_b, score, context)

    def from_sample(
        self, logits: Tensor, b: Tensor, f_b: Tensor, noise: Noise | None = None, context: Tensor | None = None
    ) -> Output:
        """Estimate the gradient from samples b ``([K,] N, event)`` with losses f_b ``([K,] N)`` that the task drew."""
        logits = logits.detach()
        return self._output(logits, b, f_b, self.family.score(logits, b), context)

    def _output(self, logits: Tensor, b: Tensor, f_b: Tensor, score: Tensor, context: Tensor | None) -> Output:
        """Average signal times ``score``, which has the shape of the samples, over the chains."""
        signal, aux, buffers = self._signal(f_b.detach(), context)
        weight = expand_event(signal, self.family, parameters=True) / self.samples
        grad = weight * score
        if grad.dim() > logits.dim():
            grad = grad.sum(0)
        return Output(grad, self.loss_of(f_b), b, aux, buffers)
