"""Gradients through `Latent` and `Chain` against enumeration: encoder, decoder, prior, and tuning parameters."""

import pytest
import torch
from small_models import EVENTS, OneLayer, TwoLayers

from relax_exp import estimators
from relax_exp.enumeration.checks import compare
from relax_exp.testing import threshold

DRAWS = 6000
CELLS = [
    pytest.param(name, family, options, id=f"{name} {family} {' '.join(map(str, options.values()))}")
    for name, entry in estimators.REGISTRY.items()
    for family in entry.families
    if family in EVENTS
    for options in entry.variants
    if options.get("granularity") != "parameter"
]


def is_unbiased(name, family, options):
    shape = EVENTS[family] if family == "bernoulli" else (1, *EVENTS[family])
    return estimators.build(name, family, shape, **options).unbiased


UNBIASED = [cell for cell in CELLS if is_unbiased(*cell.values)]
LIMIT = threshold(40 * 2 * len(UNBIASED))  # of all coordinates of all tests in this file, and more


def largest_z(model, draws=DRAWS):
    generator = torch.Generator().manual_seed(0)
    model.z.eval() if isinstance(model, OneLayer) else model.chain.eval()
    return compare(model.drawn, model.noise_shapes(), model.exact(), draws, generator, draws).largest_z


@pytest.mark.parametrize(("name", "family", "options"), UNBIASED)
def test_one_layer_against_enumeration(name, family, options):
    assert largest_z(OneLayer(name, family, options)) < LIMIT


@pytest.mark.parametrize(("name", "family", "options"), [cell for cell in UNBIASED if cell.values[0] != "unordered"])
def test_two_layers_against_enumeration(name, family, options):
    """Without the score term of log q, where its mean is zero."""
    assert largest_z(TwoLayers([(name, family, options)] * 2, score_term=False)) < LIMIT


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (("relax", "categorical", {"width": 8}), ("rebar", "bernoulli", {})),
        (("disarm", "bernoulli", {}), ("relax", "categorical", {"width": 8, "surrogate": "network"})),
        (("rebar", "bernoulli", {"noise": "tied"}), ("reinforce", "categorical", {})),
    ],
)
def test_layers_with_different_estimators(first, second):
    assert largest_z(TwoLayers([first, second], score_term=True)) < LIMIT


@pytest.mark.parametrize("detach", [True, False])
def test_the_score_term_of_log_q_may_stay_or_go_where_f_is_averaged(detach):
    assert largest_z(OneLayer("rloo", "bernoulli", {}, detach=detach)) < LIMIT


def test_a_bound_needs_the_gradient_of_log_q():
    """VIMCO's weights depend on log q: with `logits` it is right (above), with `logits.detach()` it is not."""
    assert largest_z(OneLayer("vimco", "bernoulli", {"samples": 2}, detach=True), 20_000) > 2 * LIMIT


def test_the_check_can_fail():
    model = OneLayer("rloo", "bernoulli", {})
    correct = model.z.estimator.signal
    model.z.estimator.signal = lambda f_b, context: (1.3 * correct(f_b, context)[0], {}, {})
    assert largest_z(model, 20_000) > 2 * LIMIT


def parts(name, family, options, seed=0):
    """A model in train mode with parameters that ask for gradients, and the noise of one call."""
    model = OneLayer(name, family, options)
    for p in model.params.values():
        p.requires_grad_()
    return model, model.z.noise(2, torch.Generator().manual_seed(seed), like=model.x)


