"""The whole state of a run in one file, written atomically, restored bit for bit."""

from __future__ import annotations

import io
import shlex
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch.utils._pytree import tree_flatten, tree_unflatten

from relax_exp.errors import RunError
from relax_exp.run_files import CHECKPOINT
from relax_exp.runs.atomic_write import write_atomically

FORMAT = 1


def save(path: Path, state: Any, **extra: Any) -> None:
    """Write ``state`` (a pytree of tensors) and plain values to ``path``, whole or not at all.

    Raises:
        OSError: The disk is full. The old checkpoint is then still whole.
    """
    # Of a share of larger memory torch would write all of it.
    leaves = [x if x.untyped_storage().nbytes() == x.nbytes else x.clone() for x in tree_flatten(state)[0]]
    buffer = io.BytesIO()
    torch.save({"format": FORMAT, "leaves": leaves, "extra": extra}, buffer)
    write_atomically(path, buffer.getbuffer())


def position(folder: Path) -> tuple[int, ...] | None:
    """Return where the run in a folder stands: steps, updates of its estimator and the last evaluation.

    They are 0 where there is no checkpoint; None where it does not tell.
    """
    try:
        return torch.load(folder / CHECKPOINT, map_location="cpu", weights_only=True)["extra"].get("position")
    except FileNotFoundError:
        return 0, 0, 0
    except Exception:  # damaged: whoever loads it says so
        return None


def load(path: Path, like: Any) -> tuple[Any, dict]:
    """Return the state saved at ``path``, in the structure and on the devices of ``like``, and the plain values.

    Raises:
        RunError: The file is damaged or belongs to something else. The message names it and says how to start over.
    """
    start_over = f"to start over, remove the run's folder: rm -r {shlex.quote(str(path.parent))}"
    leaves, spec = tree_flatten(like)
    try:
        if damaged := zipfile.ZipFile(path).testzip():  # torch does not look at the checksums
            raise ValueError(damaged)
        content = torch.load(path, map_location="cpu", weights_only=True)
        version, saved, extra = content["format"], content["leaves"], dict(content["extra"])
        found = [(leaf.shape, leaf.dtype) for leaf in saved]
    except Exception as error:
        raise RunError(f"the checkpoint {path} is damaged ({type(error).__name__}); {start_over}") from error
    if version != FORMAT or found != [(leaf.shape, leaf.dtype) for leaf in leaves]:
        raise RunError(f"the checkpoint {path} was written by another version of relax-exp; {start_over}")
    return tree_unflatten([leaf.to(old.device) for leaf, old in zip(saved, leaves, strict=True)], spec), extra
