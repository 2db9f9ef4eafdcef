"""Out of memory, in a sentence with what to lower."""

from __future__ import annotations

import re

SIGNS = re.compile(
    r"can't allocate memory|not enough memory|out of memory|Cannot allocate memory|storage size calculation overflowed"
    r"|numel: integer multiplication overflow|Invalid shape dimension|bad_alloc",
    re.IGNORECASE,
)


def blame(error: BaseException) -> str | None:
    """Say what to do where torch, numpy or the system could not get the memory that was asked for; None otherwise."""
    if not isinstance(error, MemoryError) and not (isinstance(error, RuntimeError) and SIGNS.search(str(error))):
        return None
    asked = re.search(r"(?:allocate|allocating) ([\d.]+) ?(\w*)", str(error))
    size = f" for {int(asked[1]) / 1e9:,.1f} GB" if asked and asked[1].isdigit() and asked[2] in ("bytes", "") else ""
    return (
        f"out of memory{size}: lower batch_size, the number of seeds and lrs, the latents of the task (task.latents, "
        "task.variables, task.categories) or task.variance_draws"
    )
