"""Runs that differ in their data alone, trained as replicas of one program: what a GPU has room for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from relax_exp.numerics.trees import each, stack
from relax_exp.tasks.base import Task
from relax_exp.training.replicas import Replicas


class Together(Replicas):
    """Replicas of several tasks with the same grid of seeds and learning rates, whose data differ and have one shape.

    Each task keeps its own `Replicas` in ``parts``, which evaluate it and are saved, and whose numbers are those of
    the task trained alone, up to rounding. After a step ``state`` of a part is its share of the state of all; it
    may be changed between two calls, as by a checkpoint, and is collected at the next. Of this object itself only
    ``advance``, ``warm_up`` and ``taken`` are for use: all else is the parts'.
    """

    def __init__(
        self, tasks: Sequence[Task], seeds: list[int], lrs: list[float], device: Any, compiled: bool, **options: Any
    ):
        self.parts = [Replicas(task, seeds, lrs, device) for task in tasks]
        data = [part._data for part in self.parts]
        self._rows = torch.cat(data)
        self._first_rows = [sum(map(len, data[:k])) for k in range(len(data))]
        self._of_data = stack(part.task.of_data() for part in self.parts for _ in part.labels)
        super().__init__(tasks[0], seeds, lrs, device, compiled, **options)
        if compiled:
            for part in self.parts[1:]:
                part.task.compile()
        self._lend()

    def _grid(self, lrs: list[float]) -> list[tuple[int, float]]:
        return super()._grid(lrs) * len(self.parts)

    def _initial_state(self):
        return tree_map(lambda *leaves: torch.cat(leaves), *(part.state for part in self.parts))

    def _no_best(self) -> dict[str, Any]:
        return {}  # the parts keep theirs

    def _lend(self) -> None:
        """Give every part its share of the state."""
        size = len(self.parts[0].labels)
        for k, part in enumerate(self.parts):
            part.state = each(lambda leaf, k=k: leaf[k * size : (k + 1) * size], self.state)
        self._lent = self.state, [part.state for part in self.parts]

    def _collect(self) -> None:
        """Take the states of the parts, where one of them has changed since they were lent."""
        if any(part.state is not lent for part, lent in zip(self.parts, self._lent[1], strict=True)):
            self.state = self._initial_state()
            self._lend()

    @property
    def taken(self) -> int:
        """The number of steps taken so far; a part may have been put where a checkpoint was."""
        return self.parts[0].taken

    @property
    def _data(self) -> Tensor:
        return self._rows

    def _draw_rows(self, purpose: str, index: int) -> dict[str, Tensor]:
        drawn = [part._draw_rows(purpose, index)["x"] for part in self.parts]
        return {"x": torch.cat([first + rows for first, rows in zip(self._first_rows, drawn, strict=True)], 1)}

    def _at(
        self, within: int, indices: dict[str, Tensor], noise: dict[str, Tensor]
    ) -> tuple[dict[str, Any], dict[str, Tensor]]:
        batch, noise = super()._at(within, indices, noise)
        return batch | self._of_data, noise

    def warm_up(self, updates: int) -> Iterator[int]:
        """Warm up all parts, as the base class does."""
        yield from self._shared(super().warm_up, updates)

    def advance(self, steps: int) -> Iterator[int]:
        """Take steps in all parts, as the base class does."""
        yield from self._shared(super().advance, steps)

    def _shared(self, go: Any, count: int) -> Iterator[int]:
        self._collect()
        for done in go(count):
            if self.state is not self._lent[0]:
                self._lend()
            yield done
