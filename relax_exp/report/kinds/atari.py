"""Atari games."""

from relax_exp.report.kinds.base import COMMON, LAST_LOG_VARIANCE, LOG, VARIANCE_PANEL, Kind
from relax_exp.report.statistics import TIME, final

ATARI = Kind(
    "atari",
    "Atari games",
    label="{env}",
    by_name=True,
    best=(1, ("eval/return", "return100"), "final score"),
    columns=(
        final("million frames", "frames", 1e-6),
        final("score", "eval/return", decimals=1),
        final("human-normalised score", "eval/human_normalised"),
        final("training score", "return100", decimals=1),
        LAST_LOG_VARIANCE,
        final("frames/s", "time/frames_per_second", decimals=0),
        TIME,
    ),
    note=f"{COMMON} Score: of the evaluation's episodes; human-normalised: 0 is an agent that acts at random, 1 a "
    "human (Wang et al. 2016), – where nobody measured; training score: of the last 100 episodes. "
    f"{LOG} on the last rollout.",
    panels=(
        [("eval/return", "score of evaluation episodes"), ("return100", "score of the last 100 episodes")],
        [("explained_variance", "variance explained by the value")],
        VARIANCE_PANEL,
    ),
)
