"""The whole state of a run in one file, written atomically, restored bit for bit."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

import torch
from torch.utils._pytree import tree_flatten, tree_unflatten

from relax_exp.folder import RunError

FORMAT = 1


def save(path: Path, state: Any, **extra: int | float | str) -> None:
    """Write ``state`` (a pytree of tensors) and plain values to ``path``: to a temporary file, then renamed.

    OSError where the disk is full; the old checkpoint is then still whole.
    """
    leaves, _ = tree_flatten(state)
    buffer = io.BytesIO()
    torch.save({"format": FORMAT, "leaves": leaves, **extra}, buffer)
    temporary = path.with_suffix(".tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(buffer.getbuffer())
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def load(path: Path, like: Any) -> tuple[Any, dict]:
    """The state saved at ``path``, in the structure and on the devices of ``like``, and the plain values.

    RunError, naming the file and how to start over, where it is damaged or belongs to something else.
    """
    leaves, spec = tree_flatten(like)
    start_over = f"to start over, remove the run's folder: rm -r {path.parent}"
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        saved = content.pop("leaves")
        version = content.pop("format")
    except Exception as error:
        raise RunError(f"the checkpoint {path} is damaged ({type(error).__name__}); {start_over}") from error
    shapes = [(leaf.shape, leaf.dtype) for leaf in leaves]
    if version != FORMAT or [(leaf.shape, leaf.dtype) for leaf in saved] != shapes:
        raise RunError(f"the checkpoint {path} was written by another version of relax-exp; {start_over}")
    placed = [leaf.to(old.device) for leaf, old in zip(saved, leaves, strict=True)]
    return tree_unflatten(placed, spec), content
