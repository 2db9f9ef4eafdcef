"""Does the verification notice mistakes? Patches the shipped code, one place at a time, and expects a rejection.

``make mutants`` prints the table; ``python scripts/mutants.py reinmax_rao grpo`` that of these estimators. A mutant
replaces one snippet of one function's source (which must occur once), so that it breaks the code that is shipped and
not a copy of it. Biased estimators are compared with their own mean, enumerated. Exit code 1 if a mutant survives.
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
import sys
import textwrap
from typing import NamedTuple

import torch
from tabulate import tabulate

from relax_exp import testing
from relax_exp.enumeration import biased, checks, hierarchies, mdp, problems
from relax_exp.models.structured import HalfPredictor
from relax_exp.models.vae import DiscreteVAE

DRAWS = 100_000
B3, C23 = "bernoulli 3", "categorical 2x3"
TWO = "bernoulli 3+3"
MEAN = "mean of "  # what a biased estimator itself estimates
HALVES = "halves, "  # a hierarchy of latents from the upper half of an image to the lower half
RELAXED = "relaxed "  # the derivative of the relaxed loss of a hierarchy, which itself is biased
NETWORK = {"surrogate": "network", "width": 8, "activation": "tanh"}


EPISODES = {  # estimator, options and problem of a Mutant
    label: (name, options, f"mdp {label}") for label, (name, options, _) in mdp.VERIFIED.items()
}


class Mutant(NamedTuple):
    """``place``: module:owner.function below relax_exp; checked on ``problem`` of `verify`, a hierarchy or a `mdp`."""

    mistake: str
    place: str
    old: str
    new: str
    estimator: str
    options: dict
    problem: str


MUTANTS = [
    Mutant(
        "z~ detached: no conditional path",
        "estimators.rebar_relax:Rebar._combine",
        "dc_dz[0] - self.along_conditional(dc_dz[1], logits, b, z_tilde)",
        "dc_dz[0]",
        "rebar",
        {"noise": "independent"},
        f"{B3} smooth",
    ),
    Mutant(
        "z~ detached, tied noise",
        "estimators.rebar_relax:Rebar._combine",
        "(1 - family.conditional_slope(logits, b, z))",
        "1",
        "rebar",
        {"noise": "tied"},
        f"{B3} smooth",
    ),
    Mutant(
        "eta missing from the score's term",
        "estimators.rebar_relax:Rebar._combine",
        "centred - c_tilde",
        "centred - c_tilde / self.eta",
        "rebar",
        {"noise": "independent"},
        f"{B3} smooth",
    ),
    Mutant(
        "conditional sampler with theta for 1 - theta",
        "distributions.bernoulli:Bernoulli.conditional_path",
        "F.softplus(sign * logits)",
        "F.softplus(-sign * logits)",
        "rebar",
        {"noise": "independent"},
        f"{B3} smooth",
    ),
    Mutant(
        "conditional slope with theta for 1 - theta",
        "distributions.bernoulli:Bernoulli.conditional_slope",
        "torch.sigmoid(sign * logits)",
        "torch.sigmoid(-sign * logits)",
        "relax",
        {**NETWORK, "noise": "tied"},
        "bernoulli 4 table",
    ),
    Mutant(
        "z and z~ both on the conditional path",
        "estimators.rebar_relax:Rebar._combine",
        "through = dc_dz[0] -",
        "through = dc_dz[0] * family.conditional_slope(logits, b, z) -",
        "relax",
        {**NETWORK, "noise": "independent"},
        f"{B3} smooth",
    ),
    Mutant(
        "f's direct dependence counted for z only",
        "estimators.rebar_relax:Rebar._combine",
        "+ direct[0] - direct[1]",
        "+ direct[0]",
        "rebar",
        {"noise": "independent"},
        f"{B3} direct",
    ),
    Mutant(
        "categorical: a loser keeps its own truncation",
        "distributions.categorical:Categorical.conditional_path",
        "torch.logaddexp(g - log_p, winner)",
        "torch.logaddexp(g - log_p, g)",
        "rebar",
        {"noise": "independent"},
        f"{C23} smooth",
    ),
    Mutant(
        "categorical: log p of the winner kept",
        "distributions.categorical:Categorical.conditional_path",
        "torch.where(b > 0.5, -winner, losers)",
        "torch.where(b > 0.5, log_p - winner, losers)",
        "rebar",
        {"noise": "independent"},
        f"{C23} smooth",
    ),
    Mutant(
        "categorical: unnormalised log p in the conditional path",
        "distributions.categorical:Categorical.conditional_path",
        "logits.log_softmax(-1)",
        "logits",
        "rebar",
        {"noise": "independent"},
        f"{C23} smooth",
    ),
    Mutant(
        "categorical: no chain rule through log-softmax",
        "distributions.categorical:Categorical.grad_to_logits",
        "grad - logits.softmax(-1) * grad.sum(-1, keepdim=True)",
        "grad",
        "relax",
        {**NETWORK, "noise": "independent"},
        f"{C23} table",
    ),
    Mutant(
        "noise shared across rows",
        "distributions.bernoulli:Bernoulli.path",
        "logit_uniform(u)",
        "logit_uniform(u[..., :1, :].expand_as(u))",
        "reinforce",
        {},
        f"{B3} smooth",
    ),
    Mutant(
        "RLOO: wrong denominator",
        "estimators.multisample:RLOO.signal",
        "self.samples / (self.samples - 1)",
        "1.0",
        "rloo",
        {},
        f"{B3} smooth",
    ),
    Mutant(
        "baseline that includes the own sample",
        "estimators.score:Baseline.signal",
        "f_b - self.constant",
        "f_b - f_b.mean() - self.constant",
        "baseline",
        {},
        f"{B3} smooth",
    ),
    Mutant(
        "NVIL: running mean over the present too",
        "estimators.score:NVIL.signal",
        "f_b - self.running_mean",
        "f_b - (self.decay * self.running_mean + (1 - self.decay) * f_b.mean())",
        "nvil",
        {},
        f"{B3} smooth",
    ),
    Mutant(
        "ARM: independent instead of antithetic noise",
        "estimators.antithetic:antithetic",
        "logits > logit_uniform(u)",
        "logits > logit_uniform(u.flip(0))",
        "arm",
        {},
        f"{B3} smooth",
    ),
    Mutant(
        "DisARM: sigma(logits) for sigma(|logits|)",
        "estimators.antithetic:disarm_weight",
        "logits.abs()",
        "logits",
        "disarm",
        {},
        f"{B3} smooth",
    ),
    Mutant(
        "ARSM: summed over the references, not their mean",
        "estimators.arsm:ARSM.weight",
        "return 1 / self.event_shape[-1] - ",
        "return 1 - self.event_shape[-1] * ",
        "arsm",
        {},
        f"{C23} smooth",
    ),
    Mutant(
        "ARS: 1 - pi instead of 1 - C pi",
        "estimators.arsm:ARS.weight",
        "1 - size * pi",
        "1 - pi",
        "ars",
        {},
        f"{C23} smooth",
    ),
    Mutant(
        "VIMCO: mean over all samples, own included",
        "estimators.multisample:VIMCO.signal",
        "log_w.masked_fill(own, 0.0).sum(1) / (k - 1)",
        "log_w.sum(1).expand(k, -1) / k",
        "vimco",
        {"samples": 2},
        f"{B3} smooth",
    ),
    Mutant(
        "MuProp: Taylor term without its mean",
        "estimators.muprop:MuProp.estimate",
        "* score + along, f_b",
        "* score, f_b",
        "muprop",
        {},
        f"{B3} smooth",
    ),
    Mutant(
        "MuProp: batch-mean baseline including the own sample",
        "estimators.muprop:MuProp.estimate",
        "f_b.detach() - constant - linear",
        "f_b.detach() - constant - linear - (f_b - constant - linear).detach().mean()",
        "muprop",
        {},
        f"{B3} smooth",
    ),
    Mutant(
        "CARMS: the decisions before the one that parts two samples left out",
        "estimators.carms:pair_ratios",
        "return before.exp() *",
        "return",
        "carms",
        {"samples": 3},
        "categorical 1x5 smooth",
    ),
    Mutant(
        "CARMS: the ratio of independent samples",
        "estimators.carms:pair_ratios",
        "log_both(log_pi, order)",
        "2 * log_pi",
        "carms",
        {"samples": 3},
        f"{C23} smooth",
    ),
    Mutant(
        "ARMS bound: corrected for all samples, not for the forms of one",
        "estimators.arms_bound:ARMSBound.correction",
        "self.copies - 1",
        "self.samples - 1",
        "arms_bound",
        {"samples": 2, "copies": 3},
        f"{B3} smooth",
    ),
    Mutant(
        "ARMS bound: the bound without the sample that varies",
        "estimators.arms_bound:ARMSBound.signal",
        "torch.logaddexp(log_w.unsqueeze(2), others.unsqueeze(1))",
        "torch.logaddexp(log_w.unsqueeze(2), 0 * others.unsqueeze(1))",
        "arms_bound",
        {},
        f"{B3} smooth",
    ),
    Mutant(
        "IndeCateR: the other variables move along",
        "estimators.indecater:IndeCateR.estimate",
        "own * moved + (1 - own) * b",
        "0 * own + moved",
        "indecater",
        {},
        f"{C23} smooth",
    ),
    Mutant(
        "IndeCateR: classes counted from 0, not from the sample's",
        "estimators.indecater:IndeCateR.estimate",
        "- b.argmax(-1, keepdim=True)",
        "- 0 * b.argmax(-1, keepdim=True)",
        "indecater",
        {},
        f"{C23} smooth",
    ),
    Mutant(
        "ZGR: not centred at the mean",
        "estimators.second_order:ZGR.relax",
        "(b - p.detach())",
        "(b - 1 / p.shape[-1])",
        "zgr",
        {},
        f"{C23} quadratic",
    ),
    Mutant(
        "MVE: the sampled class without its factor of a half",
        "estimators.second_order:MVE._limit",
        "torch.where(b > 0.5, along / 2, other)",
        "torch.where(b > 0.5, along, other)",
        "mve",
        {},
        f"{C23} quadratic",
    ),
    Mutant(
        "ReinMax: straight-through's weight for the second term",
        "estimators.pathwise:ReinMax.relax",
        "self._slope(family.mean(fixed), step) / 2",
        "self._slope(family.mean(fixed), step)",
        "reinmax",
        {},
        f"{B3} quadratic",
    ),
    Mutant(
        "DisARM: pairs summed, not averaged",
        "estimators.antithetic:DisARM.estimate",
        ".mean(0)",
        ".sum(0)",
        "disarm",
        {"pairs": 2},
        f"{B3} smooth",
    ),
    Mutant(
        "DisARM-SB: the gradient stays in the order of the ranks",
        "estimators.disarm_sb:unranked",
        "ranks.argsort(-1)",
        "ranks",
        "disarm_sb",
        {"order": "descending"},
        "categorical 1x5 smooth",
    ),
    Mutant(
        "MuProp: the linear term's scale missing from its mean",
        "estimators.muprop:MuProp.estimate",
        "+ self.scales[1] * along",
        "+ along",
        "muprop",
        {"scales": "learned"},
        f"{B3} smooth",
    ),
    Mutant(
        "RODEO: the ratio itself where minimum probability flow has its root",
        "estimators.rodeo:Rodeo.weights",
        "return (ratio / 2).exp(), (ratio / 2).exp()",
        "return ratio.exp(), ratio.exp()",
        "rodeo",
        {"width": 8, "operator": "mpf"},
        f"{B3} smooth",
    ),
    Mutant(
        "RODEO: the difference operator without the ratio of the probabilities",
        "estimators.rodeo:Rodeo.weights",
        "return -ratio.exp(),",
        "return -torch.ones_like(ratio),",
        "rodeo",
        {"width": 8, "operator": "difference"},
        f"{B3} smooth",
    ),
    Mutant(
        "permutations: gaps between arrivals with the rate of all, not of those that are left",
        "distributions.permutation:Permutation.conditional_path",
        "- _log_left(_ranked(b, logits.log_softmax(-1)))",
        "",
        "rebar",
        {"noise": "independent"},
        "permutation 4 smooth",
    ),
    Mutant(
        "permutations: a rank's own gap only along the conditional path",
        "distributions.permutation:Permutation.conditional_pull",
        "(share * grad.unsqueeze(-2)).sum(-1)",
        "grad",
        "rebar",
        {"noise": "tied"},
        "permutation 4 smooth",
    ),
    Mutant(
        "permutations: the score of the first rank only",
        "distributions.permutation:Permutation.score",
        "(-_log_left(ranked)).logcumsumexp(-1)",
        "-_log_left(ranked)",
        "reinforce",
        {},
        "permutation 4 smooth",
    ),
    Mutant(
        "subsets: the marginals of independent bits",
        "distributions.subset:Subset.score",
        "cls.mean(logits)",
        "torch.sigmoid(logits)",
        "reinforce",
        {},
        "subset 2 of 4 smooth",
    ),
    Mutant(
        "subsets: sampled as if one more could still be taken",
        "distributions.subset:Subset.sample",
        "(left - 1).clamp(min=0)",
        "left",
        "reinforce",
        {},
        "subset 2 of 5 smooth",
    ),
    Mutant(
        "ARS+: the interval of one sample, not of all",
        "estimators.arsm_plus:ARSPlus.interval",
        "return lower.amax(0), total, upper.amin(0)",
        "return lower[0], total, upper[0]",
        "ars_plus",
        {},
        f"{C23} smooth",
    ),
    Mutant(
        "ARS+: as if the second class had no noise of its own",
        "estimators.arsm_plus:ARSPlus.interval",
        "even = total * torch",
        "even = torch",
        "ars_plus",
        {},
        f"{C23} smooth",
    ),
    Mutant(
        "ARSM+: a variable left out where two of its samples are the same",
        "estimators.arsm_plus:ARSMPlus.moved",
        "(chosen != chosen[:1]).any(0)",
        "(chosen != chosen[:1])[1]",
        "arsm_plus",
        {},
        f"{C23} smooth",
    ),
    Mutant(
        "DisARM-SB: importance-weighted without the weight",
        "estimators.disarm_sb:DisARMSB.weighted",
        " * ratio, values",
        ", values",
        "disarm_sb",
        {"order": "ascending", "form": "importance"},
        "categorical 1x5 smooth",
    ),
    Mutant(
        "DisARM-SB bound: averaged over all samples, not over those of the bound",
        "estimators.disarm_sb:DisARMSBBound.estimate",
        "/ self.bound_samples",
        "/ self.samples",
        "disarm_sb_bound",
        {},
        f"{C23} smooth",
    ),
    Mutant(
        "ReinMax-Rao: given the sample's own probabilities, not those between",
        "estimators.second_order:ReinMaxRao.combine",
        "((p + b) / 2).log()",
        "p.log()",
        "reinmax_rao",
        {"draws": 2},
        f"{MEAN}{B3} smooth",
    ),
    Mutant(
        "ReinMax-CV: the second slope of the difference left out",
        "estimators.second_order:ReinMaxCV.combine",
        " - self.rao_slope(m.log(), b, v, step)",
        "",
        "reinmax_cv",
        {"draws": 2},
        f"{MEAN}{B3} smooth",
    ),
    Mutant(
        "decoupled straight-through: sampled at temperature 1",
        "estimators.decoupled_st:DecoupledST.relax",
        "logits.detach() / self.forward_temperature",
        "logits.detach()",
        "decoupled_st",
        {},
        f"{MEAN}{B3} smooth",
    ),
    Mutant(
        "GRPO: the standard deviation of a population",
        "estimators.grpo:GRPO.signal",
        "f_b.std(0)",
        "f_b.std(0, correction=0)",
        "grpo",
        {},
        f"{MEAN}{B3} smooth",
    ),
    Mutant(
        "Dr. GRPO: the mean of the other samples, which is RLOO",
        "estimators.grpo:DrGRPO.signal",
        "f_b - f_b.mean(0)",
        "(f_b - f_b.mean(0)) * self.samples / (self.samples - 1)",
        "dr_grpo",
        {},
        f"{MEAN}{B3} smooth",
    ),
    Mutant(
        "top-k: drawn with replacement",
        "distributions.top_k:TopK.log_prob",
        ".logsumexp(0) - total",
        ".logsumexp(0) - 0 * total",
        "reinforce",
        {},
        "top_k 3 of 5 smooth",
    ),
    Mutant(
        "direct gradient counted once per layer",
        "tasks.layered_gradients:Hierarchy.gradients",
        "torch.full_like(loss, 1 / n)",
        "torch.full_like(loss, len(logits) / n)",
        "rebar",
        {"noise": "tied"},
        TWO,
    ),
    Mutant(
        "score term dropped in the weights of a bound",
        "tasks.layered_gradients:Hierarchy.__init__",
        ' and estimators[0].target == "mean"',
        "",
        "vimco",
        {"samples": 2},
        TWO,
    ),
    Mutant(
        "score term of layer 2 dropped inside the control variate of layer 1",
        "models.vae:DiscreteVAE.above",
        "log_prob(upper, s)",
        "log_prob(upper.detach(), s)",
        "rebar",
        {"noise": "tied", "temperature": 2.0, "eta": 3.0},
        TWO,
    ),
    Mutant(
        "score term dropped at soft samples",
        "tasks.layered_gradients:Hierarchy.relaxed",
        "family.log_prob(q, at)",
        "family.log_prob(q.detach(), at)",
        "concrete",
        {},
        f"{RELAXED}{TWO}",
    ),
    Mutant(
        "an upper layer's noise redrawn from the lower layer's",
        "tasks.layered_gradients:Hierarchy.objective",
        "self.estimators[k].sample(logits, noise[k])",
        "self.estimators[k].sample(logits, noise[0])",
        "local_expectation",
        {},
        TWO,
    ),
    Mutant(
        "layers above left out of the control variate",
        "models.vae:DiscreteVAE.above",
        "return value - self.log_prior(s)",
        "return value",
        "local_expectation",
        {},
        TWO,
    ),
    Mutant(
        "the lower half predicted from the first layer, past the second",
        "models.structured:HalfPredictor.follow",
        "range(layer + 1, self.depth)",
        "range(layer + 1, 1)",
        "local_expectation",
        {},
        f"{HALVES}{TWO}",
    ),
    Mutant(
        "soft samples rounded on their way to the lower half",
        "models.structured:HalfPredictor.above",
        "self.follow(layer, s, convert)",
        "self.follow(layer, s.round(), convert)",
        "rebar",
        {"noise": "independent"},
        f"{HALVES}{TWO}",
    ),
    Mutant(
        "in episodes: log p of the winner kept, as in the original code",
        "distributions.categorical:Categorical.conditional_path",
        "torch.where(b > 0.5, -winner, losers)",
        "torch.where(b > 0.5, log_p - winner, losers)",
        *EPISODES["relax"],
    ),
    Mutant(
        "in episodes: z and z~ both on the conditional path",
        "estimators.rebar_relax:Rebar._combine",
        "through = dc_dz[0] -",
        "through = dc_dz[0] * family.conditional_slope(logits, b, z) -",
        *EPISODES["relax"],
    ),
    Mutant(
        "in episodes: the factor gamma^t forgotten",
        "tasks.episodic:PolicyTask.gradients",
        "weight * self._rows",
        "weight + 0 * self._rows",
        *EPISODES["relax, gamma^t"],
    ),
    Mutant(
        "in episodes: ARSM stops at so many pseudo-actions, as in the original code",
        "estimators.arsm:choose",
        "there * asked.sum(-1, keepdim=True) / there.sum(-1, keepdim=True).clamp(min=1)",
        "there",
        *EPISODES["arsm, 3 actions, 1 tried"],
    ),
    Mutant(
        "in episodes: the loss of a pseudo-action in the place of its difference",
        "estimators.arsm:action_values",
        "weight * (chosen - own)",
        "weight * chosen",
        *EPISODES["arsm"],
    ),
]


@contextlib.contextmanager
def patched(place: str, old: str, new: str):
    """The function at ``place`` with one snippet of its source replaced. ValueError where it does not occur once."""
    module_name, _, path = place.partition(":")
    module = importlib.import_module(f"relax_exp.{module_name}")
    *owners, name = path.split(".")
    owner = module
    for part in owners:
        owner = getattr(owner, part)
    original = inspect.getattr_static(owner, name)
    source = textwrap.dedent(inspect.getsource(getattr(original, "__func__", original)))
    if source.count(old) != 1:
        raise ValueError(f"{place}: the snippet to replace occurs {source.count(old)} times: {old}")
    scope: dict = {}
    exec("from __future__ import annotations\n" + source.replace(old, new), vars(module), scope)
    setattr(owner, name, scope[name])
    try:
        yield
    finally:
        setattr(owner, name, original)


def measure(mutant: Mutant, draws: int = DRAWS) -> checks.Verdict:
    """The verdict on the mutant's estimator and problem, with the code as it stands."""
    if mutant.problem.startswith("mdp "):
        return mdp.check(*mdp.VERIFIED[mutant.problem.removeprefix("mdp ")], draws)
    if mutant.problem.startswith(MEAN):
        problem = next(p for p in problems.problems() if p.name == mutant.problem.removeprefix(MEAN))
        return biased.check_mean(mutant.estimator, mutant.options, problem, draws)
    if mutant.problem.startswith(RELAXED):
        layers = hierarchies.HIERARCHIES[mutant.problem.removeprefix(RELAXED)]
        return hierarchies.check_relaxed(mutant.estimator, mutant.options, layers, min(draws, 200))
    if (hierarchy := mutant.problem.removeprefix(HALVES)) in hierarchies.HIERARCHIES:
        model = DiscreteVAE if hierarchy == mutant.problem else HalfPredictor
        layers = hierarchies.HIERARCHIES[hierarchy]
        return hierarchies.check_hierarchy(mutant.estimator, mutant.options, layers, draws, of=model)
    problem = next(p for p in problems.problems() if p.name == mutant.problem)
    return checks.check(checks.build(mutant.estimator, mutant.options, problem), problem, draws)


