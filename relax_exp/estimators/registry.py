"""Every estimator by name: where it lives, for which families it is offered, and what it asks of f.

This module is plain data and does not import torch: configuration checks read it. To add an estimator, write one file
beside this one, add one line to `REGISTRY`, and its options with their defaults as ``configs/estimator/NAME.yaml``.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, NamedTuple

from relax_exp.schema import one_of

if TYPE_CHECKING:
    import torch

    from relax_exp.estimators.base import Estimator


B, C, G = "bernoulli", "categorical", "gaussian"
P, S, T = "permutation", "subset", "top_k"
MAX_ENUMERATED = 2**16  # states that are evaluated in one batch
MAX_RANKED = 4096  # states of a row that are drawn without replacement
MAX_COMPARED = 362  # classes C of which all pairs are swapped: C (C - 1) / 2 + 1 states are evaluated
TIED = ({"noise": "independent"}, {"noise": "tied"})
TUCKER = {  # REBAR as its authors' code has it
    "noise": "tied",
    "granularity": "parameter",
    "relaxation": "muprop",
    "bounded_eta": True,
    "baseline": "input",
    "shared": True,
}
SMALL = {"width": 8, "depth": 2, "activation": "tanh"}


class Entry(NamedTuple):
    """Where an estimator lives, for which families it is offered, and what it asks for.

    Attributes as they are used by configuration, verification and the documentation: ``needs`` of f is "value",
    "gradient" or "relaxed"; ``variants`` are sets of options under which it is verified; ``least_samples`` is the least
    that the option ``samples`` may be; ``target`` is what it is a gradient of, the "mean" of f over samples, a "bound"
    of several, or f along a "path".

    ``max_states``: of all variables of a layer, where it enumerates them; ``max_categories``: where it compares them;
    ``one_category``: whether it takes one, where nothing is random; ``one_layer``: whether it works on one layer only;
    ``density``: whether it has a density of soft samples. In episodes: ``by_variance``: tuned by the squared gradient
    of the policy's parameters, as in the published code; ``replays``: whether it asks what other actions would have led
    to; ``beside_a_value``: the estimator that takes its place where the task learns a value of the state itself.
    """

    path: str
    families: tuple[str, ...]
    needs: str
    summary: str
    variants: tuple[dict[str, Any], ...] = ({},)
    least_samples: int = 1
    target: str = "mean"
    max_states: int | None = None
    max_categories: int | None = None
    one_category: bool = False
    one_layer: bool = False
    density: bool = False
    by_variance: bool = False
    replays: bool = False
    beside_a_value: str = ""


REGISTRY: dict[str, Entry] = {
    "exact": Entry(
        "exact:Exact", (B, C, P, S, T), "value", "enumeration of all states (small problems)", max_states=MAX_ENUMERATED
    ),
    "reinforce": Entry(
        "score:Reinforce",
        (B, C, G, P, S, T),
        "value",
        "score function, samples=M draws",
        ({}, {"samples": 3}),
        one_category=True,
    ),
    "baseline": Entry(
        "score:Baseline", (B, C), "value", "score function minus a learned constant", ({}, {"objective": "variance"})
    ),
    "optimal_baseline": Entry(
        "score:OptimalBaseline", (B, C), "value", "score function minus the constant of least variance"
    ),
    "nvil": Entry("score:NVIL", (B, C), "value", "score function minus a learned, input-dependent baseline"),
    "a2c": Entry(
        "actor_critic:A2C",
        (B, C, G),
        "value",
        "score function minus a learned value of the state",
        (SMALL,),
        beside_a_value="reinforce",
    ),
    "mean_actor": Entry(
        "actor_critic:MeanActor", (C,), "value", "biased: sum over all actions of a learned Q", (SMALL,)
    ),
    "rloo": Entry(
        "multisample:RLOO",
        (B, C, P, S, T),
        "value",
        "K samples, each with the others' mean as baseline (VarGrad)",
        least_samples=2,
        one_category=True,
    ),
    "vimco": Entry(
        "multisample:VIMCO",
        (B, C),
        "value",
        "K-sample bound, leave-one-out baselines",
        ({"samples": 2}, {"samples": 2, "mean": "arithmetic"}),
        least_samples=2,
        target="bound",
    ),
    "unordered": Entry(
        "unordered:Unordered",
        (C,),
        "value",
        "K samples without replacement from the joint of a row",
        ({}, {"samples": 2}),
        least_samples=2,
        max_states=MAX_RANKED,
        one_layer=True,
    ),
    "muprop": Entry(
        "muprop:MuProp",
        (B, C),
        "relaxed",
        "first-order Taylor control variate at the mean",
        ({}, {"scales": "learned"}),
    ),
    "concrete": Entry(
        "pathwise:Concrete",
        (B, C, T),
        "relaxed",
        "biased: differentiates the relaxed sample, temperature fixed, annealed or learned",
        ({}, {"schedule": "learned"}),
        target="path",
        one_category=True,
        density=True,
    ),
    "straight_through": Entry(
        "pathwise:StraightThrough",
        (B, C, S, T),
        "gradient",
        "biased: hard forward, mean's slope backward",
        target="path",
    ),
    "st_gumbel": Entry(
        "pathwise:StraightThroughGumbel",
        (B, C, T),
        "gradient",
        "biased: hard forward, relaxed sample's slope backward",
        target="path",
    ),
    "gumbel_rao": Entry(
        "pathwise:GumbelRao",
        (B, C),
        "gradient",
        "biased: st_gumbel averaged over draws given the hard sample",
        target="path",
    ),
    "reinmax": Entry(
        "pathwise:ReinMax", (B, C), "gradient", "biased: second-order straight-through (Heun)", target="path"
    ),
    "gst": Entry(
        "pathwise:GST",
        (C,),
        "gradient",
        "biased: straight-through a softmax moved to agree with the sample",
        target="path",
    ),
    "reparameterization": Entry(
        "pathwise:Reparameterization", (G,), "gradient", "differentiates f along the sample", target="path"
    ),
    "rebar": Entry(
        "rebar_relax:Rebar",
        (B, C, P),
        "relaxed",
        "relaxed f as control variate, temperature and scale tuned",
        (*TIED, {"granularity": "parameter"}, {"relaxation": "muprop", "baseline": "input"}, TUCKER),
    ),
    "relax": Entry(
        "rebar_relax:Relax",
        (B, C, P),
        "relaxed",
        "learned control variate, beside the relaxed f or alone",
        tuple({**noise, "surrogate": s, **SMALL} for s in ("relaxed", "network") for noise in TIED),
        by_variance=True,
    ),
    "lax": Entry(
        "lax:LAX",
        (B, C, G),
        "value",
        "learned control variate on the continuous path, no conditional draw",
        (SMALL,),
        by_variance=True,
    ),
    "double_cv": Entry(
        "rodeo:DoubleCV",
        (B,),
        "gradient",
        "rloo plus Taylor control variates",
        ({}, {"samples": 3}),
        least_samples=2,
    ),
    "rodeo": Entry(
        "rodeo:Rodeo",
        (B,),
        "gradient",
        "rloo plus learned Stein control variates",
        (
            {"width": 8},
            {"width": 8, "samples": 3},
            {"width": 8, "operator": "mpf"},
            {"width": 8, "operator": "difference"},
        ),
        least_samples=2,
    ),
    "arm": Entry("antithetic:ARM", (B,), "value", "antithetic pair, weighted by the uniform noise"),
    "disarm": Entry(
        "antithetic:DisARM", (B,), "value", "ARM with the uniform noise integrated out (= U2G)", ({}, {"pairs": 2})
    ),
    "arms": Entry(
        "antithetic:ARMS",
        (B,),
        "value",
        "leave-one-out over K antithetic draws",
        ({}, {"samples": 2}, {"samples": 3}),
        least_samples=2,
    ),
    "disarm_tree": Entry("antithetic:DisARMTree", (C,), "value", "DisARM over a balanced tree of binary decisions"),
    "disarm_sb": Entry(
        "disarm_sb:DisARMSB",
        (C,),
        "value",
        "DisARM over stick-breaking binary decisions",
        ({}, {"order": "descending"}, {"order": "ascending"}, {"order": "ascending", "form": "importance"}),
    ),
    "disarm_sb_bound": Entry(
        "disarm_sb:DisARMSBBound",
        (C,),
        "value",
        "K-sample bound, each sample as a pair of disarm_sb (local DisARM)",
        ({}, {"order": "ascending"}),
        target="bound",
    ),
    "ars": Entry("arsm:ARS", (C,), "value", "swaps with one random reference class, C evaluations"),
    "arsm": Entry(
        "arsm:ARSM",
        (C,),
        "value",
        "swaps of all pairs of classes, C(C-1)/2 + 1 evaluations",
        max_categories=MAX_COMPARED,
        replays=True,
    ),
    "ars_plus": Entry("arsm_plus:ARSPlus", (C,), "value", "ars averaged over the reference's noise, C evaluations"),
    "arsm_plus": Entry(
        "arsm_plus:ARSMPlus",
        (C,),
        "value",
        "arsm without its terms of mean zero, C(C-1)/2 + 1 evaluations",
        max_categories=MAX_COMPARED,
    ),
    "bitflip": Entry("bitflip:BitFlip", (B,), "value", "one random latent flipped, scaled by their number"),
    "ugc": Entry("bitflip:UGC", (B,), "value", "bit flip near 0 and 1, DisARM elsewhere", ({}, {"threshold": 1.0})),
    "local_expectation": Entry("bitflip:LocalExpectation", (B,), "value", "every latent flipped in turn, D + 1"),
    "arms_bound": Entry(
        "arms_bound:ARMSBound",
        (B,),
        "value",
        "K-sample bound, each sample in antithetic forms (local DisARM)",
        ({}, {"samples": 2, "copies": 3}),
        target="bound",
    ),
    "carms": Entry(
        "carms:CARMS",
        (C,),
        "value",
        "leave-one-out over K antithetic draws of classes",
        ({}, {"samples": 2}, {"samples": 3}),
        least_samples=2,
    ),
    "indecater": Entry("indecater:IndeCateR", (C,), "value", "every variable enumerated in turn, D (C - 1) + 1"),
    "reinmax_rao": Entry(
        "second_order:ReinMaxRao",
        (B, C),
        "gradient",
        "biased: ReinMax with Gumbel-Rao in its first term",
        target="path",
    ),
    "reinmax_cv": Entry(
        "second_order:ReinMaxCV", (B, C), "gradient", "biased: ReinMax less a difference of two slopes", target="path"
    ),
    "zgr": Entry(
        "second_order:ZGR",
        (C,),
        "gradient",
        "biased: Gumbel-Rao at temperature zero, exact to second order",
        target="path",
    ),
    "mve": Entry(
        "second_order:MVE",
        (C,),
        "gradient",
        "biased: least variance among those exact to second order",
        target="path",
    ),
    "decoupled_st": Entry(
        "decoupled_st:DecoupledST",
        (B, C),
        "gradient",
        "biased: straight-through, a temperature for each direction",
        target="path",
    ),
    "simple": Entry(
        "simple:SIMPLE",
        (S,),
        "gradient",
        "biased: an exact subset forward, its exact marginals' slope backward",
        target="path",
    ),
    "grpo": Entry(
        "grpo:GRPO", (B, C), "value", "biased: K samples less their mean, over their deviation", least_samples=2
    ),
    "dr_grpo": Entry(
        "grpo:DrGRPO", (B, C), "value", "biased by (K - 1) / K: K samples less their mean", least_samples=2
    ),
}

# Those that can learn from whole episodes, whose actions were drawn before anyone knew what they are worth.
FROM_EPISODES = (
    "reinforce",
    "baseline",
    "optimal_baseline",
    "nvil",
    "a2c",
    "rloo",
    "relax",
    "lax",
    "arsm",
    "mean_actor",
)


def names(family: str | None = None) -> list[str]:
    """Return every registered name, or those offered for one family.

    Raises:
        ValueError: There is no such family.
    """
    offered = dict.fromkeys(known for entry in REGISTRY.values() for known in entry.families)
    if family is not None and family not in offered:
        raise ValueError(f"unknown family {family!r}: must be {one_of(offered, family)}")
    return [name for name, entry in REGISTRY.items() if family is None or family in entry.families]


def lookup(name: str) -> Entry:
    """Return the registry's entry for a name.

    Raises:
        ValueError: There is no such name. The message has the nearest one.
    """
    if name not in REGISTRY:
        raise ValueError(f"unknown estimator {name!r}: must be {one_of(REGISTRY, name)}")
    return REGISTRY[name]


def needs(name: str, options: dict[str, Any] | None = None) -> str:
    """Return what the estimator asks of f under these options: "value", "gradient" or "relaxed"."""
    if name == "relax" and (options or {}).get("surrogate") == "network":
        return "value"
    return lookup(name).needs


def build(
    name: str,
    family: str = B,
    event_shape: int | tuple[int, ...] = (1,),
    context_shape: int | tuple[int, ...] | None = None,
    generator: torch.Generator | None = None,
    path: str | None = None,
    **options: Any,
) -> Estimator:
    """Build the estimator of that name, an ``nn.Module``, and draw its initial weights.

    Args:
        name: A registered name, see `names`.
        family: "bernoulli", "categorical", "gaussian", "permutation", "subset" or "top_k".
        event_shape: The shape of one row's sample, (D,), (D, C) of categories or (D, k) of k items of D.
        context_shape: The shape of one row's context, if there is one.
        generator: Draws the initial weights; seed 0 without one. The global random state is neither used nor moved.
        path: A Python file with the estimator, in the place of a registered one.
        options: The estimator's own options.

    Raises:
        ValueError: The name is unknown, the family is not offered, or an option may not have this value.
        TypeError: There is no such option. Both messages name what is allowed and what is nearest.
    """
    import torch

    seed = 0 if generator is None else int(torch.randint(2**62, (), generator=generator, device=generator.device))
    # torch does not annotate these two.
    with torch.random.fork_rng(devices=[]):  # pyright: ignore[reportUnknownMemberType]
        torch.manual_seed(seed)  # pyright: ignore[reportUnknownMemberType]
        if path is not None:
            from relax_exp.estimators import user_file

            return user_file.build(path, family, event_shape, context_shape, **options)
        return _registered(name, family)(family, event_shape, context_shape, **options)


def _registered(name: str, family: str) -> type[Estimator]:
    """Return the class of a registered estimator.

    Raises:
        ValueError: The name is unknown or the family is not offered.
    """
    entry = lookup(name)
    if family not in entry.families:
        raise ValueError(f"{name} is not offered for {family} variables, only for {', '.join(entry.families)}")
    module, cls = entry.path.split(":")
    return getattr(importlib.import_module(f"relax_exp.estimators.{module}"), cls)
