"""What `Latent` and `Chain` refuse says what is wrong, with shapes, and what to do instead."""

import pytest
import torch
from torch import distributions, nn

from relax_exp import Chain, Latent


def total(b, *rows):
    return b.flatten(1).sum(1)


def bernoulli(name="rloo", **options):
    return Latent(name, "bernoulli", 3, **options)


def summed(logits):
    return bernoulli("relax")(logits, total).loss.sum()


CALLS = {
    "logits of another event": (
        lambda: bernoulli()(torch.zeros(4, 2), total),
        ValueError,
        r"logits have shape \(4, 2\).*\(\*batch, 3\)",
    ),
    "integer logits": (lambda: bernoulli()(torch.zeros(4, 3).long(), total), TypeError, "floats"),
    "no rows": (lambda: bernoulli()(torch.zeros(0, 3), total), ValueError, "no rows"),
    "a loss summed over rows": (
        lambda: bernoulli()(torch.zeros(4, 3), torch.sum),
        ValueError,
        r"losses of shape \(\) for samples of shape \(16, 3\).*one loss a row, \(16,\).*reduction='none'",
    ),
    "a loss for each latent": (lambda: bernoulli()(torch.zeros(4, 3), lambda b: b), ValueError, r"\(16, 3\)"),
    "a loss that is no tensor": (lambda: bernoulli()(torch.zeros(4, 3), lambda b: 1.0), TypeError, "as_tensor"),
    "a row tensor of another batch": (
        lambda: bernoulli()(torch.zeros(4, 3), total, torch.zeros(5, 2)),
        ValueError,
        r"row tensor 0 has shape \(5, 2\).*\(4,\)",
    ),
    "a row that is no tensor": (lambda: bernoulli()(torch.zeros(4, 3), total, 3), TypeError, "row tensor 0 is a int"),
    "a black box that is differentiated": (
        lambda: bernoulli("rebar")(torch.zeros(4, 3), lambda b: b.detach().sum(1)),
        ValueError,
        "black box",
    ),
    "a context that is missing": (
        lambda: bernoulli("nvil", context_shape=2)(torch.zeros(4, 3), total),
        ValueError,
        r"pass context=, \(4, 2\)",
    ),
    "a context nobody asked for": (
        lambda: bernoulli("nvil")(torch.zeros(4, 3), total, context=torch.zeros(4, 2)),
        ValueError,
        r"context_shape=\(2,\)",
    ),
    "a context of another shape": (
        lambda: bernoulli("nvil", context_shape=2)(torch.zeros(4, 3), total, context=torch.zeros(4, 5)),
        ValueError,
        r"context has shape \(4, 5\), expected \(4, 2\)",
    ),
    "a distribution of another family": (
        lambda: bernoulli()(distributions.Normal(torch.zeros(3), torch.ones(3)), total),
        ValueError,
        "Bernoulli, not Normal",
    ),
    "an unknown estimator": (lambda: bernoulli("relux"), ValueError, "did you mean"),
    "an unknown family": (lambda: Latent("relax", "poisson"), ValueError, "bernoulli"),
    "a family that is not offered": (lambda: Latent("arm", "categorical", 4), ValueError, "only for bernoulli"),
    "categories without classes": (lambda: Latent("rloo", "categorical", (4, 1)), ValueError, "number of classes"),
    "an event that is no shape": (lambda: Latent("rloo", "bernoulli", "3"), TypeError, r"event_shape='3'.*tuple"),
    "a context that is no shape": (lambda: bernoulli("nvil", context_shape=2.0), TypeError, "context_shape=2.0"),
    "a family for build": (lambda: Latent("rloo", "subset", (5, 2)), ValueError, r"relax_exp.build\('rloo', family"),
    "a seed for a generator": (
        lambda: bernoulli()(torch.zeros(4, 3), total, generator=0),
        TypeError,
        r"not int: pass torch.Generator\(\).manual_seed\(0\)",
    ),
    "no function": (lambda: bernoulli()(torch.zeros(4, 3), None), TypeError, "f must be a function"),
    "noise of another estimator": (
        lambda: bernoulli("rebar")(torch.zeros(4, 3), total, noise={"u": torch.rand(4, 3)}),
        ValueError,
        r"noise= has u, wanted u, v: take z.noise\(4\)",
    ),
    "samples of another batch": (
        lambda: bernoulli().log_prob(torch.zeros(2, 3), torch.zeros(4, 3)),
        ValueError,
        r"b has shape \(4, 3\), expected \(\*lead, 2, 3\)",
    ),
    "a derivative of an estimate": (
        lambda: bernoulli()(torch.zeros(4, 3, requires_grad=True), total).loss.sum().backward(create_graph=True),
        RuntimeError,
        "leave out create_graph=True",
    ),
    "a derivative of an estimate under torch.func": (
        lambda: torch.func.grad(lambda x: torch.func.grad(summed)(x).sum())(torch.zeros(4, 3)),
        RuntimeError,
        "the outer transform",
    ),
    "a derivative of an estimate, row by row": (
        lambda: torch.func.vmap(torch.func.grad(lambda x: torch.func.grad(summed)(x).sum()), randomness="same")(
            torch.zeros(2, 4, 3)
        ),
        RuntimeError,
        "the outer transform",
    ),
    "forward mode": (
        lambda: torch.func.jvp(summed, (torch.zeros(4, 3),), (torch.ones(4, 3),)),
        RuntimeError,
        "take torch.func.grad",
    ),
    "an unknown option": (lambda: bernoulli("relax", surrogate="netwrk"), ValueError, "network"),
    "one eta for each tensor": (
        lambda: bernoulli("rebar", granularity="parameter"),
        ValueError,
        "leave out granularity",
    ),
    "samples of another shape": (
        lambda: bernoulli("reinforce").from_sample(torch.zeros(4, 3), torch.zeros(4, 2), torch.zeros(4)),
        ValueError,
        r"sample has shape \(4, 2\), expected \(4, 3\)",
    ),
    "given samples where the estimator chooses": (
        lambda: bernoulli("disarm").from_sample(torch.zeros(4, 3), torch.zeros(4, 3), torch.zeros(4)),
        TypeError,
        "choose the samples itself",
    ),
    "layers of different samples": (
        lambda: Chain(bernoulli("rloo"), bernoulli("relax")),
        ValueError,
        "same number of samples.*rloo 4, relax 1",
    ),
    "a pathwise layer among others": (
        lambda: Chain(bernoulli("relax"), bernoulli("st_gumbel")),
        ValueError,
        "pathwise layers only",
    ),
    "a bound over a mean": (
        lambda: Chain(bernoulli("rloo"), bernoulli("vimco")),
        ValueError,
        "vimco trains a bound.*estimators of a bound for all layers",
    ),
    "two bounds": (
        lambda: Chain(bernoulli("arms_bound", samples=2, copies=2), bernoulli("vimco", samples=4)),
        ValueError,
        "one bound, of as many samples each; got arms_bound 2, vimco 4",
    ),
    "what layers would share": (
        lambda: Chain(bernoulli("rebar", shared=True), bernoulli("rebar", shared=True)),
        ValueError,
        "leave out shared=True",
    ),
    "a context of a layer of another shape": (
        lambda: Chain(bernoulli("nvil", context_shape=2), bernoulli("nvil"))(
            [lambda x: x, lambda b, x: b],
            lambda b, logits, x: b[0].sum(1),
            torch.zeros(4, 3),
            contexts=[lambda x: x, None],
        ),
        ValueError,
        r"context of layer 0 has shape \(4, 3\), expected \(4, 2\)",
    ),
    "given samples where the control variate needs f": (
        lambda: bernoulli("relax").from_sample(torch.zeros(4, 3), torch.zeros(4, 3), torch.zeros(4)),
        TypeError,
        'surrogate="network"',
    ),
    "one eta for each tensor in RELAX": (
        lambda: bernoulli("relax", granularity="parameter"),
        ValueError,
        "granularity must be layer",
    ),
    "a module for a layer": (lambda: Chain(nn.Linear(2, 3)), TypeError, "one Latent for each layer"),
    "one encoder for two layers": (
        lambda: Chain(bernoulli(), bernoulli())(nn.Linear(2, 3), total, torch.zeros(4, 2)),
        ValueError,
        "one entry for each of the 2 layers",
    ),
    "an encoder that mixes rows": (
        lambda: Chain(bernoulli(), bernoulli())([lambda x: x, lambda b, x: b[:2]], total, torch.zeros(4, 3)),
        ValueError,
        r"encoder 1 returned logits with the batch \(2,\) for 16 rows",
    ),
}


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")  # of forward mode, by torch itself
@pytest.mark.parametrize("case", CALLS)
def test_it_is_refused(case):
    call, error, message = CALLS[case]
    with pytest.raises(error, match=f"(?s){message}"):
        call()


def test_running_statistics_inside_torch_func():
    z = bernoulli("nvil")

    def loss(logits):
        return z(logits, total).loss.sum()

    with pytest.raises(RuntimeError, match=r"call z.eval\(\)"):
        torch.func.grad(loss)(torch.zeros(4, 3))
