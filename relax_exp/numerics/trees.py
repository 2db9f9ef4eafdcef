"""Pytrees of tensors, whose type stays what it is."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

Tree = TypeVar("Tree")


def listed(values: Tensor) -> list[Any]:
    """Return the numbers of a tensor with one dimension or more, in lists."""
    return values.tolist()  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]  # torch: "list"


def each(change: Callable[[Tensor], Tensor], tree: Tree) -> Tree:
    """Return the tree with ``change`` of every tensor in it."""
    return tree_map(change, tree)


def stack(trees: Iterable[Tree], dim: int = 0) -> Tree:
    """Return one tree with the tensors of trees of one structure, one tree or more, stacked along ``dim``."""

    def stacked(*leaves: Tensor) -> Tensor:
        return torch.stack(leaves, dim)

    return tree_map(stacked, *trees)
