"""The evaluation of the VAE tasks for all replicas at once, as a GPU likes it: the same draws, in few large passes."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.func import vmap

from relax_exp.numerics.moments import Moments
from relax_exp.numerics.random_streams import stream
from relax_exp.tasks.base import Model, draw, summarize_variance

ROWS_AT_ONCE = 100_000  # images x samples x replicas in one pass of the bound


class Stacked:
    """Bounds and variances of a `relax_exp.tasks.vae.LatentModel`, for stacked models at once.

    The numbers are those of one after the other, up to rounding: sums are taken over more rows at once. The device is
    waited for once a call.
    """

    def __init__(self, task, block: int):
        self.task, self.block = task, block
        self.axes = 0, 0 if task.dynamic else None, 0  # binarised pixels are a replica's own
        self.sums = self.whole = vmap(task._sums, in_dims=self.axes)
        self.shape: tuple[int, ...] | None = None  # of the passes that are compiled: those of the first evaluation

    def compile(self) -> None:
        """Compile the bound for whole passes."""
        self.whole = torch.compile(vmap(self.task._sums, in_dims=self.axes), dynamic=False)

    def bounds(
        self, params: dict[str, Tensor], images: Tensor, generators: list, samples: int
    ) -> list[dict[str, float]]:
        """Return ``LatentModel._bounds`` of every replica; each draws from a generator, in blocks of images."""
        task, count = self.task, len(generators)
        at_once = max(1, ROWS_AT_ONCE // (samples * count * self.block)) * self.block
        shape = samples, count, at_once
        self.shape = self.shape or shape
        totals = torch.zeros((count, 2), dtype=torch.float64, device=task.device)
        for rows in images.split(at_once):
            pixels, uniforms = self._drawn(rows, generators, samples)
            x = task.pixels(rows, pixels)
            whole = shape == self.shape and len(rows) == at_once
            totals += (self.whole if whole else self.sums)(params, x, uniforms).double()
        return [{"elbo": elbo, f"bound{samples}": bound} for elbo, bound in (totals / len(images)).tolist()]

    def _drawn(self, rows: Tensor, generators: list, samples: int) -> tuple[Tensor | None, list[Tensor]]:
        """Draw the uniforms of pixels ``(R, N, ...)`` and of latents ``(R, S, N, ...)``, on the device."""
        task, layers = self.task, self.task.hierarchy.vae.layers
        pixels, latents = [], [[] for _ in layers]
        for generator in generators:
            own: list[list[Tensor]] = [[] for _ in range(1 + len(layers))]
            for block in rows.split(self.block):
                shapes = [(samples, len(block), *layer.shape) for layer in layers]
                if task.dynamic:
                    own[0].append(torch.rand(block.shape, generator=generator, dtype=task.dtype))
                for kept, shape in zip(own[1:], shapes, strict=True):
                    kept.append(torch.rand(shape, generator=generator, dtype=task.dtype))
            pixels += [torch.cat(own[0])] if task.dynamic else []
            for all_of, kept in zip(latents, own[1:], strict=True):
                all_of.append(torch.cat(kept, 1))
        uniforms = [torch.stack(all_of).to(task.device) for all_of in latents]
        return torch.stack(pixels).to(task.device) if pixels else None, uniforms

    def variances(self, models: Model, seeds: list[int], step: int, at_once: int) -> list[dict[str, float]]:
        """Return what ``LatentModel._variance`` does, for every replica, ``at_once`` draws of each in one pass."""
        task, n = self.task, self.task.options.variance_draws
        batches = [task._still(seed) for seed in seeds]
        rows = torch.stack([rows for rows, _ in batches])
        still = {k: torch.stack([own[k] for _, own in batches]) for k in batches[0][1]}
        shapes = {k: shape for k, shape in task.noise_shapes().items() if k not in still}
        generators = [stream(seed, "evaluation/variance", step) for seed in seeds]

        def gradients(model: Model, rows: Tensor, still: dict[str, Tensor], noise: dict[str, Tensor]) -> Tensor:
            grads = vmap(lambda noise: task.encoder_gradient(model, rows, noise | still))(noise)
            return torch.cat([grad.flatten(1) for grad in grads.values()], 1)

        moments = Moments(dim=1)
        for start in range(0, n, at_once):
            drawn = [draw(shapes, min(at_once, n - start), generator, task.dtype) for generator in generators]
            noise = {k: torch.stack([own[k] for own in drawn]).to(task.device) for k in shapes}
            moments.add(vmap(gradients)(models, rows, still, noise))
        measured = {k: v.tolist() for k, v in vmap(summarize_variance)(moments.variance).items()}
        return [{k: v[i] for k, v in measured.items()} for i in range(len(seeds))]
