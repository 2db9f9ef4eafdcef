"""RELAX as T. A. Le's notes print it: c(z) = f(sigma_lambda(z)) + r(z), with a ReLU behind r's last layer too.

An estimator of one's own that changes one method of RELAX:

    relax-exp task=verify estimator.path=examples/le.py
    relax-exp task=toy estimator.path=examples/le.py estimator.output=linear
"""

from __future__ import annotations

from typing import Any

import torch

from relax_exp.estimators.rebar_relax import Relax


class Le(Relax):
    """c(z) = f(sigma_lambda(z)) + r(z), r with two hidden layers of five units; f has no factor eta.

    With ``output="relu"``, as in the notes, r is never negative, and where it is zero at all z it is tuned no more.
    """

    def __init__(self, *args: Any, depth: int = 2, width: int = 5, output: str = "relu", **options: Any):
        super().__init__(*args, **options | {"surrogate": "relaxed", "depth": depth, "width": width})
        self.output = output
        del self.eta
        self.register_buffer("eta", torch.tensor(1.0))

    def control(self, z, logits, f, features):
        """Return the control variate c(z), ``(..., N)``."""
        r = self.network(z, features)
        relaxed = self.evaluate(f.relaxed, self.soften(z, logits, self.temperature), logits, True)
        return relaxed + (torch.relu(r) if self.output == "relu" else r)