@pytest.mark.parametrize(("name", "family", "options"), CELLS)
def test_the_decoders_gradient_is_the_plain_one(name, family, options):
    """f's own parameters get the gradient of f at the sample and nothing of the control variate or its tuning."""
    model, noise = parts(name, family, options)
    logits = model.logits(model.params, 0, model.x)

    def f(b, x):
        return -model.log_joint(model.params, [b], x)

    loss, b = model.z(logits, f, model.x, context=model.x, noise=noise)
    (3 * loss).sum().backward()
    decoder = [model.params[k] for k in ("W", "w", "prior")]
    got = [p.grad.clone() for p in decoder]
    if name == "exact":
        states = model.z.family.enumerate(model.z.flat_event, dtype=torch.float64).reshape(-1, *EVENTS[family])
        values = torch.stack([f(s.expand(2, *s.shape), model.x) for s in states])
        probabilities = torch.stack([model.log_q(0, logits, s.expand(2, *s.shape)).exp() for s in states])
        plain = (probabilities.detach() * values).sum(0)
    elif name == "unordered":
        pytest.skip("its samples are weighed by their probabilities")
    else:
        lead = b.shape[:-2]
        values = f(b.flatten(0, -2), model.x.expand(*lead, 2, 2).flatten(0, -2)).reshape(*lead, 2)
        plain = model.z.estimator.loss_of(values)
    expected = torch.autograd.grad(3 * plain.sum(), decoder)
    torch.testing.assert_close(got, list(expected))
    torch.testing.assert_close(loss, plain)


@pytest.mark.parametrize(
    ("name", "family", "options"),
    [cell for cell in UNBIASED if next(OneLayer(*cell.values).z.parameters(), None) is not None],
)
def test_tuning_gradients_are_those_of_the_tuning_loss(name, family, options):
    """Against finite differences at the same noise, whatever the loss is multiplied with."""
    model, noise = parts(name, family, options)
    z, own = model.z, list(model.z.parameters())
    buffers = {k: v.clone() for k, v in z.named_buffers()}
    (1000 * model.losses(model.params, noise)).sum().backward()
    generator = torch.Generator().manual_seed(2)
    direction = [torch.randn(p.shape, generator=generator, dtype=p.dtype) for p in own]
    z.load_state_dict(buffers, strict=False)
    logits = model.logits(model.params, 0, model.x).detach()

    def f(b):
        rows = b.reshape(-1, *b.shape[-len(z.flat_event) :])
        x, inside = (
            t.expand(*b.shape[: b.dim() - len(z.flat_event) - 1], *t.shape).reshape(len(rows), -1)
            for t in (model.x, logits)
        )
        rows = rows.reshape(-1, *z.event_shape)
        value = model.log_q(0, inside, rows) - model.log_joint(model.params, [rows], x)
        return value.reshape(b.shape[: b.dim() - len(z.flat_event)])

    def at(step):
        with torch.no_grad():
            for p, d in zip(own, direction, strict=True):
                p += step * d
        flat = logits.reshape(2, *z.family.parameter_shape(z.flat_event))
        value = z.estimator.tuning_loss(z.estimator(flat, f, noise=noise, context=model.x)).detach()
        with torch.no_grad():
            for p, d in zip(own, direction, strict=True):
                p -= step * d
        return value.item()

    slope = (at(1e-6) - at(-1e-6)) / 2e-6
    assert slope == pytest.approx(
        float(sum((p.grad * d).sum() for p, d in zip(own, direction, strict=True))), rel=1e-5, abs=1e-8
    )


def test_gradients_are_the_same_under_torch_func():
    """Ordinary autograd and torch.func take different ways to the tuning gradient."""
    model, noise = parts("relax", "bernoulli", {"width": 8})
    model.losses(model.params, noise).sum().backward()
    own = dict(model.z.named_parameters())

    def total(params, own):
        logits = model.logits(params, 0, model.x)

        def f(b, x, logits):
            return model.log_q(0, logits, b) - model.log_joint(params, [b], x)

        call = (logits, f, model.x, logits.detach())
        return torch.func.functional_call(model.z, own, call, {"context": model.x, "noise": noise}).loss.sum()

    params, tuning = torch.func.grad(total, argnums=(0, 1))(model.params, own)
    torch.testing.assert_close(params, {k: p.grad for k, p in model.params.items()})
    torch.testing.assert_close(tuning, {k: p.grad for k, p in own.items()})
