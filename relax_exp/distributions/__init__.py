"""Families of variables: sample, relax, condition, enumerate.

Every function is pure and acts on the trailing event dimensions, so all of them vmap, compile and differentiate.
Shapes: Bernoulli logits ``(..., D)`` with samples in {0, 1}; categorical logits ``(..., D, C)`` with one-hot samples;
Gaussian parameters ``(..., D, 2)`` = mean and log standard deviation with samples ``(..., D)``; permutations with
logits ``(..., D)`` and samples ``(..., D, D)``; subsets of k of D items, conditional Bernoulli (`Subset`)
or Gumbel top-k (`TopK`), with logits and samples ``(..., D)``.

The relaxed variable ``z`` is the one whose hard threshold is the sample: ``b = hard(z)``. For Bernoulli
``z = logits + logit(u)`` (Tucker et al. 2017, eq. 7 of the RELAX draft); for categorical ``z = log p + Gumbel(u)`` with
*normalised* ``log p``, in the unconditional and the conditional draw alike (RELAX draft, appendix B).
"""

from relax_exp.distributions.base import Family, as_scalar, bounded, digits, expand_event, sum_event, weighted
from relax_exp.distributions.bernoulli import Bernoulli, BernoulliValues
from relax_exp.distributions.categorical import Categorical
from relax_exp.distributions.expectations import expectation, quadrature
from relax_exp.distributions.families import FAMILIES, INDEPENDENT, count_states, family_of, states
from relax_exp.distributions.gaussian import Gaussian
from relax_exp.distributions.noise import gumbel, logit_uniform, open_uniform, standard_normal
from relax_exp.distributions.permutation import Permutation
from relax_exp.distributions.subset import Subset
from relax_exp.distributions.top_k import TopK

__all__ = [
    "FAMILIES",
    "INDEPENDENT",
    "Bernoulli",
    "BernoulliValues",
    "Categorical",
    "Family",
    "Gaussian",
    "Permutation",
    "Subset",
    "TopK",
    "as_scalar",
    "bounded",
    "count_states",
    "digits",
    "expand_event",
    "expectation",
    "family_of",
    "gumbel",
    "logit_uniform",
    "open_uniform",
    "quadrature",
    "standard_normal",
    "states",
    "sum_event",
    "weighted",
]
