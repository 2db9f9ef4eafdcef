"""The toy problem: minimise E[(b - t)^2] over the logit of b ~ Bernoulli (RELAX draft, section 6.1; Tucker et al.)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.func import functional_call, grad, vmap
from torch.utils._pytree import tree_map

from relax_exp import estimators
from relax_exp.distributions import logit_uniform
from relax_exp.estimators.base import Output
from relax_exp.numerics.random_streams import stream
from relax_exp.tasks.base import Gradients, Model, Task, draw, log_variances


class Toy(Task):
    """``latents`` independent problems share one loss, their mean. theta = .5 at the start.

    ``freeze=True`` leaves theta where it is and only tunes the estimator (Le's notes 004). The loss that is logged is
    the exact expectation, never a sample. ``black_box`` has no effect here: it is checked with the configuration.
    """

    name = "toy"
    family = "bernoulli"
    compile_after = 5000

    def __init__(
        self,
        estimator: dict,
        t: float = 0.499,
        latents: int = 1,
        batch_size: int = 1,
        variance_draws: int = 1000,
        freeze: bool = False,
        black_box: bool = False,
        dtype: torch.dtype = torch.float32,
        device: str | torch.device = "cpu",
    ):
        self.take(estimator)
        self.t, self.latents, self.batch_size, self.freeze = t, latents, batch_size, freeze
        self.variance_draws = variance_draws
        self.dtype, self.device = dtype, torch.device(device)
        self.estimator = self._build(stream(0, "template"))
        self.evaluations = self.estimator.evaluations

    @property
    def event_shape(self) -> tuple[int, ...]:
        """The shape of one sample, ``(latents,)``."""
        return (self.latents,)

    def _build(self, generator):
        shape = self.event_shape
        built = estimators.build(self.estimator_name, self.family, shape, generator=generator, **self.options)
        return built.to(self.device, self.dtype)

    def loss(self, b: Tensor) -> Tensor:
        """Return f(b), the mean over latents of (b - t)^2, ``(..., D)`` -> ``(...)``."""
        return (b - self.t).square().mean(-1)

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
            {"logit": torch.zeros_like(gradient) if self.freeze else gradient},
            tuning_grads,
            {**model.buffers, **out.buffers},
            out.loss.mean(),
            tuning_loss,
            {f"estimator/{k}": v for k, v in out.aux.items() if v.dim() == 0},
        )

    def evaluate(self, models, seeds, step, final):
        """Return the exact loss, its excess over the optimum, theta, and the gradient's variance from fresh draws."""
        theta = torch.sigmoid(models.params["logit"])
        loss = (theta * (1 - self.t) ** 2 + (1 - theta) * self.t**2).mean(-1)
        # Not the difference of losses, of which single precision would leave little once theta is near the optimum.
        excess = (theta if self.t < 0.5 else 1 - theta).mean(-1) * abs(1 - 2 * self.t)
        exact = {"loss": loss.tolist(), "excess": excess.tolist(), "theta": theta.mean(-1).tolist()}
        variances = self.variance(models, seeds, step)
        return [{k: v[i] for k, v in exact.items()} | variances[i] for i in range(len(seeds))]

    def variance(self, models, seeds, step):
        shapes, draws = self.noise_shapes(), self.variance_draws
        noise = [draw(shapes, draws, stream(seed, "evaluation", step), self.dtype) for seed in seeds]
        noise = tree_map(lambda *n: torch.stack(n).to(self.device), *noise)

        def one(model, noise):
            return log_variances(vmap(lambda n: self._estimate(model, model.tuning, n).grad.mean(0))(noise))

        values = {k: v.tolist() for k, v in vmap(one)(models, noise).items()}
        return [{k: v[i] for k, v in values.items()} for i in range(len(seeds))]

    def finish(self, models, labels):
        """Return ``curves.json``, the learned relaxation c(z) against the uniform u of z = logit(u), at theta = .5."""
        u = torch.linspace(0, 1, 203, dtype=self.dtype, device=self.device)[1:-1]
        curves = {"u": u.tolist(), "theta": 0.5, "f": [self.t**2, (1 - self.t) ** 2], "relaxation": {}}
        if hasattr(self.estimator, "relaxation") and self.latents == 1:
            z = logit_uniform(u).unsqueeze(-1)
            for i, label in enumerate(labels):
                self.estimator.load_state_dict(tree_map(lambda v, i=i: v[i], {**models.tuning, **models.buffers}))
                c = self.estimator.relaxation(z, torch.zeros_like(z), self.loss)
                curves["relaxation"][label] = c.tolist()
        return {"curves.json": curves}
