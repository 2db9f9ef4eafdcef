"""What every registered estimator promises, whatever it is: shapes, purity, vmap, compilation, edges, errors."""

import pickle

import pytest
import torch
from torch.func import functional_call, stack_module_state, vmap

from relax_exp import estimators
from relax_exp.distributions import FAMILIES
from relax_exp.estimators.base import Objective
from relax_exp.numerics.random_streams import stream

SHAPES = {
    "bernoulli": (3,),
    "categorical": (2, 3),
    "gaussian": (2,),
    "permutation": (3,),
    "subset": (4, 2),
    "top_k": (4, 2),
}
SMALLEST = {
    "bernoulli": (1,),
    "categorical": (1, 2),
    "gaussian": (1,),
    "permutation": (1,),
    "subset": (2, 1),
    "top_k": (2, 1),
}
ALL = [(name, family) for name, entry in estimators.REGISTRY.items() for family in entry.families]
DISCRETE = [(name, family) for name, family in ALL if family != "gaussian"]
VARIANTS = [(n, f, o) for n, f in ALL for o in estimators.lookup(n).variants]
ROWS = 4


def made(name, family, shape=None, seed=0, dtype=torch.float32, context=(5,), **options):
    shape = shape or SHAPES[family]
    generator = stream(seed, f"contract {name}")
    est = estimators.build(name, family, shape, context, generator, **options).to(dtype)
    logits = torch.randn((ROWS, *est.family.parameter_shape(shape)), generator=generator, dtype=dtype)
    context = torch.randn((ROWS, 5), generator=generator, dtype=dtype)
    return est, logits, est.noise(ROWS, generator, dtype=dtype), context


def loss_of(family):
    """A smooth, non-separable loss for samples of the family."""
    dims = FAMILIES[family].event_dims

    def f(b):
        x = b.flatten(-dims)
        position = torch.arange(x.shape[-1], dtype=x.dtype, device=x.device)
        return torch.sin(x + position).sum(-1).square() + (x * position.cos()).sum(-1)

    return f


@pytest.mark.parametrize(("name", "family", "options"), VARIANTS, ids=str)
def test_output_has_the_promised_shapes(name, family, options):
    est, logits, noise, context = made(name, family, **options)
    assert {k: v.shape for k, v in noise.items()} == {k: torch.Size(s) for k, s in est.noise_shapes(ROWS).items()}
    out = est(logits, loss_of(family), noise=noise, context=context)
    assert out.grad.shape == logits.shape and out.loss.shape == (ROWS,)
    assert out.grad.dtype == logits.dtype
    assert out.sample.shape[-est.family.event_dims :] == est.family.sample_shape(est.event_shape)
    assert est.tuning_loss(out).shape == ()
    assert set(out.buffers) <= {k for k, _ in est.named_buffers()}
    assert est.needs in ("value", "gradient", "relaxed") and est.target in ("mean", "bound", "path")
    assert est.needs == estimators.needs(name, options)


@pytest.mark.parametrize(("name", "family"), ALL)
def test_a_generator_is_shorthand_for_the_noise_and_nothing_touches_the_global_state(name, family):
    before = torch.random.get_rng_state()
    est, logits, _, context = made(name, family)
    by_generator = est(logits, loss_of(family), generator=stream(1, "x"), context=context)
    noise = est.noise(ROWS, stream(1, "x"), dtype=logits.dtype)
    state = {k: v.clone() for k, v in est.state_dict().items()}
    by_noise = est(logits, loss_of(family), noise=noise, context=context)
    assert torch.equal(by_generator.grad, by_noise.grad)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(v, state[k]) for k, v in est.state_dict().items()), "a call must not change the module"


@pytest.mark.parametrize(("name", "family"), ALL)
def test_given_losses_at_the_sample_change_nothing(name, family):
    """A task with several layers evaluates f once, at ``est.sample``, and passes it as f_b."""
    est, logits, noise, context = made(name, family, dtype=torch.float64)
    f = loss_of(family)
    out = est(logits, f, noise=noise, context=context)
    given = est(logits, f, noise=noise, context=context, f_b=f(est.sample(logits, noise)))
    torch.testing.assert_close(out.grad, given.grad, rtol=1e-9, atol=1e-12)
    if name != "exact":  # whose own loss is the expectation
        torch.testing.assert_close(out.loss, given.loss)


