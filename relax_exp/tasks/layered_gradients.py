"""Gradients of a latent-variable model with one estimator for each layer of discrete latents.

f = -ELBO = log q(b | x) - log p(x, b). Each layer's estimator gives the gradient at that layer's logits, which is
pushed into its weights; the direct part (log q's own dependence on the logits, decoder, prior) comes from
differentiating f once, at the hard samples of all layers. The tuning losses are summed and differentiated together,
because one layer's variance depends on the temperatures of the layers above it.

Of the direct part, d log q(b | x) at the hard samples is the score, whose mean is zero. ``score_term="dropped"`` leaves
it out (the code of Tucker et al. 2017, of DisARM and RODEO), ``"kept"`` leaves it in (the code of RELAX and ARSM); both
are unbiased. Where log q has another part in the gradient it always stays: in the weights of a multi-sample bound, and
in whatever soft or mean-field pass (a control variate's, a relaxation's), where its mean is not zero.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vjp, vmap

from relax_exp.distributions import as_scalar
from relax_exp.estimators.base import Estimator, Objective, Output
from relax_exp.estimators.pathwise import Pathwise, Tempered
from relax_exp.models.vae import DiscreteVAE
from relax_exp.numerics.sums import total
from relax_exp.tasks.base import Gradients, Model

Noise = list[dict[str, Tensor]]  # by layer
Terms = tuple[list[Tensor], list[Tensor], list[Tensor], list[Tensor]]  # logits, samples, log q and log p, by layer
SHARED = ("log_temperature", "baseline.")  # beginnings of names of what layers share whose estimators are ``shared``


def context_shapes(vae: DiscreteVAE) -> list[tuple[int, ...]]:
    """Return the shape of what the estimator of each layer may look at.

    That is the centred input and the codes of the layers below.
    """
    sizes = [len(vae.mean), *(layer.size for layer in vae.layers)]
    return [(sum(sizes[: i + 1]),) for i in range(vae.depth)]


def by_layer(noise: dict[str, Tensor], depth: int) -> Noise:
    """Return noise named ``l.name``, see `Hierarchy.noise_shapes`, as a list by layer."""
    return [{k.partition(".")[2]: v for k, v in noise.items() if k.startswith(f"{i}.")} for i in range(depth)]


class Thermometer(nn.Module):
    """The temperature of a pathwise estimator, callable through ``functional_call``."""

    def __init__(self, estimator: Tempered):
        super().__init__()
        self.of = estimator

    def forward(self) -> Tensor | float:
        """Return the temperature lambda as it stands."""
        return self.of.temperature


class Drawn(NamedTuple):
    """One ancestral pass: the parameters, data and noise that it was made with, and by layer what was drawn.

    Samples are ``([K,] N, event)``, log q and log p of the latents ``([K,] N)``.
    """

    params: dict[str, Tensor]
    x: Tensor
    noise: Noise
    logits: list[Tensor]
    samples: list[Tensor]
    log_q: list[Tensor]
    log_p: list[Tensor]


class Estimates(NamedTuple):
    """What the estimators of all layers made of one pass.

    Attributes:
        tuning_loss: The sum of their tuning losses.
        outs: Their outputs, by layer.
        pushed: By name, gradients of parameters where an estimator combines them itself, see `Hierarchy.combined`.
    """

    tuning_loss: Tensor
    outs: list[Output]
    pushed: dict[str, Tensor]


class Hierarchy:
    """The gradient of ``vae`` with ``estimators`` (one a layer), as a pure function of a `Model`'s tensors.

    In the place of a vae may be a model that draws its own latents, whose f has no log q and no prior: `HalfPredictor`.

    model.params: of the vae; model.tuning and model.buffers: lists by layer. x: ``(N, pixels)``. objective: what
    pathwise estimators train, see `relaxed`. score_term: of d log q at the hard samples, see the module; it has no
    effect on an estimator of a bound, or on a pathwise one.
    """

    def __init__(
        self, vae: DiscreteVAE, estimators: Sequence[Estimator], objective: str = "elbo", score_term: str = "dropped"
    ):
        self.vae, self.estimators, self.trained = vae, estimators, objective
        self.drops_score = score_term == "dropped" and estimators[0].target == "mean"
        self.families = vae.families
        self.thermometers = [Thermometer(it) for it in estimators if isinstance(it, Tempered)]

    def noise_shapes(self, rows: int) -> dict[str, tuple[int, ...]]:
        """Return the shapes of the noise of one gradient, that of layer l under ``l.name``."""
        return {f"{i}.{k}": v for i, it in enumerate(self.estimators) for k, v in it.noise_shapes(rows).items()}

    @property
    def evaluations(self) -> int:
        """The evaluations of f for one gradient.

        Those at the samples serve all layers; all others are a layer's own. The hard pass for the bound that is logged
        counts where it is made.
        """
        first = self.estimators[0]
        if first.target == "path":
            return 1 if self.reads_bound else 2
        return first.samples + sum(it.evaluations - it.samples * it.uses_f_b for it in self.estimators)

    @property
    def reads_bound(self) -> bool:
        """Whether the pass of a pathwise estimator gives the discrete bound too, since its samples are draws of q."""
        return self.trained == "elbo" and all(it.needs == "gradient" and it.draws_p for it in self.estimators)

    def call(self, params, method: str, *args):
        """Call a method of the vae under ``params``."""
        return functional_call(self.vae, params, (method, *args))

    def bound_terms(
        self,
        params: dict[str, Tensor],
        x: Tensor,
        convert: Callable[[int, Tensor], Tensor],
        first: Tensor | None = None,
        score_term: bool = True,
    ) -> tuple[Tensor, Terms]:
        """Return -ELBO ``(..., N)`` and (logits, samples, log_q, log_p) by layer, from one ancestral pass.

        ``first`` are the logits of layer 0, where they are known already. With ``score_term`` log q may be
        differentiated.
        """
        logits, samples, log_q, log_p, log_prior = self.call(params, "chain", x, convert, first)
        attached = total(log_q) if score_term else total(log_q).detach()
        return attached - total(log_p) - log_prior, (logits, samples, log_q, log_p)

    def gradients(
        self,
        model: Model,
        x: Tensor,
        noise: Noise,
        fixed: dict[str, Tensor] | None = None,
        of_data: dict[str, Tensor] | None = None,
    ) -> Gradients:
        """Draw the gradients with respect to ``model.params``, with parameters of the vae in ``fixed`` held constant.

        With ``fixed``, even empty, the tuning gradients are left out (None), as what measures a variance needs none;
        those of a pathwise estimator come in the same pass and stay. ``of_data`` takes the place of the vae's buffers
        of these names, where x is from another data set.
        """
        tune, fixed = fixed is None, {**(fixed or {}), **(of_data or {})}
        if self.estimators[0].target == "path":
            return self._pathwise(model, x, noise, fixed)
        n = x.shape[0]

        # Where df/db is asked for, zeros are added to the samples, to be differentiated with respect to.
        slopes = self.estimators[0].uses_slope
        zeros = [[x.new_zeros((it.samples, n, *it.event_shape)) for it in self.estimators]] if slopes else []

        def forward(params, *zeros):
            f, (logits, samples, log_q, log_p) = self.bound_terms(
                {**params, **fixed},
                x,
                lambda i, logits: sum((z[i] for z in zeros), self.estimators[i].sample(logits, noise[i])),
                score_term=slopes or not self.drops_score,
            )
            return (logits, f), (samples, log_q, log_p)

        # torch does not say that there are three with has_aux.
        made: Any = vjp(forward, model.params, *zeros, has_aux=True)
        (logits, f), pull, (samples, log_q, log_p) = made
        drawn = Drawn({**model.params, **fixed}, x, noise, logits, samples, log_q, log_p)
        loss, pull_loss = vjp(self.target(logits, samples), f)[:2]
        (direct,) = pull_loss(torch.full_like(loss, 1 / n))
        at_samples, apart = [f] * len(logits), {}
        if slopes:  # one backward pass for df/db and the direct part, which has the same weight for every sample
            apart, each = pull(([torch.zeros_like(a) for a in logits], direct))
            if self.drops_score:  # all that the encoder has of the direct part; df/db is that of the whole f
                apart = {k: g for k, g in apart.items() if not k.startswith("encoder.")}
            at_samples = [(f, slope * (n * it.samples)) for slope, it in zip(each, self.estimators, strict=True)]
            pull = self.pull_logits(model.params, fixed, x, samples)

        def tuned(tuning):
            made = self.estimates(drawn, tuning, model.buffers, at_samples)
            return made.tuning_loss, made

        tuning_grads, made = grad(tuned, has_aux=True)(model.tuning) if tune else (None, tuned(model.tuning)[1])
        pushed = [out.grad / n for out in made.outs]
        (grads,) = pull(pushed) if slopes else pull((pushed, direct))
        grads = {k: sum((part[k] for part in (made.pushed, apart) if k in part), g) for k, g in grads.items()}
        metrics = {"train/elbo": -(f if self.estimators[0].draws_p else loss).mean()}
        for i, out in enumerate(made.outs):
            suffix = f"_{i + 1}" if len(made.outs) > 1 else ""
            metrics |= {f"estimator/{k}{suffix}": v for k, v in out.aux.items() if v.dim() == 0}
        buffers = [{**old, **out.buffers} for old, out in zip(model.buffers, made.outs, strict=True)]
        return Gradients(grads, tuning_grads, buffers, loss.mean(), made.tuning_loss, metrics)

    def estimates(
        self,
        drawn: Drawn,
        tuning: list[dict[str, Tensor]],
        buffers: list[dict[str, Tensor]],
        at_samples: Sequence[Tensor | tuple[Tensor, Tensor]],
    ) -> Estimates:
        """Call the estimators of all layers on one pass.

        Args:
            drawn: The pass.
            tuning: Their parameters, by layer.
            buffers: Their buffers, by layer.
            at_samples: f at the samples, by layer, with df/db where they ask for it.
        """
        outs: list[Output] = []
        own: dict[str, Tensor] = {}
        losses: list[Tensor] = []
        count, tuning = 0, self.joined(tuning)
        for i, estimator in enumerate(self.estimators):
            objective = self.objective(i, drawn, tuning)
            context = self.context(drawn.params, drawn.x, drawn.samples[:i])
            out = functional_call(
                estimator,
                (tuning[i], buffers[i]),
                (drawn.logits[i], objective),
                {"noise": drawn.noise[i], "context": context, "f_b": at_samples[i]},
            )
            if estimator.granular:
                below = drawn.samples[i - 1] if i else drawn.x
                parts = out.aux["parts"] / len(drawn.x)
                pushed = self.combined(drawn.params, i, below, parts, out.aux["etas"])
                squares = torch.cat([g.flatten() for g in pushed.values()]).square()
                losses.append(squares.sum() if estimator.shared else squares.mean())
                count += len(squares)
                own, out = own | pushed, out._replace(grad=torch.zeros_like(out.grad))
            else:
                losses.append(estimator.tuning_loss(out))
            outs.append(out)
        loss = total(losses)
        if count and self.estimators[0].shared:
            loss = loss / count  # one objective for all layers: the mean over all of their parameters
        return Estimates(loss, outs, own)

    def pull_logits(self, params, fixed, x: Tensor, samples: list[Tensor]) -> Callable:
        """Return what takes gradients at the logits of all layers to ``params``."""

        def encode(params):
            everything = {**params, **fixed}
            return [self.call(everything, "encode", i, below) for i, below in enumerate([x, *samples[:-1]])]

        return vjp(encode, params)[1]

    def joined(self, tuning: list[dict[str, Tensor]]) -> list[dict[str, Tensor]]:
        """Return the tuning parameters of all layers, with those of layer 0 in the place of what estimators share."""
        if not self.estimators[0].shared:
            return tuning
        common = {k: v for k, v in tuning[0].items() if k.startswith(SHARED)}
        return [{**own, **common} for own in tuning]

    def combined(self, params, i: int, below: Tensor, parts: Tensor, eta: Tensor) -> dict[str, Tensor]:
        """Push REBAR's ``parts`` ``(2, N, event)``, of one layer, into that layer's weights: A + eta B, an eta each.

        The gradient is linear in the parts, so both are pushed once and every tensor takes its own eta, ``(tensors,)``.
        """
        mine = {k: v for k, v in params.items() if k.startswith(f"encoder.{i}.")}
        pull = vjp(lambda own: self.call({**params, **own}, "encode", i, below), mine)[1]
        (pushed,) = vmap(pull)(parts)
        return {k: both[0] + eta[j] * both[1] for j, (k, both) in enumerate(pushed.items())}

    def target(self, logits: list[Tensor], samples: list[Tensor]) -> Callable[[Tensor], Tensor]:
        """Return ``out.loss`` as a function of f at the samples."""
        return self.estimators[0].loss_at(logits[0], samples[0])

    def objective(self, i: int, drawn: Drawn, tuning: list[dict[str, Tensor]]) -> Objective:
        """Return f as a function of what stands in the place of b_i, with the layers below as they were drawn."""
        params, x, noise = drawn.params, drawn.x, drawn.noise
        below = drawn.samples[i - 1] if i else x
        constant = total(drawn.log_q[:i]) - total(drawn.log_p[:i]) if i else 0.0

        def value(convert):
            return lambda s, logits: constant + self.call(params, "above", i, s, logits, below, convert, x)

        def soft(k, logits):
            z = self.families[k].path(logits, noise[k]["u"])
            return self.estimators[k].soften(z, logits, tuning[k]["log_temperature"].exp())

        return Objective(
            hard=value(lambda k, logits: self.estimators[k].sample(logits, noise[k])),
            relaxed=value(soft),
            mean=value(lambda k, logits: self.families[k].mean(logits)),
        )

    def context(self, params, x: Tensor, below: list[Tensor]) -> Tensor:
        """Return the centred input and the codes of the lower layers, ``(..., N, size)``."""
        parts = [self.call(params, "code", i - 1, b) for i, b in enumerate([x, *below])]
        if len(parts) == 1:
            return parts[0]
        parts[0] = parts[0].expand(*parts[1].shape[:-1], -1)
        return torch.cat(parts, -1)

    def relaxed(
        self, params: Any, tuning: Any, buffers: Any, x: Tensor, noise: Noise, kind: str
    ) -> tuple[Tensor, Tensor]:
        """Compute -ELBO with the stand-ins s of a pathwise estimator for the samples of all layers.

        Args:
            kind: What stands for log q and log p of the discrete variables. elbo: their log masses, linear in s (the
                REBAR code). kl: in these two places the mean takes the place of s, which is the categorical KL (Jang et
                al. 2017; no bound). density: the log densities of s itself, a bound of the relaxed model (Maddison et
                al. 2017, eq. 20), with the temperature of the estimator in both.

        Returns:
            -ELBO, ``(N,)``, and the logits of layer 0.
        """

        def state(i):
            return tuning[i], buffers[i]

        def convert(i, logits):
            return functional_call(self.estimators[i], state(i), (logits,), {"noise": noise[i]})

        def divergence(i, q, p, s):
            family = self.families[i]
            if kind == "density":
                inner = [{f"of.{k}": v for k, v in part.items()} for part in state(i)]
                temperature = as_scalar(functional_call(self.thermometers[i], tuple(inner), ()), q)
                log_s = (family.path(q, noise[i]["u"]) / temperature).log_softmax(-1)
                return family.log_density(q, log_s, temperature) - family.log_density(p, log_s, temperature)
            at = family.mean(q) if kind == "kl" else s
            return family.log_prob(q, at) - family.log_prob(p, at)

        return self.call(params, "relaxed", x, convert, divergence)

    def _pathwise(self, model: Model, x, noise: Noise, fixed) -> Gradients:
        """Differentiate one relaxed pass through all layers as a whole; ``train/elbo`` is the discrete bound."""

        def relaxed(params, tuning):
            losses, logits = self.relaxed({**params, **fixed}, tuning, model.buffers, x, noise, self.trained)
            return losses.mean(), (losses.mean(), logits)

        # A learned temperature follows the ordinary gradient of the relaxed loss, as in the papers.
        (grads, tuning_grads), (loss, logits) = grad(relaxed, argnums=(0, 1), has_aux=True)(model.params, model.tuning)
        hard = loss
        if not self.reads_bound:
            hard, _ = self.bound_terms(
                {**model.params, **fixed}, x, lambda i, logits: self.families[i].sample(logits, noise[i]["u"]), logits
            )
        layers = (it for it in self.estimators if isinstance(it, Pathwise))  # all of them
        buffers = [{**old, **it.advance(old)} for it, old in zip(layers, model.buffers, strict=True)]
        metrics = {"train/elbo": -hard.mean(), f"train/relaxed_{self.trained}": -loss}
        return Gradients(grads, tuning_grads, buffers, loss, torch.zeros_like(loss), metrics)
