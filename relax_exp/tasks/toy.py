"""The toy problem: minimise E[(b - t)^2] over the logit of b ~ Bernoulli (RELAX draft, section 6.1; Tucker et al.)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call, grad, vmap
from torch.utils._pytree import tree_map

from relax_exp import estimators, run_files
from relax_exp.distributions import logit_uniform
from relax_exp.estimators.base import Output
from relax_exp.numerics.random_streams import stream
from relax_exp.tasks.base import Gradients, Model, Task, draw, log_variances
from relax_exp.tasks.registry import ToyOptions


class ToyTask(Task):
    """Minimise E[f(b)] over the parameters of b's distribution alone, all zeros at the start.

    What a problem has of its own is `event_shape`, `loss`, and `evaluate`, which has the gradient's `variance` too. The
    loss that is logged is the exact expectation, never a sample. With ``frozen`` the parameters stay where they are and
    only the estimator is tuned.
    """

    family: str
    frozen: bool = False
    compile_after = 5000

    def __init__(self, estimator: dict[str, Any], options: Any, **given: Any):
        super().__init__(estimator, options, **given)
        self.estimator = self._build(stream(0, "template"))
        self.evaluations = self.estimator.evaluations

    @property
    def event_shape(self) -> tuple[int, ...]:
        """The shape of one sample."""
        raise NotImplementedError

    def loss(self, b: Tensor) -> Tensor:
        """Return f at samples, ``(..., *event_shape)`` -> ``(...)``."""
        raise NotImplementedError

    def _build(self, generator):
        shape, options = self.event_shape, self.estimator_options
        built = estimators.build(self.estimator_name, self.family, shape, generator=generator, **options)
        return built.to(self.device, self.dtype)

    def init(self, generator):
        estimator = self._build(generator)
        shape = estimator.family.parameter_shape(self.event_shape)
        logit = torch.zeros(shape, dtype=self.dtype, device=self.device)
        return Model(
            {"logit": logit},
            {k: v.detach().clone() for k, v in estimator.named_parameters()},
            {k: v.clone() for k, v in estimator.named_buffers()},
        )

    def noise_shapes(self):
        return self.estimator.noise_shapes(self.batch_size)

    def _estimate(self, model: Model, tuning, noise: dict[str, Tensor]) -> Output:
        logits = model.params["logit"].expand(self.batch_size, *model.params["logit"].shape)
        return functional_call(self.estimator, (tuning, model.buffers), (logits, self.loss), {"noise": noise})

    def gradients(self, model, batch, noise):
        def tuned(tuning):
            out = self._estimate(model, tuning, noise)
            loss = self.estimator.tuning_loss(out)
            return loss, (loss, out)

        tuning_grads, (tuning_loss, out) = grad(tuned, has_aux=True)(model.tuning)
        gradient = out.grad.mean(0)
        return Gradients(
            {"logit": torch.zeros_like(gradient) if self.frozen else gradient},
            tuning_grads,
            {**model.buffers, **out.buffers},
            out.loss.mean(),
            tuning_loss,
            {f"estimator/{k}": v for k, v in out.aux.items() if v.dim() == 0},
        )

    def variance(self, models, seeds, step):
        shapes, draws = self.noise_shapes(), self.options.variance_draws
        noise = [draw(shapes, draws, stream(seed, "evaluation", step), self.dtype) for seed in seeds]
        noise = tree_map(lambda *n: torch.stack(n).to(self.device), *noise)

        def one(model, noise):
            return log_variances(vmap(lambda n: self._estimate(model, model.tuning, n).grad.mean(0))(noise))

        values = {k: v.tolist() for k, v in vmap(one)(models, noise).items()}
        return [{k: v[i] for k, v in values.items()} for i in range(len(seeds))]


class Toy(ToyTask):
    """Minimise the mean of (b - t)^2 over ``latents`` independent bits b.

    ``theta``, which is logged, is the probability of b = 1, .5 at the start. ``freeze`` leaves it where it is and only
    tunes the estimator, as in Le's notes on REBAR and RELAX (2017).
    """

    name = "toy"
    family = "bernoulli"
    options: ToyOptions

    def __init__(self, estimator: dict[str, Any], options: ToyOptions, **given: Any):
        super().__init__(estimator, options, **given)
        self.frozen = options.freeze

    @property
    def event_shape(self):
        return (self.options.latents,)

    def loss(self, b: Tensor) -> Tensor:
        """Return f(b), the mean over latents of (b - t)^2, ``(..., D)`` -> ``(...)``."""
        return (b - self.options.t).square().mean(-1)

    def evaluate(self, models, seeds, step, final):
        """Return the exact loss, its excess over the optimum, theta, and the gradient's variance from fresh draws."""
        theta, t = torch.sigmoid(models.params["logit"]), self.options.t
        loss = (theta * (1 - t) ** 2 + (1 - theta) * t**2).mean(-1)
        # Not the difference of losses, of which single precision would leave little once theta is near the optimum.
        excess = (theta if t < 0.5 else 1 - theta).mean(-1) * abs(1 - 2 * t)
        exact = {"loss": loss.tolist(), "excess": excess.tolist(), "theta": theta.mean(-1).tolist()}
        variances = self.variance(models, seeds, step)
        return [{k: v[i] for k, v in exact.items()} | variances[i] for i in range(len(seeds))]

    def finish(self, models, labels):
        """Return ``curves.json``, the learned relaxation c(z) against the uniform u of z = logit(u), at theta = .5."""
        t = self.options.t
        u = torch.linspace(0, 1, 203, dtype=self.dtype, device=self.device)[1:-1]
        curves = {"u": u.tolist(), "theta": 0.5, "f": [t**2, (1 - t) ** 2], "relaxation": {}}
        control_variate = getattr(self.estimator, "control_variate", None)
        if control_variate is not None and self.options.latents == 1:
            z = logit_uniform(u).unsqueeze(-1)
            for i, label in enumerate(labels):
                self.estimator.load_state_dict(tree_map(lambda v, i=i: v[i], {**models.tuning, **models.buffers}))
                c = control_variate(z, torch.zeros_like(z), self.loss)
                curves["relaxation"][label] = c.tolist()
        return {run_files.RELAXATION: curves}
