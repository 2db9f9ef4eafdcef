"""One colour, line style and marker for each estimator, the same in every figure; told apart in greyscale too."""

from __future__ import annotations

import colorsys
import re
import zlib
from typing import Any, NamedTuple


class Style(NamedTuple):
    """How an estimator is drawn."""

    color: str
    line: Any
    marker: str

    @property
    def keywords(self) -> dict[str, Any]:
        """The style as matplotlib takes it."""
        return {"color": self.color, "ls": self.line, "marker": self.marker}


SOLID, DASHED, DOTTED, DASHDOT = "-", (0, (5, 2)), (0, (1, 1.5)), (0, (6, 2, 1, 2))
LONG, TWO_DOTS = (0, (9, 3)), (0, (6, 2, 1, 2, 1, 2))

# In the order of tables and legends.
STYLES: dict[str, Style] = {
    "exact": Style("#000000", DOTTED, "None"),
    "reinforce": Style("#E69F00", DASHDOT, "^"),
    "baseline": Style("#999933", LONG, "<"),
    "optimal_baseline": Style("#DDCC77", DASHED, ">"),
    "nvil": Style("#009E73", DOTTED, "D"),
    "a2c": Style("#0B7A75", DASHED, "P"),
    "mean_actor": Style("#B8860B", TWO_DOTS, "D"),
    "rloo": Style("#56B4E9", LONG, "p"),
    "vimco": Style("#332288", DASHDOT, "*"),
    "unordered": Style("#44AA99", TWO_DOTS, "h"),
    "arm": Style("#AA4499", DOTTED, "8"),
    "disarm": Style("#8C564B", DASHED, "d"),
    "ars": Style("#117733", DASHED, "<"),
    "arsm": Style("#661100", SOLID, "H"),
    "muprop": Style("#CC79A7", TWO_DOTS, "v"),
    "concrete": Style("#882255", LONG, "P"),
    "st_gumbel": Style("#BBBB33", TWO_DOTS, "p"),
    "straight_through": Style("#7F7F7F", DASHDOT, "X"),
    "rebar": Style("#0072B2", DASHED, "s"),
    "relax": Style("#D55E00", SOLID, "o"),
    "rodeo": Style("#5D3A9B", DASHED, "*"),
    "double_cv": Style("#6699CC", DOTTED, "^"),
    "lax": Style("#AA3377", LONG, "o"),
    "arms": Style("#4B0092", DASHDOT, "d"),
    "disarm_tree": Style("#994F00", DOTTED, "s"),
    "disarm_sb": Style("#C2884E", LONG, "D"),
    "bitflip": Style("#40B0A6", DASHED, "v"),
    "ugc": Style("#1A85FF", TWO_DOTS, "X"),
    "local_expectation": Style("#005AB5", SOLID, "P"),
    "gumbel_rao": Style("#DC3220", DOTTED, "h"),
    "reinmax": Style("#E66100", DASHED, "8"),
    "gst": Style("#7B3294", LONG, "H"),
    "arms_bound": Style("#785EF0", DASHED, "o"),
    "carms": Style("#648FFF", DASHDOT, "s"),
    "indecater": Style("#3B6E8F", LONG, "8"),
    "reinmax_rao": Style("#FE6100", TWO_DOTS, "s"),
    "reinmax_cv": Style("#FFB000", LONG, "^"),
    "zgr": Style("#A95AA1", DASHED, "p"),
    "mve": Style("#85C0F9", DASHED, "h"),
    "decoupled_st": Style("#8F7EE5", SOLID, "h"),
    "grpo": Style("#63ACBE", LONG, "s"),
    "dr_grpo": Style("#601A4A", SOLID, "d"),
    "reparameterization": Style("#404040", SOLID, ">"),
    "no latents": Style("#A0A0A0", SOLID, "None"),
}
COLORS = ("#661100", "#6699CC", "#117733", "#AA3377", "#BBBB33", "#5D3A9B")  # for names that are not in the table
LINES = (SOLID, DASHED, DASHDOT, LONG, TWO_DOTS)
MARKERS = ("p", ">", "*", "h", "d", "8", "H")


def style(name: str, variant: int = 0) -> Style:
    """The style of an estimator: from the table, else from the name alone, so that it is the same in every report.

    variant: 0 for the estimator itself, 1, 2 ... for further settings of it in the same figure, which keep its hue.
    """
    if name in STYLES:
        base = STYLES[name]
    else:
        n = zlib.crc32(name.encode())
        base = Style(COLORS[n % len(COLORS)], LINES[n // 7 % len(LINES)], MARKERS[n // 41 % len(MARKERS)])
    if not variant:
        return base
    red, green, blue = (int(base.color[i : i + 2], 16) / 255 for i in (1, 3, 5))
    hue, light, full = colorsys.rgb_to_hls(red, green, blue)
    light = light * 0.55 if variant % 2 else min(0.8, light * 1.4)
    color = "#" + "".join(f"{round(255 * c):02x}" for c in colorsys.hls_to_rgb(hue, light, full))
    lines = [line for line in LINES if line != base.line]
    return Style(color, lines[(variant - 1) % len(lines)], MARKERS[(variant - 1) % len(MARKERS)])


def order(name: str) -> tuple[int, str]:
    """A sort key: the order of the table, then the alphabet."""
    return (list(STYLES).index(name) if name in STYLES else len(STYLES), name)


def natural(label: str) -> list[str | float]:
    """A sort key for labels: numbers by their size."""
    parts = re.split(r"(\d+(?:\.\d+)?)", label)
    return [float(part) if i % 2 else part for i, part in enumerate(parts)]
