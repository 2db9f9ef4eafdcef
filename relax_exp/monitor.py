"""`GradientMonitor`: how noisy the gradients of a model are while it trains."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from relax_exp.numerics.moments import Moments


class GradientNoise(NamedTuple):
    """The noise of the gradient of one parameter tensor, at fixed parameters.

    Attributes:
        variance: That of one gradient, averaged over coordinates (n - 1 in the denominator).
        cosine: That of one gradient with the mean of ``reference`` others, averaged over draws.
        noise_scale: The trace of the covariance over the squared norm of the mean gradient (McCandlish et al. 2018,
            B_simple, with both unbiased): how many times over one gradient must be averaged until noise and signal are
            even; infinite where the signal is lost in the noise.
    """

    variance: float
    cosine: float
    noise_scale: float


class GradientMonitor:
    """Measures variance, direction and noise scale of the gradient of each parameter tensor of a module.

        monitor = GradientMonitor(model, "runs/mine")
        ...
        if step % 500 == 0:
            monitor.measure(lambda: loss_of(fixed_batch), step)

    writer: a TensorBoard ``SummaryWriter`` (or anything with ``add_scalar``), a folder for one, or None. The scalars
    are ``gradient_variance/NAME``, ``gradient_cosine/NAME`` and ``gradient_noise_scale/NAME``. reference: gradients
    whose mean is the reference; draws: further ones that are compared with it.

    A measurement leaves training as it was: ``.grad``, buffers (running means, BatchNorm) and the global random state
    come back. On a fixed batch the noise of the estimator is measured; where the closure draws a batch, that of the
    data is in it.
    """

    def __init__(self, module: nn.Module, writer: Any = None, reference: int = 100, draws: int = 20):
        if reference < 2 or draws < 1:
            raise ValueError(f"reference={reference} must be at least 2, draws={draws} at least 1")
        self.module, self.reference, self.draws = module, reference, draws
        self.writer = _writer(writer)

    def measure(self, closure: Callable[[], Tensor], step: int = 0) -> dict[str, GradientNoise]:
        """Measure the gradient's noise by ``reference + draws`` gradients.

        Args:
            closure: Computes the scalar loss anew, without ``backward``.
            step: Where the scalars are written.

        Returns:
            The noise by name of the parameter. A draw in which the loss does not reach a parameter counts as a gradient
            of zero; parameters that it reaches in none are left out.

        Raises:
            ValueError: The loss is no scalar or has no gradient, or no parameter requires one.
        """
        named = {name: p for name, p in self.module.named_parameters() if p.requires_grad}
        if not named:
            raise ValueError("the module has no parameter that requires a gradient")
        parameters = list(named.values())
        buffers = [(b, b.clone()) for b in self.module.buffers()]
        devices = sorted({p.device.index for p in parameters if p.device.type == "cuda"})
        try:
            with torch.random.fork_rng(devices=devices), torch.enable_grad():
                found = self._noise(closure, parameters)
        finally:
            with torch.no_grad():
                for buffer, value in buffers:
                    buffer.copy_(value)
        noise = {name: row for name, row in zip(named, found, strict=True) if row is not None}
        if self.writer is not None:
            for name, row in noise.items():
                for key, value in row._asdict().items():
                    self.writer.add_scalar(f"gradient_{key}/{name}", value, step)
        return noise

    def _gradient(self, closure, parameters: list[nn.Parameter], reached: set[int]) -> list[Tensor]:
        """Return one draw of the gradient, zero where the loss does not reach; ``reached`` gains where it does."""
        loss = closure()
        if not isinstance(loss, Tensor) or loss.dim() or not loss.requires_grad:
            got = tuple(loss.shape) if isinstance(loss, Tensor) else type(loss).__name__
            raise ValueError(f"the closure must return a scalar loss with a gradient, not {got}; and not call backward")
        found = torch.autograd.grad(loss, parameters, allow_unused=True)
        reached.update(i for i, g in enumerate(found) if g is not None)
        return [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, found, strict=True)]

    def _noise(self, closure, parameters: list[nn.Parameter]) -> list[GradientNoise | None]:
        """Return the noise of each parameter's gradient; None where no draw reached it."""
        n, reached = self.reference, set[int]()
        moments = [Moments() for _ in parameters]
        for _ in range(n):
            for own, g in zip(moments, self._gradient(closure, parameters, reached), strict=True):
                own.add(g.unsqueeze(0))
        mean = [own.mean for own in moments]
        trace = [float(own.variance.sum()) for own in moments]
        cosines = [0.0] * len(mean)
        for _ in range(self.draws):
            for i, g in enumerate(self._gradient(closure, parameters, reached)):
                cosines[i] += float(torch.cosine_similarity(g.flatten(), mean[i].flatten(), dim=0)) / self.draws
        rows: list[GradientNoise | None] = []
        for m, t, c in zip(mean, trace, cosines, strict=True):
            signal = float(m.square().sum()) - t / n
            scale = t / signal if signal > 0 else (float("inf") if t > 0 else 0.0)
            rows.append(GradientNoise(t / m.numel(), c, scale))
        return [row if i in reached else None for i, row in enumerate(rows)]


def _writer(writer: Any) -> Any:
    """Return the writer, or a SummaryWriter in the folder.

    Raises:
        ImportError: There is no tensorboard. The message says what to install.
    """
    if writer is None or not isinstance(writer, (str, os.PathLike)):
        return writer
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ImportError("GradientMonitor writes with tensorboard: pip install 'relax-exp[run]'") from error
    return SummaryWriter(str(writer))
