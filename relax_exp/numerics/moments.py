"""Means and variances of draws that come in portions."""

from __future__ import annotations

import torch
from torch import Tensor


class Moments:
    """Mean and sample variance of draws, from sums of their deviations from a reference near the mean.

    So they are stable in single precision too, where sums of squares cancel.
    """

    def __init__(self, reference: Tensor | None = None, dim: int = 0):
        """Begin with no draws.

        Args:
            reference: In the shape of one draw; by default the mean of the first portion.
            dim: The dimension of the draws in what `add` is given.
        """
        self.reference, self.dim, self.count = reference, dim, 0
        self._total = self._squares = torch.zeros(())

    def add(self, draws: Tensor) -> None:
        """Add a portion of draws, stacked along ``dim``."""
        if self.reference is None:
            self.reference = draws.mean(self.dim)
        deviation = draws - self.reference.unsqueeze(self.dim)
        self._total = self._total + deviation.sum(self.dim)
        self._squares = self._squares + deviation.square().sum(self.dim)
        self.count += draws.shape[self.dim]

    @property
    def deviation(self) -> Tensor:
        """The mean less the reference, of one draw at least."""
        return self._total / self.count

    @property
    def mean(self) -> Tensor:
        """The mean of one draw at least."""
        assert self.reference is not None, "there are no draws"
        return self.reference + self.deviation

    @property
    def variance(self) -> Tensor:
        """The sample variance (n - 1) of two draws at least."""
        total, n = self._total, self.count
        return ((self._squares - total.square() / n) / (n - 1)).clamp(min=0)
