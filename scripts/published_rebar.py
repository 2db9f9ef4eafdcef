"""Trains with the published gradient of REBAR with two layers, bias included, to see what the bias does to its bounds.

    python scripts/published_rebar.py steps=4166 compile=false

The keys are those of ``relax-exp experiment=tucker_rebar``. As `published_two_layers` shows, c(z~) of layer 1 carries a
derivative through the noise of layer 2, whose path is conditional on that layer's bits. It adds dc / dz_2 (1 - dz~_2 /
dlogits_2) to what layer 2's encoder is given, with c the control variate of layer 1.
"""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch import Tensor
from torch.func import grad

from relax_exp.cli import main as command
from relax_exp.estimators.base import Objective
from relax_exp.tasks import vae
from relax_exp.tasks.layered_gradients import Drawn, Hierarchy


class Published(Hierarchy):
    """The gradient of two layers as the REBAR code computes it."""

    extra: Tensor

    def objective(self, i: int, drawn: Drawn, tuning: list[dict[str, Tensor]]) -> Objective:
        """Return f as ever; for layer 2, keep what layer 1's control variate adds there."""
        if i == 1:
            self.extra = self.through_noise(drawn, tuning)
        return super().objective(i, drawn, tuning)

    def through_noise(self, drawn: Drawn, tuning: list[dict[str, Tensor]]) -> Tensor:
        """Compute dc / dz_2 (1 - dz~_2 / dlogits_2), ``(N, D)``, with both layers soft in c."""
        params, x, noise, samples = drawn.params, drawn.x, drawn.noise, drawn.samples
        temperatures = [layer["log_temperature"].exp() for layer in tuning]
        first, second = self.call(params, "encode", 0, x), self.call(params, "encode", 1, samples[0])
        lower, upper = self.families
        s = self.estimators[0].soften(lower.path(first, noise[0]["u"]), first, temperatures[0])

        def control(shift: Tensor) -> Tensor:
            def soft(k: int, logits: Tensor) -> Tensor:
                return self.estimators[k].soften(upper.path(logits, noise[k]["u"]) + shift, logits, temperatures[k])

            return self.call(params, "above", 0, s, first, x, soft, x).sum()

        slope = upper.conditional_slope(second, samples[1], upper.path(second, noise[1]["u"]))
        return grad(control)(torch.zeros_like(second)) * (1 - slope)

    def combined(self, params: Any, i: int, below: Tensor, parts: Tensor, eta: Tensor) -> dict[str, Tensor]:
        """Push the parts of a layer into its weights, with what is kept for layer 2."""
        if i == 1:
            parts = torch.stack([parts[0], parts[1] + self.extra / len(below)])
        return super().combined(params, i, below, parts, eta)


if __name__ == "__main__":
    vae.Hierarchy = Published
    sys.argv[1:1] = ["experiment=tucker_rebar"]
    sys.exit(command.main())
