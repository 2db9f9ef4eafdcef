"""The loop around the training step, which is a pure function of (state, batch, noise), over all replicas at once."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.func import vmap
from torch.utils._pytree import tree_leaves

from relax_exp.numerics import cuda_graph
from relax_exp.numerics.cuda_graph import Capture, Graphed
from relax_exp.numerics.optimizers import adam_init, initial_moments
from relax_exp.numerics.prefetch import Prefetcher
from relax_exp.numerics.random_streams import stream
from relax_exp.numerics.traced import PAYS_FROM, Traced
from relax_exp.numerics.trees import each, listed, stack
from relax_exp.tasks.base import Model, Task, draw
from relax_exp.training.step import (
    WATCHED,
    State,
    Step,
    alone,
    compile_step,
    make_step,
    make_tuning_update,
    metric_names,
    of_tuning,
    tuned,
)

CHUNK = 20  # steps for which noise is drawn ahead: fixed, as other chunks would be other numbers


class Replicas:
    """The grid of seeds x learning rates, trained side by side by one vmapped step.

    ``advance`` takes steps, and ``state`` is stacked over replicas. Replica i uses the noise and the data order of the
    same run made alone. With ``compiled`` the step is wrapped with ``torch.compile`` (``backend`` is for tests);
    without, it is traced on the CPU where many of them are asked for.

    On a GPU the steps of a whole chunk are one CUDA graph, and a step is another, for the steps before and after whole
    chunks; both overwrite the state where it is. ``capture`` makes such graphs; a test emulates it.
    """

    whole_chunks = True  # whether what the steps of a chunk need is known before its first one

    def __init__(
        self,
        task: Task,
        seeds: list[int],
        lrs: list[float],
        device: str | torch.device = "cpu",
        compiled: bool = False,
        backend: str = "inductor",
        capture: Capture | None = None,
    ):
        self.task, self.seeds, self.device = task, list(seeds), torch.device(device)
        self.labels = self._grid(lrs)
        here = self.device.type == "cpu"
        replicated = alone if len(self.labels) == 1 else vmap
        step, update = replicated(make_step(task)), replicated(make_tuning_update(task))
        if compiled:
            step = compile_step(step, backend, self.device)
            if backend == "inductor":
                task.compile()
        capture = capture if here else capture or cuda_graph.capture
        self._to_trace = here and not compiled and not capture and self.whole_chunks
        self._asked = 0
        self.step, self.chunk_step, self._ahead = step, None, None
        self._update = update if self._to_trace else None
        if capture:
            self.step, self._ahead = Graphed(step, capture), Prefetcher(lambda key: self._draw_chunk(*key), self.device)
            if self.whole_chunks:
                self.chunk_step = Graphed(functools.partial(self._steps, step), capture)
        self.state = self._initial_state()
        self.best = self._no_best() if task.selection else {}
        self._chunk: tuple[str, int] | None = None
        self._order = functools.lru_cache(2 * len(self.seeds))(self._draw_order)

    def _grid(self, lrs: list[float]) -> list[tuple[int, float]]:
        """Return seed and learning rate of every replica, in the order in which they are stacked."""
        return [(seed, lr) for seed in self.seeds for lr in lrs]

    @property
    def taken(self) -> int:
        """The number of steps taken so far."""
        return int(self.state.t[0])

    @property
    def saved(self) -> Any:
        """What a checkpoint holds: a pytree of tensors whose shapes do not change."""
        return self.state, self.best

    @saved.setter
    def saved(self, value: Any) -> None:
        self.state, self.best = value

    @property
    def finished(self) -> bool:
        """True where nothing would change any more, though there are steps left."""
        return False

    def models(self, indices: list[int]) -> Model:
        """Return the models of some replicas, stacked."""
        return each(lambda leaf: leaf[indices], self.state.model)

    def evaluate(self, indices: list[int], step: int, final: bool) -> list[dict[str, float | None]]:
        """Return the metrics of some replicas, one dictionary each.

        At the end they are on the test set too, where the task has one.
        """
        task, models, seeds = self.task, self.models(indices), [self.labels[i][0] for i in indices]
        measured = task.evaluate(models, seeds, step, final)
        rows: list[dict[str, float | None]] = [{**row} for row in measured]
        if task.selection:
            self._keep_best(indices, [row.get(task.selection, math.nan) for row in measured], step)
            if final:
                best = each(lambda leaf: leaf[indices], self.best)
                tested = task.test(models.params, best["params"], seeds)
                steps = best["step"].tolist()
                rows = [row | test | {"best_step": at} for row, test, at in zip(rows, tested, steps, strict=True)]
        return rows

    def _no_best(self) -> dict[str, Any]:
        """Return what `_keep_best` starts from: parameters, their value of ``selection`` and their step, by replica."""
        count = len(self.labels)
        return {
            "params": each(torch.clone, self.state.model.params),
            "value": torch.full((count,), -torch.inf, dtype=torch.float64),
            "step": torch.zeros(count, dtype=torch.int64),
        }

    def _keep_best(self, indices: list[int], values: list[float], step: int) -> None:
        """Keep the parameters of the replicas whose value is the highest so far."""
        for i, value in zip(indices, values, strict=True):
            if value > self.best["value"][i]:
                self.best["value"][i], self.best["step"][i] = value, step
                for kept, now in zip(*map(tree_leaves, (self.best["params"], self.state.model.params)), strict=True):
                    kept[i].copy_(now[i])

    def _initial_state(self) -> State:
        task, dtype = self.task, self.task.dtype
        names = metric_names(task)
        inits = {seed: task.init(stream(seed, "init")) for seed in self.seeds}

        def one(seed: int, lr: float) -> State:
            model = inits[seed]
            whole = torch.zeros((), dtype=torch.int64, device=self.device)
            return State(
                model,
                initial_moments(task.optimizer, model.params),
                adam_init(model.tuning),
                whole,
                whole,
                torch.tensor(lr, dtype=dtype, device=self.device),
                {k: whole.double() for k in names},
                whole,
                whole,
                whole,
                torch.full((len(WATCHED),), torch.nan, dtype=dtype, device=self.device),
            )

        return stack(one(*label) for label in self.labels)

    def _load_chunk(self, purpose: str, index: int) -> None:
        """Put the noise and data indices of one chunk, ``(steps, replicas, ...)``, on the device."""
        if self._chunk == (purpose, index):
            return
        self._chunk = purpose, index
        if self._ahead:
            self.noise, self.indices = self._ahead.get(self._chunk, following=(purpose, index + 1))
        else:
            drawn = self._draw_chunk(purpose, index)
            self.noise, self.indices = each(lambda x: x.to(self.device), drawn)

    def _draw_chunk(self, purpose: str, index: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Draw noise and data indices of one chunk; every seed and every name has its own stream."""
        task = self.task

        def one(seed: int) -> dict[str, Tensor]:
            noise: dict[str, Tensor] = {}
            for name, shape in task.noise_shapes().items():
                noise |= draw({name: shape}, CHUNK, stream(seed, f"{purpose}/noise/{name}", index), task.dtype)
            return noise

        drawn = {seed: one(seed) for seed in self.seeds}
        return stack((drawn[seed] for seed, _ in self.labels), 1), self._draw_rows(purpose, index)

    def _draw_rows(self, purpose: str, index: int) -> dict[str, Tensor]:
        """Draw the data indices of one chunk, ``(steps, replicas, batch)``."""
        if self.task.data is None:
            return {}
        rows = self._warmup_rows if purpose == "warmup" else self._epoch_rows
        drawn = {seed: rows(seed, index * CHUNK, CHUNK) for seed in self.seeds}
        return {"x": torch.stack([drawn[seed] for seed, _ in self.labels], 1)}

    def _epoch_rows(self, seed: int, start: int, count: int) -> Tensor:
        """Return the rows of steps start..start+count, ``(count, batch)``.

        Each epoch has a new permutation; what is left of it at the end is dropped.
        """
        size, batch = len(self._data), self.task.batch_size
        per_epoch = size // batch
        rows = torch.empty((count, batch), dtype=torch.int64)
        done = 0
        while done < count:
            epoch, within = divmod(start + done, per_epoch)
            take = min(count - done, per_epoch - within)
            rows[done : done + take] = self._order(seed, epoch)[within * batch :][: take * batch].view(take, batch)
            done += take
        return rows

    @property
    def _data(self) -> Tensor:
        """The data set of a task that has one."""
        assert self.task.data is not None
        return self.task.data

    def _draw_order(self, seed: int, epoch: int) -> Tensor:
        if epoch == 0 and self.task.first_epoch == "file":
            return torch.arange(len(self._data))
        return torch.randperm(len(self._data), generator=stream(seed, "data", epoch))

    def _warmup_rows(self, seed: int, start: int, count: int) -> Tensor:
        """Return randomly placed contiguous batches of the unshuffled data, as the original code warms up on."""
        size, batch = len(self._data), self.task.batch_size
        first = torch.randint(size - batch + 1, (count, 1), generator=stream(seed, "warmup/data", start))
        return first + torch.arange(batch)

    def _inputs(self, purpose: str, step: int) -> tuple[dict[str, Any], dict[str, Tensor]]:
        index, within = divmod(step, CHUNK)
        self._load_chunk(purpose, index)
        return self._at(within, self.indices, self.noise)

    def _at(
        self, within: int, indices: dict[str, Tensor], noise: dict[str, Tensor]
    ) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Pick batch and noise of one step of a chunk."""
        batch: dict[str, Any] = {}
        for name, rows in indices.items():
            drawn = rows[within]
            batch[name] = self._data.index_select(0, drawn.flatten()).reshape(*drawn.shape, *self._data.shape[1:])
        return batch, {k: v[within] for k, v in noise.items()}

    def _steps(self, step: Step, state: State, indices: dict[str, Tensor], noise: dict[str, Tensor]) -> State:
        """Take all steps of a chunk."""
        for within in range(CHUNK):
            state = step(state, *self._at(within, indices, noise))
        return state

    def _trace(self, count: int) -> None:
        """Trace the step where so many more steps, with those before, are worth it."""
        self._asked += count
        if self._to_trace and self._asked >= PAYS_FROM:
            self.step, self._to_trace = Traced(self.step), False

    def _tuning_update(self, count: int) -> Callable[..., dict[str, Any]]:
        """Return what takes ``count`` updates of the tuning parameters, from state, batch and noise.

        Where there is a program for a whole step, that is used, since a second one would have to be compiled first.
        """
        if self._update:
            return Traced(self._update) if count >= PAYS_FROM else self._update

        def of_step(state: State, batch: dict[str, Any], noise: dict[str, Tensor]) -> dict[str, Any]:
            return of_tuning(state, self.step(each(torch.clone, state), batch, noise))

        return of_step

    def warm_up(self, updates: int) -> Iterator[int]:
        """Bring the number of tuning-only updates to ``updates``, yielding it; everything else stays as it is."""
        first = int(self.state.tuning_t[0])
        update = self._tuning_update(updates - first)
        for step in range(first, updates):
            self.state = tuned(self.state, update(self.state, *self._inputs("warmup", step)))
            yield step + 1

    def advance(self, steps: int) -> Iterator[int]:
        """Take ``steps`` training steps, yielding the number of steps taken so far after each or each chunk."""
        self._trace(steps)
        step = self.taken
        end = step + steps
        while step < end:
            if self.chunk_step and step % CHUNK == 0 and end - step >= CHUNK:
                self._load_chunk("train", step // CHUNK)
                self.state = self.chunk_step(self.state, self.indices, self.noise)
                step += CHUNK
            else:
                self.state = self.step(self.state, *self._inputs("train", step))
                step += 1
            yield step

    def means(self) -> list[dict[str, float]]:
        """Return the means of the metrics since `clear_means`, one dictionary a replica."""
        count = self.state.summed.clamp(min=1)
        means = {k: listed(v / count) for k, v in self.state.sums.items()}
        return [{k: v[i] for k, v in means.items()} for i in range(len(self.labels))]

    def clear_means(self) -> None:
        """Start new sums of the metrics."""
        sums, summed = each(torch.zeros_like, (self.state.sums, self.state.summed))
        self.state = self.state._replace(sums=sums, summed=summed)

    def failures(self) -> dict[int, str]:
        """Return why replicas failed, by their index."""
        reasons: dict[int, str] = {}
        for i, at in enumerate(listed(self.state.failed_at)):
            if at:
                what = int(self.state.failed_what[i])
                last = float(self.state.last_finite[i, what])
                when = f"step {at}" if at > 0 else f"warm-up update {-at}"
                before = "it never was" if math.isnan(last) else f"last finite value {last:.6g}"
                reasons[i] = f"{WATCHED[what]} not finite at {when}; {before}"
        return reasons