def rejected(verdict: checks.Verdict) -> bool:
    """Whether the verification calls it wrong."""
    return max(verdict.largest_z, verdict.row_z) > testing.threshold(verdict.tests)


def run(mutant: Mutant, draws: int = DRAWS) -> checks.Verdict:
    """The verdict on the mutated code."""
    with patched(mutant.place, mutant.old, mutant.new):
        return measure(mutant, draws)


def main(names: list[str]) -> int:
    """Print the kill table, of the estimators with these names or of all."""
    torch.set_num_threads(1)
    if unknown := set(names) - {mutant.estimator for mutant in MUTANTS}:
        print(f"no mutant of {', '.join(sorted(unknown))}", file=sys.stderr)
        return 2
    chosen = [mutant for mutant in MUTANTS if not names or mutant.estimator in names]
    rows, survivors = [], 0
    for mutant in chosen:
        right, wrong = measure(mutant), run(mutant)
        killed = rejected(wrong) and not rejected(right)
        survivors += not killed
        label = " ".join(
            [mutant.estimator, *(f"{k}={v}" for k, v in mutant.options.items() if k in ("noise", "samples"))]
        )
        z = max(wrong.largest_z, wrong.row_z)
        rows.append(
            [
                mutant.mistake,
                label,
                mutant.problem,
                f"{right.largest_z:.1f}",
                f"{z:.1f}",
                "killed" if killed else "SURVIVED",
            ]
        )
    headers = ["mistake", "estimator", "problem", "|z| as shipped", "|z| mutated", "verdict"]
    print(tabulate(rows, headers, tablefmt="github"))
    print(f"\n{len(chosen) - survivors} of {len(chosen)} mutants killed, {DRAWS:,} draws each")
    return int(survivors > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
