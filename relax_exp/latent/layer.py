"""`Latent`: one layer of discrete (or Gaussian) latent variables in somebody's model."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from relax_exp import estimators
from relax_exp.distributions import INDEPENDENT, bounded
from relax_exp.estimators.base import as_shape
from relax_exp.estimators.pathwise import Pathwise
from relax_exp.latent import checks, core
from relax_exp.latent.torch_distributions import parameters_of


class Result(NamedTuple):
    """What a call of a `Latent` returns.

    Attributes:
        loss: The losses, in the shape of the logits' batch.
        sample: The sample without a gradient, ``([K,] *batch, *event_shape)``.
    """

    loss: Tensor
    sample: Tensor


class Latent(nn.Module):
    """A layer of latent variables through which ``loss.backward()`` gives right gradients.

        z = Latent("relax", "bernoulli", (32,))
        loss, b = z(logits, f, x)          # f(b, x): losses of rows, minimised
        loss.mean().backward()

    name and options: an estimator of ``relax_exp.names(family)`` and its keywords. family: "bernoulli" (logits of
    ``event_shape``), "categorical" (event_shape ends in the number of classes; samples are one-hot) or "gaussian" (mean
    and log standard deviation in a last dimension of 2). context_shape: of one row's context, for estimators that learn
    a baseline or a control variate from it. generator: for the initial weights of those.

    The gradient of the returned loss, under whatever reduction, weights or mask, reaches what made the logits, what f
    depends on (the decoder, the prior, row tensors), and the estimator's own parameters. These last get the gradient
    that lowers the variance, not scaled by the loss; put ``z.parameters()`` into an optimiser, in a group of their own
    for another learning rate. In ``eval()`` mode nothing is tuned and no running mean moves; under ``torch.no_grad()``
    f is evaluated at the sample and no more.

    Half-precision logits are computed in single precision, since uniform noise of 8 bits would bias the samples. A
    logit of -inf masks its class, which is then never drawn and has a gradient of zero. The losses have first
    derivatives only. Raises ValueError, TypeError or RuntimeError with the shapes and the fix where it is used wrongly.
    """

    def __init__(
        self,
        name: str,
        family: str = "bernoulli",
        event_shape: int | tuple[int, ...] = (1,),
        context_shape: int | tuple[int, ...] | None = None,
        *,
        generator: torch.Generator | None = None,
        **options,
    ):
        super().__init__()
        self.name, self.event_shape = name, as_shape(event_shape, "event_shape")
        checks.family_and_event(name, family, self.event_shape)
        self.family = INDEPENDENT[family]
        context_shape = None if context_shape is None else as_shape(context_shape, "context_shape")
        self.estimator = estimators.build(name, family, self.flat_event, context_shape, generator=generator, **options)
        checks.offered(self.estimator, name)
        self._probe = checks.probe(self.estimator)

    @property
    def flat_event(self) -> tuple[int, ...]:
        """The event with its variables in one dimension: (D,) or (D, classes)."""
        kept = self.event_shape[-1:] if self.family.event_dims == 2 else ()
        return math.prod(self.event_shape[: len(self.event_shape) - len(kept)]), *kept

    @property
    def parameter_shape(self) -> tuple[int, ...]:
        """The shape of one row's logits."""
        return self.family.parameter_shape(self.event_shape)

    @property
    def samples(self) -> int:
        """K, the number of samples of one row."""
        return self.estimator.samples

    def extra_repr(self) -> str:
        """Show name, family and event."""
        return f"{self.name!r}, {self.family.name!r}, {self.event_shape}"

    def noise(self, n: int, generator: torch.Generator | None = None, like: Tensor | None = None) -> core.Noise:
        """Draw the uniform noise of one call with n rows in all, for ``noise=``, where ``generator`` is."""
        dtype, device = (None, None) if like is None else (like.dtype, like.device)
        drawn = self.estimator.noise(n, generator, dtype, device if generator is None else None)
        return {k: v.to(device) for k, v in drawn.items()}

    def forward(
        self,
        logits: Tensor | Distribution,
        f: Callable[..., Tensor],
        *rows: Tensor,
        context: Tensor | None = None,
        generator: torch.Generator | None = None,
        noise: core.Noise | None = None,
    ) -> Result:
        """Draw a sample, evaluate f, and return losses that carry all gradients.

        Args:
            logits: ``(*batch, *event_shape)`` with any batch dimensions (Gaussian: and a last dimension of 2), or a
                ``torch.distributions`` object of the family.
            f: Called as ``f(b, *rows)`` with b ``(R, *event_shape)``, it returns losses ``(R,)``. R is the number of
                rows times the points that are evaluated at once, and the row tensors are repeated alongside.
            rows: Row tensors, ``(*batch, ...)``, which f gets.
            context: What the estimator may look at, ``(*batch, *context_shape)``.
            generator: Draws the noise.
            noise: From `noise`, instead of drawing it.
        """
        checks.function(f, "f")
        logits, batch, n = self._flat(logits)
        flat = checks.rows_of(rows, batch)
        event = self.event_shape

        def loss(samples: list[Tensor], _, rows: list[Tensor]) -> Tensor:
            (b,) = samples
            return checks.losses_of(f(b.reshape(b.shape[0], *event), *rows), b, "f")

        context = checks.context_of(context, self.estimator, batch, self.name)
        program = core.Program(
            [lambda below, rows: logits], loss, [None if context is None else lambda below, rows: context], flat, n
        )
        noise = self.noise(n, generator, logits) if noise is None else checks.noise_of(noise, self.estimator, n)
        with checks.explained(self.name):
            made = core.step([self.estimator], program, [noise], self.training)
        if self.training:
            checks.write_buffers(self.estimator, made.buffers[0], self.name)
        return Result(made.losses.reshape(batch), self._unflat(made.samples[0], batch))

    def from_sample(
        self,
        logits: Tensor | Distribution,
        sample: Tensor,
        losses: Tensor,
        context: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Return the losses with gradients attached where the sample was drawn earlier: an action, say.

        Args:
            logits: As for a call.
            sample: ``([K,] *batch, *event_shape)`` from `sample`.
            losses: What came of it, ``([K,] *batch)``.
            context: As for a call.
            generator: Draws the noise of estimators that draw conditional variables.

        Returns:
            The losses, in the shape of the batch.

        Raises:
            TypeError: The estimator has to choose where f is evaluated.
        """
        logits, batch, n = self._flat(logits)
        lead = (self.samples,) if self.samples > 1 else ()
        b = checks.shaped(sample, (*lead, *batch, *self.event_shape), "sample").reshape(*lead, n, *self.flat_event)
        f_b = checks.shaped(losses, (*lead, *batch), "losses").reshape(*lead, n)
        context = checks.context_of(context, self.estimator, batch, self.name)
        made = core.from_sample(
            self.estimator,
            logits,
            b.to(logits.dtype),
            f_b.to(logits.dtype),
            self.noise(n, generator, logits),
            context,
            self.training,
        )
        if self.training:
            checks.write_buffers(self.estimator, made.buffers[0], self.name)
        return made.losses.reshape(batch)

    @torch.no_grad()
    def sample(self, logits: Tensor | Distribution, generator: torch.Generator | None = None) -> Tensor:
        """Draw a plain sample, ``([K,] *batch, *event_shape)``, with K where the estimator takes several."""
        logits, batch, n = self._flat(logits)
        noise = self.noise(n, generator, logits)
        b = (
            self.family.sample(logits, noise["u"])
            if isinstance(self.estimator, Pathwise)
            else self.estimator.sample(logits, noise)
        )
        return self._unflat(b, batch)

    def rsample(self, logits: Tensor | Distribution, generator: torch.Generator | None = None) -> Tensor:
        """Draw a stand-in for the sample that autograd differentiates, ``(*batch, *event_shape)``; no f is needed.

        ``Latent("st_gumbel", "categorical", (10,)).rsample(logits)`` is ``F.gumbel_softmax(logits, hard=True)``. Only
        pathwise estimators have one, all but `Reparameterization` biased.

        Raises:
            TypeError: The estimator is not pathwise.
        """
        estimator = checks.pathwise(self.estimator, self.name)
        logits, batch, n = self._flat(logits)
        s = estimator.relax(logits, self.noise(n, generator, logits))
        if self.training:
            checks.write_buffers(estimator, estimator.advance(dict(estimator.named_buffers())), self.name)
        return self._unflat(s, batch)

    def log_prob(self, logits: Tensor | Distribution, b: Tensor) -> Tensor:
        """Return log p(b), summed over the event, in the batch's shape; it is linear in a relaxed b.

        Args:
            logits: As for a call.
            b: Samples, ``(*lead, *batch, *event_shape)`` with any dimensions in front.

        Raises:
            ValueError: The samples are of another batch or event.
        """
        logits, batch, n = self._flat(logits)
        lead = checks.lead_of(b, (*batch, *self.event_shape), "b")
        return self.family.log_prob(logits, b.reshape(-1, n, *self.flat_event)).reshape(*lead, *batch)

    def _flat(self, logits: Tensor | Distribution) -> tuple[Tensor, tuple[int, ...], int]:
        """Return the logits ``(n, ...)``, the batch's shape, and n."""
        if isinstance(logits, Distribution):
            logits = parameters_of(logits, self.family)
        batch = checks.batch_of(logits, self.parameter_shape, self.name, self.family.name)
        checks.same_kind(logits, self.estimator, self._probe, self.name)
        if logits.dtype in (torch.float16, torch.bfloat16):
            logits = logits.float()
        if self.family.discrete:
            logits = bounded(logits)
        n = math.prod(batch)
        return logits.reshape(n, *self.family.parameter_shape(self.flat_event)), batch, n

    def _unflat(self, b: Tensor, batch: tuple[int, ...]) -> Tensor:
        lead = b.shape[: -1 - len(self.flat_event)]
        return b.reshape(*lead, *batch, *self.event_shape)