@pytest.mark.parametrize(("name", "family"), ALL)
def test_tuning_loss_reaches_every_parameter_and_only_tuned_ones_have_any(name, family):
    est, logits, noise, context = made(name, family)
    out = est(logits, loss_of(family), noise=noise, context=context)
    value = est.tuning_loss(out)
    assert est.tuned == bool(list(est.parameters()))
    if est.tuned:
        grads = torch.autograd.grad(value, list(est.parameters()), allow_unused=True)
        missing = [n for (n, _), g in zip(est.named_parameters(), grads, strict=True) if g is None]
        assert not missing
        assert any(g.abs().sum() > 0 for g in grads)


@pytest.mark.parametrize(("name", "family"), ALL)
def test_gradient_is_a_number_to_the_logits_and_the_loss_is_not(name, family):
    """tuning_loss(out).backward() must not reach the model; out.loss must, where f depends on the logits directly."""
    est, logits, noise, context = made(name, family, dtype=torch.float64)
    logits.requires_grad_()
    of_sample, logits_shape = loss_of(family), est.family.parameter_shape(est.event_shape)

    def f(b, logits):
        return of_sample(b) + logits.square().flatten(-len(logits_shape)).sum(-1)

    out = est(logits, Objective(f, f, f), noise=noise, context=context)
    if out.grad.requires_grad:
        assert torch.autograd.grad(out.grad.sum(), logits, allow_unused=True, retain_graph=True)[0] is None
    (direct,) = torch.autograd.grad(out.loss.sum(), logits)
    torch.testing.assert_close(direct, 2 * logits.detach())


@pytest.mark.parametrize(("name", "family"), ALL)
def test_gradient_from_a_sample_of_the_tasks_own_is_a_number_to_the_logits(name, family):
    options = {"surrogate": "network"} if name == "relax" else {}
    est, logits, noise, context = made(name, family, dtype=torch.float64, **options)
    b = est.sample(logits, noise)
    f_b = loss_of(family)(b)
    try:
        out = est.from_sample(logits.requires_grad_(), b, f_b, noise, context)
    except TypeError as error:
        assert "call it with f" in str(error)
        return
    assert out.grad.shape == logits.shape
    if out.grad.requires_grad:
        assert torch.autograd.grad(out.grad.sum(), logits, allow_unused=True)[0] is None


