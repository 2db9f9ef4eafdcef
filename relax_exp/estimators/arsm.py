"""ARS and ARSM: categorical samples made from one Dirichlet vector with two of its entries swapped."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from relax_exp.distributions import gumbel
from relax_exp.errors import OptionError
from relax_exp.estimators.antithetic import Comparison
from relax_exp.estimators.base import Noise, Objective, Output
from relax_exp.estimators.registry import MAX_COMPARED


def swapped(log_p: Tensor, noise: Tensor, i: Tensor, j: Tensor) -> Tensor:
    """Take the argmax of log p + Gumbel ``noise``, one-hot, with the noise of classes i and j swapped.

    Each swap costs O(1) for a variable: the winner is i, j, or the best of the other classes, which is among the three
    best of all.

    Args:
        log_p: Log-probabilities, ``(N, D, C)``.
        noise: Gumbel noise, ``(N, D, C)``.
        i: The first class of each swap, ``(S, N)`` or ``(S, 1)``, the same in every variable.
        j: The second class, different from ``i``, in the same shape.

    Returns:
        One-hot samples, ``(S, N, D, C)``.
    """
    n, d, c = log_p.shape
    i, j = (index.unsqueeze(-1).expand(-1, n, d).unsqueeze(-1) for index in (i, j))
    scores, classes = F.pad(log_p + noise, (0, 1), value=-torch.inf).topk(3, dim=-1)
    free = (classes != i) & (classes != j)

    def best_other(ranked: Tensor) -> Tensor:
        first, second, third = ranked.unbind(-1)
        return torch.where(free[..., 0], first, torch.where(free[..., 1], second, third))

    def take(values: Tensor, index: Tensor) -> Tensor:
        return values.expand(index.shape[0], n, d, c).gather(-1, index).squeeze(-1)

    at_i, at_j = take(log_p, i) + take(noise, j), take(log_p, j) + take(noise, i)
    winner = torch.where(at_i > at_j, i.squeeze(-1), j.squeeze(-1))
    winner = torch.where(best_other(scores) > torch.maximum(at_i, at_j), best_other(classes), winner)
    return (winner.unsqueeze(-1) == torch.arange(c, device=winner.device)).to(log_p.dtype)


class ARS(Comparison):
    """Augment-REINFORCE-swap (Yin, Yue & Zhou 2019), with one reference class r for each row.

        [f(z^{c<->r}) - mean_m f(z^{m<->r})] (1 - C pi_r),    z^{c<->r} = argmin pi e^{-logits}, pi_c and pi_r swapped,

    pi ~ Dir(1) by normalised exponentials, so that argmin pi e^{-logits} is the Gumbel argmax, the sample. All
    variables swap the same two classes at once, each with a pi of its own. r is drawn uniformly. C evaluations.
    """

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.evaluations = self.event_shape[-1]

    def noise_shapes(self, n: int) -> dict[str, tuple[int, ...]]:
        """Return the shapes of the Gumbels' uniforms and of one uniform for each row's reference."""
        return {"u": (n, *self.event_shape), "reference": (n,)}

    def estimate(
        self, logits: Tensor, f: Objective, noise: Noise, context: Tensor | None, f_b: Tensor | None
    ) -> Output:
        size = self.event_shape[-1]
        g, b = gumbel(noise["u"]), self.sample(logits, noise)
        reference = (noise["reference"] * size).long().clamp(max=size - 1)
        classes = torch.arange(size, device=logits.device)
        # Points are ordered by their distance from the reference, which itself stands for the sample.
        others = swapped(logits.log_softmax(-1), g, (reference + classes[1:, None]) % size, reference.unsqueeze(0))
        points = torch.cat([b.unsqueeze(0), others])
        values = self.values(f, points, logits, f_b)
        centred = (values - values.mean(0)).detach()
        by_class = centred.movedim(0, -1).gather(-1, (classes - reference.unsqueeze(-1)) % size)
        weight = self.weight(logits, g, reference, points, noise)
        return Output(by_class.unsqueeze(1) * weight.unsqueeze(-1), values[0], b, {}, {})

    def weight(self, logits: Tensor, g: Tensor, reference: Tensor, points: Tensor, noise: Noise) -> Tensor:
        """Return 1 - C pi_r of every variable, ``(N, D)``.

        Args:
            logits: ``(N, D, C)``.
            g: The Gumbels, ``(N, D, C)``.
            reference: The reference class of each row, ``(N,)``.
            points: The sample and the others, by the distance of the swapped class from the reference, ``(C, N, D,
                C)``.
            noise: The uniforms that belong to all of them.
        """
        pi, size = (-g).softmax(-1), self.event_shape[-1]
        index = reference[:, None, None].expand(-1, pi.shape[1], 1)
        return 1 - size * pi.gather(-1, index).squeeze(-1)


class ARSM(Comparison):
    """Augment-REINFORCE-swap-merge (Yin, Yue & Zhou 2019): the mean of `ARS` over all references.

        sum_j [f(z^{c<->j}) - mean_m f(z^{m<->j})] (1 / C - pi_j).

    All C (C - 1) / 2 + 1 distinct swaps are evaluated as one batch; for C = 2 it is ARM. ValueError above 362 classes.
    """

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        size = self.event_shape[-1]
        self.evaluations = size * (size - 1) // 2 + 1
        if size > MAX_COMPARED:
            raise OptionError(
                f"arsm evaluates f at {self.evaluations} points for {size} classes; the limit is {MAX_COMPARED} "
                f"classes: use ars, which takes {size} points"
            )

    def estimate(
        self, logits: Tensor, f: Objective, noise: Noise, context: Tensor | None, f_b: Tensor | None
    ) -> Output:
        size = self.event_shape[-1]
        g, b = gumbel(noise["u"]), self.sample(logits, noise)
        i, j = torch.triu_indices(size, size, 1, device=logits.device)
        others = swapped(logits.log_softmax(-1), g, i.unsqueeze(-1), j.unsqueeze(-1))
        points = torch.cat([b.unsqueeze(0), others])
        values = self.values(f, points, logits, f_b)
        # f of swap (c, j) as a table (C, C, N): pairs in row order from 1, the sample on the diagonal
        classes = torch.arange(size, device=logits.device)
        low, high = torch.minimum(classes[:, None], classes), torch.maximum(classes[:, None], classes)
        position = low * (2 * size - low - 1) // 2 + high - low
        place = torch.where(low == high, 0, position)
        table = values.detach()[place]
        centred = table - table.mean(0)
        weight = self.weight(g, points, place)
        return Output(torch.einsum("cjn,ndj->ndc", centred, weight), values[0], b, {}, {})

    def weight(self, g: Tensor, points: Tensor, place: Tensor) -> Tensor:
        """Return 1 / C - pi of every class as reference, ``(N, D, C)``.

        Args:
            g: The Gumbels, ``(N, D, C)``.
            points: The sample and the others, ``(S, N, D, C)``.
            place: Which of the points is the swap of two classes, ``(C, C)``.
        """
        return 1 / self.event_shape[-1] - (-g).softmax(-1)


def pseudo_actions(logits: Tensor, noise: Tensor, alive: Tensor) -> Tensor:
    """Find the actions, other than the one taken, that ARSM asks about.

    They are the argmax of log p + Gumbel(noise) with the noise of any two actions swapped.

    Args:
        logits: ``(N, A)``.
        noise: Uniform noise, ``(N, A)``.
        alive: Whether the row counts, ``(N,)``.

    Returns:
        A mask, ``(N, A)``.
    """
    size = logits.shape[-1]
    i, j = torch.triu_indices(size, size, 1)
    log_p, g = logits.log_softmax(-1).unsqueeze(1), gumbel(noise).unsqueeze(1)
    asked = swapped(log_p, g, i.unsqueeze(-1), j.unsqueeze(-1)).amax((0, 2)) > 0
    taken = torch.arange(size) == (log_p + g).argmax(-1)
    return asked & ~taken & alive.unsqueeze(-1)


def choose(asked: Tensor, keys: Tensor, limit: int) -> tuple[Tensor, Tensor]:
    """Choose at most ``limit`` of an episode's pseudo-actions, uniformly.

    Weighted as they are returned, the sum over those chosen has the sum over all as its mean. (The code of the paper
    stops at 16, without weights, which is biased.)

    Args:
        asked: Which actions are asked about, ``(..., T, A)``.
        keys: Uniform noise, ``(..., T, A)``.
        limit: How many to choose.

    Returns:
        Indices into T x A and weights, both ``(..., limit)``: the number asked about over the number chosen, 0 where
        nothing is left to choose.
    """
    asked, keys = asked.flatten(-2), keys.flatten(-2)
    index = torch.where(asked, keys, -1.0).topk(min(limit, asked.shape[-1]), -1).indices
    there = asked.gather(-1, index).to(keys.dtype)
    return index, there * asked.sum(-1, keepdim=True) / there.sum(-1, keepdim=True).clamp(min=1)


def action_values(losses: Tensor, index: Tensor, weight: Tensor, chosen: Tensor, actions: int) -> Tensor:
    """Compute the losses of all actions at all steps, ``(..., T, A)``, as ARSM is given them.

    They are the losses of what was done, ``losses`` ``(..., T)``. Where something else was tried, the weighted
    difference of its loss, ``chosen`` ``(..., limit)``, is added.
    """
    own = losses.gather(-1, index // actions)
    table = losses.unsqueeze(-1).expand(*losses.shape, actions).flatten(-2)
    return torch.unflatten(table.scatter_add(-1, index, weight * (chosen - own)), -1, (-1, actions))
