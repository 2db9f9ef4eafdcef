"""Numbers that are drawn on the host for a device, one chunk ahead of their use."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

Tree = Any  # a pytree of tensors


class Slot:
    """Memory of one chunk: page-locked on the host, from where it can be copied while the device works, and there."""

    def __init__(self, leaves: list[Tensor], device: torch.device):
        there = device.type == "cuda"
        self.host = [torch.empty(leaf.shape, dtype=leaf.dtype, pin_memory=there) for leaf in leaves]
        self.device = [torch.empty(leaf.shape, dtype=leaf.dtype, device=device) for leaf in leaves]
        self.copied = torch.cuda.Event() if there else None


class Prefetcher:
    """``draw(key)``, a pytree of tensors on the CPU, on the device; the next one is drawn while one is used.

    A thread draws into one of two buffers and copies it on a stream of its own; every draw has the same shapes. What a
    key gives depends on nothing but the key, so drawing ahead changes no number. Without a GPU the same happens in
    ordinary memory.
    """

    def __init__(self, draw: Callable[[Any], Tree], device: torch.device):
        self.draw, self.device = draw, device
        self.there = device.type == "cuda"
        self.stream = torch.cuda.Stream(device) if self.there else None
        self.thread = ThreadPoolExecutor(1, thread_name_prefix="ahead")
        self.slots: list[Slot | None] = [None, None]
        self.turn = 0
        self.begun: tuple[Hashable, Future] | None = None

    def get(self, key: Hashable, following: Hashable) -> Tree:
        """Return the chunk ``key``, which stays until the next call, and begin with ``following``."""
        if self.begun is None or self.begun[0] != key:
            self.wait()
            self.begun = self._begin(key)
        tree, copied = self.begun[1].result()
        if copied is not None:
            torch.cuda.current_stream(self.device).wait_event(copied)
        self.begun = self._begin(following)
        return tree

    def wait(self) -> None:
        """Return when nothing is being drawn any more."""
        if self.begun is not None:
            self.begun[1].result()

    def _begin(self, key: Hashable) -> tuple[Hashable, Future]:
        used = None
        if self.there:  # the device has still to read what this buffer holds, up to here
            used = torch.cuda.Event()
            used.record(torch.cuda.current_stream(self.device))
        begun = key, self.thread.submit(self._fill, self.turn, key, used)
        self.turn = 1 - self.turn
        return begun

    def _fill(self, turn: int, key: Hashable, used) -> tuple[Tree, Any]:
        leaves, spec = tree_flatten(self.draw(key))
        slot = self.slots[turn]
        if slot is None:
            slot = self.slots[turn] = Slot(leaves, self.device)
        elif slot.copied is not None:
            slot.copied.synchronize()  # the copy out of the page-locked memory is over
        for kept, new in zip(slot.host, leaves, strict=True):
            kept.copy_(new)
        if self.stream is None or slot.copied is None:
            for there, here in zip(slot.device, slot.host, strict=True):
                there.copy_(here)
        else:
            with torch.cuda.device(self.device), torch.cuda.stream(self.stream):
                self.stream.wait_event(used)
                for there, here in zip(slot.device, slot.host, strict=True):
                    there.copy_(here, non_blocking=True)
                slot.copied.record(self.stream)
        return tree_unflatten(slot.device, spec), slot.copied