@pytest.mark.parametrize(("name", "family"), ALL)
def test_replicas_by_vmap_equal_separate_calls(name, family):
    built = [made(name, family, seed=s, dtype=torch.float64) for s in range(3)]
    modules = [b[0] for b in built]
    params, buffers = stack_module_state(modules)
    logits, context = (torch.stack([b[i] for b in built]) for i in (1, 3))
    noise = {k: torch.stack([b[2][k] for b in built]) for k in built[0][2]}
    f = loss_of(family)

    def one(params, buffers, logits, noise, context):
        return functional_call(modules[0], (params, buffers), (logits, f), {"noise": noise, "context": context})

    together = vmap(one)(params, buffers, logits, noise, context)
    for i, (est, own_logits, own_noise, own_context) in enumerate(built):
        alone = est(own_logits, f, noise=own_noise, context=own_context)
        torch.testing.assert_close(together.grad[i], alone.grad, rtol=1e-9, atol=1e-10)
        torch.testing.assert_close(together.loss[i], alone.loss, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize(("name", "family"), ALL)
def test_compiled_equals_eager(name, family):
    compare_compiled(name, family, "aot_eager")


@pytest.mark.slow
@pytest.mark.parametrize(("name", "family"), [("relax", "bernoulli"), ("arsm", "categorical")])
def test_compiled_by_inductor_equals_eager(name, family):
    compare_compiled(name, family, "inductor")


def compare_compiled(name, family, backend):
    est, logits, noise, context = made(name, family)
    f = loss_of(family)
    state = {k: v.detach() for k, v in est.state_dict().items()}

    def call(state, logits, noise, context):
        out = functional_call(est, state, (logits, f), {"noise": noise, "context": context})
        return out.grad, out.loss, est.tuning_loss(out)

    torch._dynamo.reset()
    with torch.no_grad():
        eager = call(state, logits, noise, context)
        compiled = torch.compile(call, backend=backend, fullgraph=True)(state, logits, noise, context)
    for left, right in zip(compiled, eager, strict=True):
        torch.testing.assert_close(left, right, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("name", "family"), ALL)
def test_pickles(name, family):
    est, logits, noise, context = made(name, family)
    copy = pickle.loads(pickle.dumps(est))
    f = loss_of(family)
    left, right = (e(logits, f, noise=noise, context=context).grad for e in (est, copy))
    assert torch.equal(left, right)


def finite(name, family, shape=None, change=None, f=None, rows=ROWS, options=None, dtype=torch.float32):
    est, logits, noise, context = made(name, family, shape, dtype=dtype, **(options or {}))
    if change is not None:
        logits = change(logits)
    noise = est.noise(rows, stream(3, "edge"), dtype=dtype)
    out = est(logits[:rows], f or loss_of(family), noise=noise, context=context[:rows])
    assert out.grad.isfinite().all() and out.loss.isfinite().all()
    if est.tuned:
        grads = torch.autograd.grad(est.tuning_loss(out), list(est.parameters()), allow_unused=True)
        assert all(g is None or g.isfinite().all() for g in grads)
    return out


@pytest.mark.parametrize(("name", "family"), DISCRETE)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_extreme_logits(name, family, dtype):
    finite(name, family, change=lambda logits: 50 * logits.sign(), dtype=dtype)


@pytest.mark.parametrize(("name", "family"), ALL)
def test_one_row_and_one_variable(name, family):
    finite(name, family, shape=SMALLEST[family], rows=1)


@pytest.mark.parametrize("name", estimators.names("categorical"))
def test_a_thousand_categories(name):
    if name in ("arsm", "arsm_plus"):
        with pytest.raises(ValueError, match="the limit is"):
            made(name, "categorical", (1, 1000))
        return
    finite(name, "categorical", (1, 1000))


@pytest.mark.parametrize(("name", "family"), DISCRETE)
def test_constant_loss(name, family):
    """Its gradient is zero; in expectation for REINFORCE, exactly wherever differences of f are taken."""
    out = finite(name, family, f=lambda b: 0 * loss_of(family)(b) + 3.0)
    if name in ("rloo", "arm", "disarm", "arms", "ars", "arsm", "bitflip", "local_expectation", "exact", "vimco"):
        assert out.grad.abs().max() < 1e-5


@pytest.mark.parametrize(("name", "family"), DISCRETE)
def test_huge_losses(name, family):
    finite(name, family, f=lambda b: 1e12 * loss_of(family)(b))


COLD = [(n, f) for n, f in DISCRETE if n in ("concrete", "st_gumbel", "gumbel_rao", "rebar", "relax", "decoupled_st")]


@pytest.mark.parametrize(("name", "family"), COLD)
@pytest.mark.parametrize("size", [1.0, 50.0])
def test_low_temperature(name, family, size):
    finite(name, family, options={"temperature": 1e-3}, change=lambda logits: size * logits)


@pytest.mark.parametrize(("name", "family"), DISCRETE)
def test_loss_in_bfloat16_autocast(name, family):
    shape = FAMILIES[family].sample_shape(SHAPES[family])
    weights = torch.randn((*shape, 4), generator=stream(0, "autocast"))
    dims = len(shape)

    def f(b):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            hidden = b.flatten(-dims) @ weights.flatten(0, dims - 1)
        return hidden.float().square().sum(-1)

    finite(name, family, f=f)


@pytest.mark.parametrize(("name", "family"), ALL)
def test_a_loss_of_the_wrong_shape_is_named(name, family):
    est, logits, noise, context = made(name, family)
    with pytest.raises(ValueError, match=type(est).__name__):
        est(logits, lambda b: b.sum(), noise=noise, context=context)


@pytest.mark.parametrize(("name", "family"), ALL)
def test_logits_of_the_wrong_shape_are_named(name, family):
    est, logits, noise, context = made(name, family)
    with pytest.raises(ValueError, match=type(est).__name__):
        est(logits[..., :-1], loss_of(family), noise=noise, context=context)


@pytest.mark.parametrize(("name", "family"), [(n, f) for n, f in ALL if estimators.lookup(n).needs != "value"])
def test_a_loss_that_cannot_be_differentiated_is_an_error(name, family):
    est, logits, noise, context = made(name, family)
    with pytest.raises(ValueError, match=f"{type(est).__name__} differentiates f"):
        est(logits, lambda b: loss_of(family)(b.detach()), noise=noise, context=context)


@pytest.mark.parametrize(("name", "family"), [(n, f) for n, f in ALL if estimators.lookup(n).needs == "value"])
def test_a_black_box_is_enough_where_values_are_needed(name, family):
    """f leaves torch for numpy: nothing may differentiate or trace it."""
    est, logits, noise, context = made(name, family)
    f = loss_of(family)
    out = est(logits, lambda b: torch.from_numpy(f(b.detach()).numpy()), noise=noise, context=context)
    assert torch.equal(out.grad, est(logits, f, noise=noise, context=context).grad)


def test_unknown_names_and_families():
    with pytest.raises(ValueError, match=r"did you mean relax\?"):
        estimators.build("relaxx")
    with pytest.raises(ValueError, match="not offered for categorical"):
        estimators.build("disarm", "categorical", (1, 3))
    with pytest.raises(TypeError):
        estimators.build("reinforce", temperature=1.0)
