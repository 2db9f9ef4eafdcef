"""One colour, line style and marker for each estimator, the same in every figure; told apart in greyscale too."""

from __future__ import annotations

import math
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
        """Return the style as matplotlib takes it."""
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
    "ars_plus": Style("#2E8B57", LONG, "X"),
    "arsm_plus": Style("#A63603", DASHDOT, "H"),
    "muprop": Style("#CC79A7", TWO_DOTS, "v"),
    "concrete": Style("#882255", LONG, "P"),
    "st_gumbel": Style("#BBBB33", TWO_DOTS, "*"),
    "straight_through": Style("#7F7F7F", DASHDOT, "X"),
    "rebar": Style("#0072B2", DASHED, "s"),
    "relax": Style("#D55E00", SOLID, "o"),
    "rodeo": Style("#5D3A9B", DASHED, "*"),
    "double_cv": Style("#6699CC", DOTTED, "^"),
    "lax": Style("#CC33AA", LONG, "v"),
    "arms": Style("#4B0092", DASHDOT, "d"),
    "disarm_tree": Style("#994F00", DOTTED, "s"),
    "disarm_sb": Style("#C2884E", LONG, "D"),
    "disarm_sb_bound": Style("#7A5230", DASHED, "D"),
    "bitflip": Style("#40B0A6", DASHED, "v"),
    "ugc": Style("#1A85FF", TWO_DOTS, "X"),
    "local_expectation": Style("#005AB5", SOLID, "P"),
    "gumbel_rao": Style("#DC3220", DOTTED, ">"),
    "reinmax": Style("#E66100", DASHDOT, "v"),
    "gst": Style("#7B3294", DASHDOT, "D"),
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
    "simple": Style("#1F6F50", (0, (3, 1, 1, 1)), "s"),
    "no latents": Style("#A0A0A0", SOLID, "None"),
}
# As papers print them; others are printed as they are.
NAMES = {
    "exact": "exact gradient",
    "reinforce": "REINFORCE",
    "baseline": "learned constant",
    "optimal_baseline": "optimal constant",
    "nvil": "NVIL",
    "a2c": "A2C",
    "mean_actor": "mean actor-critic",
    "rloo": "RLOO",
    "vimco": "VIMCO",
    "unordered": "unordered set",
    "arm": "ARM",
    "disarm": "DisARM",
    "ars": "ARS",
    "arsm": "ARSM",
    "ars_plus": "ARS+",
    "arsm_plus": "ARSM+",
    "muprop": "MuProp",
    "concrete": "Concrete",
    "st_gumbel": "ST Gumbel-Softmax",
    "straight_through": "straight-through",
    "rebar": "REBAR",
    "relax": "RELAX",
    "rodeo": "RODEO",
    "double_cv": "Double CV",
    "lax": "LAX",
    "arms": "ARMS",
    "disarm_tree": "DisARM-Tree",
    "disarm_sb": "DisARM-SB",
    "disarm_sb_bound": "DisARM-SB, bound",
    "bitflip": "BitFlip-1",
    "ugc": "UGC",
    "local_expectation": "local expectation",
    "gumbel_rao": "Gumbel-Rao",
    "reinmax": "ReinMax",
    "gst": "GST",
    "arms_bound": "ARMS, bound",
    "carms": "CARMS",
    "indecater": "IndeCateR",
    "reinmax_rao": "ReinMax-Rao",
    "reinmax_cv": "ReinMax-CV",
    "zgr": "ZGR",
    "mve": "MVE",
    "decoupled_st": "Decoupled ST",
    "grpo": "GRPO",
    "dr_grpo": "Dr. GRPO",
    "reparameterization": "reparameterisation",
    "simple": "SIMPLE",
    "le": "Le's network",
}
COLORS = ("#661100", "#6699CC", "#117733", "#AA3377", "#BBBB33", "#5D3A9B")  # for names that are not in the table
LINES = (SOLID, DASHED, DASHDOT, LONG, TWO_DOTS)
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "p", ">", "*", "h", "d", "8", "H", "<")
# Taken where two colours of a figure are too close: distinct to colour-blind readers too, apart in lightness.
SPARE = ("#5B2C06", "#6A3D9A", "#33BBEE", "#004D40", "#EE6677", "#AA7700", "#8A8A8A", "#1B1B6B", "#B8DE29", "#000000")
FIRST = ("relax", "rebar", "reinforce", "lax", "a2c", "rloo", "arsm", "exact")  # keep their colours in every figure
NEAR = 10.0  # distance of colours in CIELAB below which two lines are hard to tell apart


