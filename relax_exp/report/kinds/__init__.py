"""Kinds of cell: what the tables and figures show of each, one module a kind. Their order is that of the tables."""

from typing import Any

from relax_exp.report.kinds.atari import ATARI
from relax_exp.report.kinds.base import Kind
from relax_exp.report.kinds.categorical_toy import CATEGORICAL_TOY
from relax_exp.report.kinds.categorical_vae import CATEGORICAL_VAE
from relax_exp.report.kinds.control import CARTPOLE, CONTINUOUS
from relax_exp.report.kinds.lax_toy import LAX_TOY
from relax_exp.report.kinds.permutation import PERMUTATION
from relax_exp.report.kinds.sequence import SEQUENCE
from relax_exp.report.kinds.structured import CATEGORICAL_STRUCTURED, STRUCTURED
from relax_exp.report.kinds.toy import FIXED_THETA, TOY
from relax_exp.report.kinds.vae import VAE

KINDS = {
    kind.name: kind
    for kind in (
        TOY,
        FIXED_THETA,
        VAE,
        CATEGORICAL_TOY,
        LAX_TOY,
        PERMUTATION,
        CATEGORICAL_VAE,
        STRUCTURED,
        CATEGORICAL_STRUCTURED,
        SEQUENCE,
        CARTPOLE,
        CONTINUOUS,
        ATARI,
    )
}


def of(name: str) -> Kind:
    """Return the kind of that name, or one of its own for a task that has declared none."""
    return KINDS.get(name) or Kind(name, name)


def of_task(task: dict[str, Any]) -> Kind:
    """Return the kind of a run, by its configuration's section ``task``."""
    kind = of(task["name"])
    return kind.variety(task) or kind
