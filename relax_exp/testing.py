"""Is a gradient estimator unbiased? A check for anybody's, by exact enumeration, to be used in a test.

    from relax_exp.testing import assert_unbiased

    def test_mine():
        assert_unbiased(my_gradient, torch.tensor([[0.3, -1.0], [2.0, 0.1]]), lambda b: (b.sum(-1) - 0.4) ** 2)

where ``my_gradient(logits, f, generator)`` returns one draw of an estimate of d E[f(b)] / d logits, a tensor like
``logits``. With numpy arrays for logits everything is arrays (f and the gradient may compute with JAX) and the
generator is a ``numpy.random.Generator``. The expectation is a sum over all states of a row, so few variables are
wanted: they show a wrong formula as well as many do. For any other model, hand in the right gradient as ``exact=``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from relax_exp.distributions import FAMILIES, Family, bounded, count_states, expectation, family_of, quadrature, states
from relax_exp.numerics.moments import Moments

MAX_STATES = 4096  # of one row; K-sample bounds: of K rows
FAMILY_WISE = 1e-6  # probability that an unbiased estimator fails
ROUNDING = 1e-9  # a standard deviation, relative to the gradient, that counts as none
EQUAL = 1e-5  # a relative deviation that counts as none where draws do not vary, of single precision too
SEEN = 20  # how often a variable must take each of its values, on average, for a mean to be judged
IMPOSSIBLE = 1e-6  # an average number of times that counts as never, as that of a masked action


class Bias(NamedTuple):
    """What `bias` measured, all of the logits' shape, in double precision.

    ``exact``: the enumerated gradient, or what was given as such; ``mean`` of the draws; its ``standard_error``; ``z``
    = (mean - exact) / standard_error, infinite where draws do not vary and are wrong. ``limit``: what the largest
    \\|z\\| of an unbiased estimator exceeds once in a million; ``draws``: their number.
    """

    exact: Tensor
    mean: Tensor
    standard_error: Tensor
    z: Tensor
    limit: float
    draws: int

    @property
    def worst(self) -> tuple[int, ...]:
        """The coordinate with the largest |z|."""
        return tuple(int(i) for i in np.unravel_index(int(self.z.abs().argmax()), self.z.shape))

    @property
    def biased(self) -> bool:
        """True where some coordinate is further off than chance allows, or no number."""
        return not float(self.z.abs().max()) <= self.limit

    def __str__(self) -> str:
        i = self.worst
        if not bool(torch.isfinite(self.mean).all()):
            return f"of {self.draws:,} gradients some are not finite: in coordinate {i} their mean is {self.mean[i]}"
        verdict = "differs from" if self.biased else "agrees with"
        return (
            f"the mean of {self.draws:,} gradients {verdict} the exact gradient: in coordinate {i} it is "
            f"{float(self.mean[i]):.6g} ± {float(self.standard_error[i]):.2g}, exact {float(self.exact[i]):.6g}, "
            f"z = {float(self.z[i]):.1f}; the limit for {self.z.numel()} coordinates is {self.limit:.1f}"
        )


def assert_unbiased(
    gradient: Callable[..., Any],
    logits: Any,
    f: Callable[[Any], Any],
    family: str = "bernoulli",
    draws: int = 100_000,
    seed: int = 0,
    samples: int | None = None,
    vectorize: bool = False,
    event_shape: tuple[int, ...] | None = None,
    exact: Any = None,
) -> Bias:
    """Raise AssertionError unless the mean of ``draws`` gradients is the enumerated one; return what was measured.

    The message names the coordinate that is furthest off, its z-score and the limit. The arguments are those of `bias`.
    A correct estimator fails with probability 1e-6, for any number of coordinates, as far as its mean is normal: where
    rare samples decide it, take more draws. A bias much smaller than the standard error goes unseen:
    `Bias.standard_error` says what could have been.
    """
    found = bias(gradient, logits, f, family, draws, seed, samples, vectorize, event_shape, exact)
    if found.biased:
        raise AssertionError(str(found))
    return found


def bias(
    gradient: Callable[..., Any],
    logits: Any,
    f: Callable[[Any], Any],
    family: str = "bernoulli",
    draws: int = 100_000,
    seed: int = 0,
    samples: int | None = None,
    vectorize: bool = False,
    event_shape: tuple[int, ...] | None = None,
    exact: Any = None,
) -> Bias:
    """Compare the mean of independent gradients with the enumerated gradient of the sum over rows of E[f(b)].

    Args:
        gradient: Called ``draws`` times as ``gradient(logits, f, generator)``.
        logits: Those of Bernoulli variables ``(*rows, D)``, of categorical ones ``(*rows, D, C)``, of the D items of a
            permutation or subset ``(*rows, D)``, or means and log standard deviations of D = 1 normal variable
            ``(*rows, 1, 2)``; a tensor or a numpy array.
        f: Maps samples of that shape (one-hot; normal: without the 2; permutations: ``(*rows, D, D)``) to losses
            ``rows``, minimised, each of its row alone.
        family: "bernoulli", "categorical", "gaussian", "permutation", "subset" or "top_k".
        draws: How many gradients are drawn.
        seed: Where the random numbers begin.
        samples: K, where the target is the bound -log mean_k exp(-f(b_k)) of VIMCO instead of the mean of f.
        vectorize: Whether draws are made by ``torch.func.vmap``, which is far quicker where the estimator allows it.
            The generator is then None and noise comes from the seeded global generator.
        event_shape: That of one row's sample, ``(D, k)``, of subsets of k of D items.
        exact: The right gradient, where somebody knows it: that of a model which no family here is of. Nothing is
            enumerated then, logits are whatever the gradient is of, in any shape, and f is only handed on.

    Raises:
        ValueError: Shapes do not fit, there are more states than can be enumerated, f or ``exact`` is not finite, or a
            variable takes one of its values so seldom that so few draws say nothing.
    """
    if not isinstance(draws, int) or draws < 2:
        raise ValueError(f"draws={draws} must be a whole number, at least 2; thousands are wanted")
    if exact is None:
        exact = exact_gradient(logits, f, family, samples, event_shape)
        _check_seen(logits, family, event_shape, draws, samples or 1)
    else:
        exact = _checked(exact, tuple(logits.shape), "exact gradient").cpu().double()
    if not bool(torch.isfinite(exact).all()):
        raise ValueError("the exact gradient is not finite: are the logits, or what was given as exact=?")
    moments = Moments(exact)
    for chunk in _chunks(gradient, logits, f, draws, seed, vectorize):
        moments.add(chunk.double())
    off, variance = moments.deviation, moments.variance
    fixed = variance <= (ROUNDING * (1 + exact.abs())).square()
    error = torch.where(fixed, 0.0, (variance / draws).sqrt())
    z = torch.where(fixed, torch.where(off.abs() <= EQUAL * (1 + exact.abs()), 0.0, math.inf), off / error)
    return Bias(exact, moments.mean, error, z, threshold(z.numel()), draws)


def threshold(tests: int, probability: float = FAMILY_WISE) -> float:
    """Return the |z| that any of ``tests`` standard normals exceeds with at most that probability (Bonferroni)."""
    return -NormalDist().inv_cdf(probability / (2 * max(tests, 1)))


def exact_gradient(
    logits: Any,
    f: Callable[[Any], Any],
    family: str = "bernoulli",
    samples: int | None = None,
    event_shape: tuple[int, ...] | None = None,
) -> Tensor:
    """Compute d/d logits of the sum over rows of E[f(b)], or of the ``samples``-sample bound.

    f sees samples of all rows at once, one state after the other. Arguments and errors are those of `bias`.

    Returns:
        A double-precision tensor in the shape of the logits.
    """
    arrays = not isinstance(logits, Tensor)
    theta = _double(logits)
    kind, event = _kind(family, theta, event_shape)
    every, weights = _states(kind, event, theta, samples)

    def at(state: Tensor) -> Tensor:
        value = f(state.numpy()) if arrays else f(state.to(logits))
        value = torch.as_tensor(np.asarray(value) if arrays else value).detach().cpu().double()
        rows = theta.shape[: theta.dim() - kind.parameter_dims]
        if value.shape != rows:
            raise ValueError(
                f"f returned {tuple(value.shape)} for samples {tuple(state.shape)}; it must return {tuple(rows)}"
            )
        if not bool(torch.isfinite(value).all()):
            raise ValueError(f"f returned {value.tolist()} for the sample {state.tolist()}: it must be finite")
        return value

    values = torch.stack([at(state) for state in every])
    if weights is not None:
        score = torch.stack([kind.score(theta, state) for state in every])
        return (weights.reshape(-1, *[1] * theta.dim()) * values[..., None, None] * score).sum(0)

    return torch.func.grad(lambda theta: expectation(kind.log_prob(theta, every), values, samples).sum())(theta)


def _double(logits: Any) -> Tensor:
    """Return the logits in double precision on the CPU; infinite ones, of masked actions, as large ones."""
    plain = torch.as_tensor(logits.detach().cpu() if isinstance(logits, Tensor) else np.asarray(logits))
    return bounded(plain.double())


def _kind(name: str, theta: Tensor, event_shape: tuple[int, ...] | None) -> tuple[type[Family], tuple[int, ...]]:
    """Return the family, and the shape of one row's event.

    Raises:
        ValueError: There is no such family, or the logits are not of that family.
    """
    if name not in FAMILIES:
        raise ValueError(f"unknown family {name!r}: it is one of {', '.join(FAMILIES)}")
    dims = FAMILIES[name].parameter_dims
    if theta.dim() < dims or (name == "gaussian" and tuple(theta.shape[-2:]) != (1, 2)):
        wanted = {"categorical": "(*rows, D, C)", "gaussian": "(*rows, 1, 2)"}.get(name, "(*rows, D)")
        raise ValueError(f"logits of {name} variables must be {wanted}, not {tuple(theta.shape)}")
    if name in ("subset", "top_k"):
        if event_shape is None or tuple(event_shape[:-1]) != tuple(theta.shape[-1:]):
            raise ValueError(f"family={name} needs event_shape=({theta.shape[-1]}, k), of k of the items")
        event = tuple(event_shape)
    else:
        event = tuple(theta.shape[-dims:])[: FAMILIES[name].shape_dims]
    return family_of(name, event), event


def _states(
    kind: type[Family], event: tuple[int, ...], theta: Tensor, samples: int | None
) -> tuple[Tensor, Tensor | None]:
    """Return all states of a row, for all rows at once, ``(S, *rows, event)``.

    Of a Gaussian they are the nodes of a quadrature, with their weights.
    """
    if not kind.discrete:
        if samples is not None:
            raise ValueError("the bound of several samples is enumerated for discrete variables only")
        return quadrature(theta)
    if (count := count_states(kind.name, event)[0] ** (samples or 1)) > MAX_STATES:
        raise ValueError(f"{event} variables have {count} states to enumerate; the limit is {MAX_STATES}: use fewer")
    return states(kind, event, theta), None


def _check_seen(logits: Any, family: str, event_shape: tuple[int, ...] | None, draws: int, samples: int) -> None:
    """Raise ValueError where a variable takes one of its values too seldom for that many draws to be judged.

    One that is never taken may be so for a reason, as a masked action is.
    """
    theta = _double(logits)
    kind, event = _kind(family, theta, event_shape)
    if not kind.discrete:
        return
    every = states(kind, event, theta)
    p = kind.log_prob(theta, every).exp()
    ones = (p.reshape(*p.shape, *[1] * kind.event_dims) * every).sum(0)
    times = draws * samples * torch.minimum(ones, 1 - ones)
    seldom = times[(times > IMPOSSIBLE) & (times < SEEN)]
    if len(seldom):
        least = float(seldom.min())
        raise ValueError(
            f"in {draws:,} draws a variable takes one of its values {least:.2g} times on average, too seldom to judge "
            f"a mean by: take {math.ceil(1.2 * SEEN * draws / least):,} draws, or milder logits"
        )


def _chunks(gradient, logits, f, draws: int, seed: int, vectorize: bool):
    """Gradients, ``(chunk, *logits)``, of independent draws."""
    if not isinstance(logits, Tensor):
        logits = np.asarray(logits)
        generator = np.random.default_rng(seed)
    else:
        generator = torch.Generator(logits.device).manual_seed(seed)
    if vectorize:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            each = torch.func.vmap(lambda _: gradient(logits, f, None), randomness="different")
            for size in _sizes(draws, 10_000):
                yield _checked(each(torch.zeros(size)), (size, *logits.shape)).cpu()
        return
    for size in _sizes(draws, 1000):
        drawn = [_checked(gradient(logits, f, generator), tuple(logits.shape)) for _ in range(size)]
        yield torch.stack(drawn).cpu()


def _sizes(draws: int, most: int) -> list[int]:
    return [most] * (draws // most) + ([draws % most] if draws % most else [])


def _checked(value: Any, shape: tuple[int, ...], what: str = "gradient") -> Tensor:
    if value is None:
        raise ValueError(f"the {what} is None: nothing of the loss reaches the logits")
    value = value.detach() if isinstance(value, Tensor) else torch.as_tensor(np.array(value))
    if tuple(value.shape) != shape:
        raise ValueError(f"the {what} has shape {tuple(value.shape)}; it must be that of the logits, {shape}")
    return value
