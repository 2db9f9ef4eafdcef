"""Gradients of a latent-variable model with one estimator for each layer of discrete latents.

f = -ELBO = log q(b | x) - log p(x, b). Each layer's estimator gives the gradient at that layer's logits, which is
pushed into its weights; the direct part (log q's own dependence on the logits, decoder, prior) comes from
differentiating f once, at the hard samples of all layers. The tuning losses are summed and differentiated together,
because one layer's variance depends on the temperatures of the layers above it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vjp

from relax_exp.estimators.base import Objective
from relax_exp.estimators.pathwise import Pathwise
from relax_exp.models.vae import DiscreteVAE
from relax_exp.tasks.base import Gradients, Model

Noise = list[dict[str, Tensor]]  # by layer


def context_shapes(vae: DiscreteVAE) -> list[tuple[int, ...]]:
    """What the estimator of each layer may look at: the centred input and the codes of the layers below."""
    sizes = [len(vae.mean), *(layer.size for layer in vae.layers)]
    return [(sum(sizes[: i + 1]),) for i in range(vae.depth)]


def by_layer(noise: dict[str, Tensor], depth: int) -> Noise:
    """Noise named ``l.name`` as a list by layer."""
    return [{k.partition(".")[2]: v for k, v in noise.items() if k.startswith(f"{i}.")} for i in range(depth)]


class Hierarchy:
    """The gradient of ``vae`` with ``estimators`` (one a layer), as a pure function of a `Model`'s tensors.

    model.params: of the vae; model.tuning and model.buffers: lists by layer. x: ``(N, pixels)``.
    """

    def __init__(self, vae: DiscreteVAE, estimators: nn.ModuleList):
        self.vae, self.estimators = vae, estimators
        self.families = vae.families

    def call(self, params, method: str, *args):
        """A method of the vae under ``params``."""
        return functional_call(self.vae, params, (method, *args))

    def bound_terms(self, params, x: Tensor, convert) -> tuple:
        """-ELBO ``(..., N)`` and (logits, samples, log_q, log_p) by layer, from one ancestral pass."""
        logits, samples, log_q, log_p, log_prior = self.call(params, "chain", x, convert)
        return sum(log_q) - sum(log_p) - log_prior, (logits, samples, log_q, log_p)

    def gradients(self, model: Model, x: Tensor, noise: Noise, fixed: dict[str, Tensor] | None = None) -> Gradients:
        """Gradients with respect to ``model.params``; ``fixed`` are parameters of the vae held constant."""
        fixed = fixed or {}
        if isinstance(self.estimators[0], Pathwise):
            return self._pathwise(model, x, noise, fixed)
        n = x.shape[0]

        def forward(params):
            f, (logits, samples, log_q, log_p) = self.bound_terms(
                {**params, **fixed}, x, lambda i, logits: self.estimators[i].sample(logits, noise[i])
            )
            return (logits, f), (samples, log_q, log_p)

        (logits, f), pull, (samples, log_q, log_p) = vjp(forward, model.params, has_aux=True)
        params = {**model.params, **fixed}

        def tuned(tuning):
            outs, total = [], 0.0
            for i, estimator in enumerate(self.estimators):
                objective = self.objective(i, params, tuning, x, samples, log_q, log_p, noise)
                out = functional_call(
                    estimator,
                    (tuning[i], model.buffers[i]),
                    (logits[i], objective),
                    {"noise": noise[i], "context": self.context(x, samples[:i]), "f_b": f},
                )
                total = total + estimator.tuning_loss(out)
                outs.append(out)
            return total, (total, outs)

        tuning_grads, (tuning_loss, outs) = grad(tuned, has_aux=True)(model.tuning)
        loss, pull_loss = vjp(self.estimators[0].objective, f)
        (direct,) = pull_loss(torch.full_like(loss, 1 / n))
        (grads,) = pull(([out.grad / n for out in outs], direct))
        metrics = {"train/elbo": -f.mean()}
        for i, out in enumerate(outs):
            suffix = f"_{i + 1}" if len(outs) > 1 else ""
            metrics |= {f"estimator/{k}{suffix}": v for k, v in out.aux.items() if v.dim() == 0}
        buffers = [{**old, **out.buffers} for old, out in zip(model.buffers, outs, strict=True)]
        return Gradients(grads, tuning_grads, buffers, loss.mean(), tuning_loss, metrics)

    def objective(self, i: int, params, tuning, x, samples, log_q, log_p, noise: Noise) -> Objective:
        """f as a function of what stands in place of b_i, with the layers below as they were drawn."""
        below = samples[i - 1] if i else x
        constant = sum(log_q[:i]) - sum(log_p[:i]) if i else 0.0

        def value(convert):
            return lambda s, logits: constant + self.call(params, "above", i, s, logits, below, convert)

        def soft(k, logits):
            family = self.families[k]
            return family.relax(family.path(logits, noise[k]["u"]), tuning[k]["log_temperature"].exp())

        return Objective(
            hard=value(lambda k, logits: self.estimators[k].sample(logits, noise[k])),
            relaxed=value(soft),
            mean=value(lambda k, logits: self.families[k].mean(logits)),
        )

    def context(self, x: Tensor, below: list[Tensor]) -> Tensor:
        """The centred input and the codes of the lower layers, ``(..., N, size)``."""
        parts = [x - self.vae.mean, *(self.vae.code(i, b) for i, b in enumerate(below))]
        if len(parts) == 1:
            return parts[0]
        parts[0] = parts[0].expand(*parts[1].shape[:-1], -1)
        return torch.cat(parts, -1)

    def _pathwise(self, model: Model, x, noise: Noise, fixed) -> Gradients:
        """One relaxed pass through all layers, differentiated as a whole; ``train/elbo`` is the discrete bound."""

        def relaxed(params, tuning):
            def convert(i, logits):
                state = (tuning[i], model.buffers[i])
                return functional_call(self.estimators[i], state, (logits,), {"noise": noise[i]})

            loss = self.bound_terms({**params, **fixed}, x, convert)[0].mean()
            return loss, loss

        # A learned temperature follows the ordinary gradient of the relaxed loss, as in the papers.
        (grads, tuning_grads), loss = grad(relaxed, argnums=(0, 1), has_aux=True)(model.params, model.tuning)
        hard, _ = self.bound_terms(
            {**model.params, **fixed}, x, lambda i, logits: self.families[i].sample(logits, noise[i]["u"])
        )
        buffers = [{**old, **it.advance(old)} for it, old in zip(self.estimators, model.buffers, strict=True)]
        metrics = {"train/elbo": -hard.mean(), "train/relaxed_elbo": -loss}
        return Gradients(grads, tuning_grads, buffers, loss, torch.zeros_like(loss), metrics)