def style(name: str, variant: int = 0) -> Style:
    """Return the style of an estimator, from the table or from the name alone, so that it is always the same.

    ``variant`` is 0 for the estimator itself, and 1, 2 ... for further settings of it in the same figure, which keep
    its hue.
    """
    if name in STYLES:
        base = STYLES[name]
    else:
        n = zlib.crc32(name.encode())
        base = Style(COLORS[n % len(COLORS)], LINES[n // 7 % len(LINES)], MARKERS[n // 41 % len(MARKERS)])
    if not variant:
        return base
    lines = [line for line in LINES if line != base.line]
    markers = [marker for marker in MARKERS if marker != base.marker]
    color = SPARE[(variant - 1) % len(SPARE)]
    return Style(color, lines[(variant - 1) % len(lines)], markers[(variant + 2) % len(markers)])


def apart(styles: list[Style]) -> list[Style]:
    """Choose the styles of one figure, no marker twice and no two colours close; those of `FIRST` keep theirs."""
    known = [STYLES[name] for name in FIRST]
    out: dict[int, Style] = {}
    for i in sorted(
        range(len(styles)), key=lambda i: (known.index(styles[i]) if styles[i] in known else len(known), i)
    ):
        out[i] = _unlike(styles[i], list(out.values()))
    return [out[i] for i in range(len(styles))]


def _unlike(it: Style, others: list[Style]) -> Style:
    """Return the style with another colour or marker where ``others`` have one that is too close."""
    if any(near(it.color, other.color) for other in others):
        free = [color for color in SPARE if not any(near(color, other.color) for other in others)]
        it = it._replace(color=free[0] if free else it.color)
    taken = {other.marker for other in others}
    if it.marker != "None" and it.marker in taken:
        it = it._replace(marker=next((m for m in MARKERS if m not in taken), it.marker))
    return it


def near(one: str, other: str) -> bool:
    """Tell whether two colours are close, for full colour vision or for deuteranopia, the commonest blindness."""
    return min(math.dist(lab(one, blind), lab(other, blind)) for blind in (False, True)) < NEAR


def lab(color: str, blind: bool = False) -> tuple[float, float, float]:
    """CIELAB of a hexadecimal sRGB colour (D65); ``blind``: as seen with deuteranopia (Machado et al. 2009)."""
    rgb = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    rgb = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in rgb]
    if blind:
        rgb = [min(1.0, max(0.0, sum(m * c for m, c in zip(row, rgb, strict=True)))) for row in DEUTERANOPIA]
    xyz = [sum(m * c for m, c in zip(row, rgb, strict=True)) for row in XYZ]
    x, y, z = (c ** (1 / 3) if c > 0.008856 else 7.787 * c + 16 / 116 for c in xyz)
    return 116 * y - 16, 500 * (x - y), 200 * (y - z)


DEUTERANOPIA = ((0.367322, 0.860646, -0.227968), (0.280085, 0.672501, 0.047413), (-0.011820, 0.042940, 0.968881))
XYZ = (  # from linear sRGB, each row divided by the white point's coordinate
    (0.4124 / 0.9505, 0.3576 / 0.9505, 0.1805 / 0.9505),
    (0.2126, 0.7152, 0.0722),
    (0.0193 / 1.089, 0.1192 / 1.089, 0.9505 / 1.089),
)


def words(label: str) -> str:
    """Write a label of tables, with raw keys and values, in words and units."""
    for pattern, said in WORDS.items():
        label = re.sub(rf"(?<![\w.]){pattern}(?![\w.])", said, label)
    label = re.sub(r"(?<![\w.])(\w+)=([^\s,()]+)", _option, label)
    return re.sub(r"\d+\.\d{4,}|\b\d{5,}\b", _short, label)


def titled(label: str) -> str:
    """Write the label of an estimator for a figure: its name as papers print it, its settings in words.

    ``"rebar (granularity=parameter)"`` becomes "REBAR (an eta for each tensor)".
    """
    found = re.match(r"[a-z][a-z0-9_]*", label)
    name = found[0] if found else ""
    return NAMES.get(name, name) + words(label[len(name) :])


def _short(found: re.Match[str]) -> str:
    """Write a number with three digits, .99999 as it is, since it is not 1; a whole one with commas."""
    number = float(found[0])
    rounded = f"{number:,.3g}"
    whole = number.is_integer() and "." not in found[0]
    return f"{int(number):,}" if whole else found[0] if float(rounded).is_integer() else rounded


def _option(found: re.Match[str]) -> str:
    """Write an option that `WORDS` does not know: ``black_box=true`` as "black box", ``width=8`` as "width 8"."""
    key, value = (part.replace("_", " ") for part in found.groups())
    return {"true": key, "false": f"no {key}"}.get(value.lower(), f"{key} {value}")


WORDS = {
    r"surrogate=network": "free network",
    r"surrogate=relaxed": "network beside relaxed f",
    r"granularity=parameter": "an eta for each tensor",
    r"granularity=layer": "one eta",
    r"noise=(tied|independent)": r"\1 noise",
    r"samples=(\d+)": r"\1 samples",
    r"steps=(\d+)": r"\1 steps",
    r"schedule=(learned|annealed|fixed)": r"\1 temperature",
    r"temperature=([\d.]+)": r"temperature \1",
    r"lr_scale=([\d.]+)": r"tuning rate \1 x policy's",
    r"surrogate_updates=1": "1 surrogate update",
    r"surrogate_updates=(\d+)": r"\1 surrogate updates",
    r"relaxed=kl": "categorical KL",
    r"relaxed=density": "Concrete density",
    r"relaxed=elbo": "relaxed ELBO",
    r"score_term=(kept|dropped)": r"score term \1",
    r"entropy=0": "no entropy bonus",
    r"entropy=([\d.]+)": r"entropy weight \1",
    r"frames=(\d+)": r"\1 frames",
    r"objective=variance": "fitted to the variance",
    r"mean=arithmetic": "arithmetic mean",
    r"threshold=([\d.]+)": r"threshold \1",
    r"until_solved=true": "until solved",
    r"until_solved=false": "to the end",
    r"freeze_at=([\d.]+)": r"policies frozen at a return of \1",
    r"beta2=([\d.]+)": r"β₂ = \1",
    r"frame_skip=1": "each action taken once",
    r"frame_skip=(\d+)": r"each action taken \1 times",
    r"advantage=correct": "advantage as derived",
    r"advantage=published_error": "advantage as in the published code",
    r"sampler=correct": "sampler as derived",
    r"sampler=published_error": "sampler as in the published code",
    r"batch_size=(\d+)": r"batches of \1",
    r"latents=1": "1 latent",
    r"latents=(\d+)": r"\1 latents",
    r"decoder_hidden=(\d+)": r"decoder of \1 hidden units a layer",
    r"weight_decay=([\d.e-]+)": r"weight decay \1",
    r"depth=1": "one hidden layer",
    r"depth=2": "two hidden layers",
    r"depth=3": "three hidden layers",
    r"depth=4": "four hidden layers",
    r"bounded_eta=[Tt]rue": "eta between 0 and 2",
    r"shared=[Tt]rue": "shared by the layers",
    r"optimizer=rmsprop_tf": "RMSProp as in TensorFlow",
    r"optimizer=rmsprop": "RMSProp",
    r"optimizer=radam": "RAdam",
    r"optimizer=adam": "Adam",
    r"ALE/(\w+)-v5": r"\1",
    r"lr=([\d.e-]+)": r"rate \1",
    r"toy t=([\d.]+)": r"toy problem, t = \1",
    r"mnist linear1": "MNIST, one linear layer",
    r"mnist linear2": "MNIST, two linear layers",
    r"mnist nonlinear": "MNIST, nonlinear",
    r"omniglot linear1": "Omniglot, one linear layer",
    r"omniglot linear2": "Omniglot, two linear layers",
    r"omniglot nonlinear": "Omniglot, nonlinear",
    r"digits linear1": "digits, one linear layer",
    r"mnist (\d+)x(\d+)x(\d+)": r"MNIST, \1 x \2 variables of \3 categories",
    r"omniglot (\d+)x(\d+)x(\d+)": r"Omniglot, \1 x \2 variables of \3 categories",
    r"digits (\d+)x(\d+)x(\d+)": r"digits, \1 x \2 variables of \3 categories",
    r"mnist (\d+)x(\d+)": r"MNIST, \1 x \2 bits",
    r"omniglot (\d+)x(\d+)": r"Omniglot, \1 x \2 bits",
    r"digits (\d+)x(\d+)": r"digits, \1 x \2 bits",
    r"mnist": "MNIST",
    r"omniglot": "Omniglot",
    r"linear1": "one linear layer",
    r"linear2": "two linear layers",
    r"arsm problem": "ARSM's problem",
    r"cos problem": "cosine problem",
    r"quadratic problem": "quadratic on the simplex",
    # Of task=verify.
    r"bernoulli 1 (\w+)": r"1 bit, \1 f",
    r"bernoulli (\d+) (\w+)": r"\1 bits, \2 f",
    r"categorical 1x(\d+) (\w+)": r"1 variable of \1 classes, \2 f",
    r"categorical (\d+)x(\d+) (\w+)": r"\1 variables of \2 classes, \3 f",
    r"gaussian 1 (\w+)": r"1 Gaussian, \1 f",
    r"permutation (\d+) (\w+)": r"permutation of \1, \2 f",
    r"subset (\d+) of (\d+) (\w+)": r"\1 of \2 items, \3 f",
    r"direct f": "f of the logits too",
    r"extreme f": "extreme logits",
    r"table f": "f a table",
    r"mdp": "episodes",
    r"gamma\^t": "states weighted by γ^t",
}


def order(name: str) -> tuple[int, str]:
    """Return a sort key: the order of the table, then the alphabet."""
    return (list(STYLES).index(name) if name in STYLES else len(STYLES), name)


def natural(label: str) -> list[str | float]:
    """Return a sort key for labels: numbers by their size."""
    parts = re.split(r"(\d+(?:\.\d+)?)", label)
    return [float(part) if i % 2 else part for i, part in enumerate(parts)]
