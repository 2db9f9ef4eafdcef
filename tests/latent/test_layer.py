"""`Latent` and `Chain` as modules: shapes, modes, distributions, compilation, and what is refused."""

import pytest
import torch
import torch.nn.functional as F
from torch import distributions, nn

from relax_exp import Chain, Latent, estimators
from relax_exp.estimators.pathwise import Pathwise

EVENTS = {"bernoulli": [(3,), (2, 2)], "categorical": [(4,), (2, 3)], "gaussian": [(2,)]}


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("batch", [(), (5,), (2, 3)])
@pytest.mark.parametrize("name", estimators.names())
def test_shapes(name, batch):
    """Any batch dimensions, any event; f sees rows; everything that should has a gradient."""
    for family in estimators.lookup(name).families:
        for event in EVENTS.get(family, ()):
            z = Latent(name, family, event, context_shape=3)
            logits = torch.randn(*batch, *z.parameter_shape, requires_grad=True)
            x, weight = torch.randn(*batch, 3), torch.ones((), requires_grad=True)

            def f(b, x, event=event, weight=weight):
                assert b.shape[1:] == event and x.shape == (len(b), 3)
                return weight * (b.flatten(1).sum(1) - x[:, 0]).square()

            loss, b = z(logits, f, x, context=x, generator=seeded())
            several = (z.samples,) if z.samples > 1 else ()
            assert loss.shape == batch and b.shape == (*several, *batch, *event) and not b.requires_grad
            loss.sum().backward()
            assert logits.grad.shape == logits.shape and weight.grad is not None
            assert all(p.grad is not None for p in z.parameters())
            assert z.sample(logits).shape == b.shape


@pytest.mark.parametrize("name", sorted({*estimators.names("bernoulli"), *estimators.names("categorical")}))
def test_a_masked_class_is_never_drawn_and_everything_stays_finite(name):
    """As `F.gumbel_softmax` takes it: a logit of -inf, for an action that is not allowed."""
    for family in {"bernoulli", "categorical"} & {*estimators.lookup(name).families}:
        options = {"samples": 2} if name == "unordered" else {}  # without replacement, of two that are allowed
        z, w = Latent(name, family, 4, **options), torch.arange(1.0, 5.0)
        logits = torch.tensor([[0.0, 0.5, -torch.inf, 0.0], [1.0, -torch.inf, -torch.inf, 0.2]], requires_grad=True)
        masked = logits.isinf()
        for seed in range(5):
            loss, b = z(logits, lambda b, w=w: (b @ w).square(), generator=seeded(seed))
            (gradient,) = torch.autograd.grad(loss.sum(), logits)
            assert loss.isfinite().all() and gradient.isfinite().all()
            assert not (b * masked).any() and not gradient[masked].any()
        if isinstance(z.estimator, Pathwise):
            s = z.rsample(logits, seeded())
            (gradient,) = torch.autograd.grad((s @ w).sum(), logits)
            assert s.isfinite().all() and gradient.isfinite().all()


def test_rows_of_the_loss_can_be_weighed_and_masked():
    z, w = Latent("disarm", "bernoulli", 3), torch.tensor([0.0, 2.0, -1.0])
    logits = torch.randn(3, 3, requires_grad=True)
    noise = z.noise(3, seeded())

    def gradient(weights):
        loss, _ = z(logits, lambda b: b.sum(1).square(), noise=noise)
        return torch.autograd.grad((loss * weights).sum(), logits)[0]

    torch.testing.assert_close(gradient(w), w.unsqueeze(1) * gradient(torch.ones(3)))


def test_eval_neither_tunes_nor_writes_and_no_grad_makes_no_graph():
    z = Latent("nvil", "bernoulli", 3, context_shape=2)
    logits, x, seen = torch.randn(4, 3, requires_grad=True), torch.randn(4, 2), []

    def f(b):
        seen.append(len(b))
        return b.sum(1)

    before = {k: v.clone() for k, v in z.state_dict().items()}
    z.eval()(logits, f, context=x).loss.sum().backward()
    assert logits.grad is not None and all(p.grad is None for p in z.parameters())
    with torch.no_grad():
        assert not z(logits, f, context=x).loss.requires_grad
    torch.testing.assert_close(dict(z.state_dict()), before)
    z.train()(logits, f, context=x)
    assert z.state_dict()["estimator.running_mean"] != 0
    assert seen == [4, 4, 4]


def test_given_samples_without_a_graph():
    z = Latent("baseline", "bernoulli", 2)
    with torch.no_grad():
        assert not z.from_sample(torch.zeros(3, 2), torch.ones(3, 2), torch.zeros(3)).requires_grad


def test_state_comes_back_and_initial_weights_come_from_the_generator():
    one, two = (Latent("relax", "bernoulli", 3, width=4, generator=seeded(i)) for i in (1, 2))
    assert not torch.equal(*(next(p for p in z.parameters() if p.dim() == 2) for z in (one, two)))
    two.load_state_dict(one.state_dict())
    torch.testing.assert_close(dict(one.state_dict()), dict(two.state_dict()))


def test_precision():
    """Half precision is computed in single, double wants a double Latent where that has networks."""
    z = Latent("relax", "bernoulli", 3, width=4)
    logits = torch.zeros(2, 3, dtype=torch.bfloat16, requires_grad=True)
    loss, b = z(logits, lambda b: b.sum(1))
    loss.sum().backward()
    assert loss.dtype == b.dtype == torch.float32 and logits.grad.dtype == torch.bfloat16
    with pytest.raises(ValueError, match=r"z.to\(logits.dtype\)"):
        z(logits.double(), lambda b: b.sum(1))
    assert z.double()(logits.double(), lambda b: b.sum(1)).loss.dtype == torch.float64
    assert Latent("rloo", "bernoulli", 3)(logits.double(), lambda b: b.sum(1)).loss.dtype == torch.float64


def test_autocast():
    encoder, decoder, z = nn.Linear(3, 4), nn.Linear(4, 3), Latent("relax", "bernoulli", 4, width=8)
    with torch.autocast("cpu", torch.bfloat16):
        loss, _ = z(encoder(torch.rand(5, 3)), lambda b: decoder(b).float().square().sum(1))
        loss.mean().backward()
    assert all(p.grad.dtype == p.dtype for m in (encoder, decoder, z) for p in m.parameters())


@pytest.mark.parametrize(
    ("family", "event", "make", "leaf"),
    [
        ("bernoulli", (3,), lambda a: distributions.Bernoulli(logits=a), (4, 3)),
        ("bernoulli", (3,), lambda a: distributions.Bernoulli(torch.sigmoid(a)), (4, 3)),
        ("bernoulli", (3,), lambda a: distributions.Independent(distributions.Bernoulli(logits=a), 1), (4, 3)),
        ("categorical", (5,), lambda a: distributions.Categorical(logits=a), (4, 5)),
        ("categorical", (2, 5), lambda a: distributions.OneHotCategorical(logits=a), (4, 2, 5)),
        ("gaussian", (2,), lambda a: distributions.Normal(a, a.exp()), (4, 2)),
    ],
)
def test_distributions_stand_for_their_logits(family, event, make, leaf):
    z = Latent("reinforce", family, event)
    a = torch.randn(leaf, generator=seeded()).requires_grad_()
    loss, b = z(make(a), lambda b: b.flatten(1).sum(1), generator=seeded())
    assert b.shape == (4, *event)
    loss.sum().backward()
    score = make(a).log_prob(b.argmax(-1) if isinstance(make(a), distributions.Categorical) else b)
    expected = torch.autograd.grad((loss.detach() * score.reshape(4, -1).sum(1)).sum(), a)[0]
    torch.testing.assert_close(a.grad, expected, rtol=1e-4, atol=1e-5)


def test_rsample_is_a_drop_in_for_gumbel_softmax():
    z, logits = Latent("st_gumbel", "categorical", 4, temperature=1.0), torch.randn(50, 4, requires_grad=True)
    b = z.rsample(logits, generator=seeded())
    assert b.requires_grad and set(b.unique().tolist()) == {0.0, 1.0} and torch.equal(b.sum(1), torch.ones(50))
    (b * torch.arange(4)).sum().backward()
    assert logits.grad.abs().sum() > 0
    with pytest.raises(TypeError, match="call it with f"):
        Latent("relax", "categorical", 4).rsample(logits)


def test_actions_that_were_taken_earlier():
    """The loss of given samples has the score function's gradient; the learned value moves towards the returns."""
    z = Latent("a2c", "categorical", 3, context_shape=2)
    logits, states, returns = torch.randn(6, 3, requires_grad=True), torch.randn(6, 2), torch.randn(6)
    actions = z.sample(logits)
    loss = z.from_sample(logits, actions, -returns, context=states)
    loss.mean().backward()
    signal = -returns - z.estimator.value(states).detach()
    expected = signal.unsqueeze(1) * (actions - logits.detach().softmax(1)) / 6
    torch.testing.assert_close(logits.grad, expected)
    assert all(p.grad is not None for p in z.parameters())


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # torch's, while it traces
@pytest.mark.parametrize(("name", "options"), [("relax", {"width": 4}), ("rloo", {})])
def test_compiled(name, options):
    """One graph without breaks, and the same gradients."""
    encoder, decoder, z = nn.Linear(5, 4), nn.Linear(4, 5), Latent(name, "bernoulli", 4, **options)
    weights = [p for m in (encoder, decoder, z) for p in m.parameters()]
    x, noise = torch.rand(6, 5).round(), z.noise(6)

    def loss(x, noise):
        def f(b, x):
            return F.binary_cross_entropy_with_logits(decoder(b), x, reduction="none").sum(1)

        return z(encoder(x), f, x, noise=noise).loss.mean()

    expected = torch.autograd.grad(loss(x, noise), weights)
    got = torch.autograd.grad(torch.compile(loss, fullgraph=True, backend="aot_eager")(x, noise), weights)
    torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("name", estimators.names("bernoulli"))
def test_vmapped_over_models(name):
    """Two models side by side under torch.func, as an ensemble is trained: each gets its own gradients."""
    z = Latent(name, "bernoulli", 3).eval()
    logits, w = torch.randn(2, 4, 3), torch.randn(2, 3)
    noise = [z.noise(4, seeded(i)) for i in range(2)]
    stacked = {k: torch.stack([n[k] for n in noise]) for k in noise[0]}

    def total(logits, w, noise):
        return z(logits, lambda b: (b @ w).square(), noise=noise).loss.sum()

    both = torch.func.vmap(torch.func.grad(total, argnums=(0, 1)))(logits, w, stacked)
    for i in range(2):
        each = torch.func.grad(total, argnums=(0, 1))(logits[i], w[i], noise[i])
        torch.testing.assert_close(tuple(g[i] for g in both), each)


@pytest.mark.parametrize("name", estimators.names("bernoulli"))
def test_batch_norm_in_f_works_or_is_refused_with_a_sentence(name):
    z, norm = Latent(name, "bernoulli", 3), nn.BatchNorm1d(3)
    logits = torch.randn(8, 3, requires_grad=True)

    def f(b):
        return norm(b).square().sum(1) + b.sum(1)

    differentiates = name in ("muprop", "rebar", "relax", "double_cv", "rodeo")
    if differentiates:
        with pytest.raises(RuntimeError, match=r"BatchNorm.*track_running_stats=False"):
            z(logits, f)
        norm = nn.BatchNorm1d(3, track_running_stats=False)
    z(logits, f).loss.mean().backward()
    assert logits.grad.abs().sum() > 0


@pytest.mark.parametrize("name", ["relax", "rebar", "disarm", "rloo", "vimco", "nvil", "st_gumbel"])
def test_two_layers_train(name):
    """The bound of a toy model with two layers rises, and every parameter moves."""
    torch.manual_seed(0)
    x = (torch.rand(64, 6) < torch.tensor([0.9, 0.9, 0.9, 0.1, 0.1, 0.1])).float()
    x = torch.where(torch.rand(64, 1) < 0.5, x, 1 - x)
    enc1, enc2, dec1, dec2, prior = nn.Linear(6, 4), nn.Linear(4, 2), nn.Linear(4, 6), nn.Linear(2, 4), torch.zeros(2)
    options = {"width": 8} if name == "relax" else {}
    z = Chain(Latent(name, "bernoulli", 4, **options), Latent(name, "bernoulli", 2, **options), score_term=False)
    weights = [*(p for m in (enc1, enc2, dec1, dec2, z) for p in m.parameters()), prior.requires_grad_()]
    optimizer = torch.optim.Adam(weights, lr=0.02)

    def bce(logits, b):
        return F.binary_cross_entropy_with_logits(logits, b, reduction="none").sum(-1)

    def f(b, q, x):
        b1, b2 = b
        p = bce(dec1(b1), x) + bce(dec2(b2), b1) + bce(prior.expand_as(b2), b2)
        return p - bce(q[0], b1) - bce(q[1], b2)

    losses = []
    for _ in range(150):
        loss, (b1, b2) = z([enc1, lambda b1, x: enc2(b1)], f, x)
        assert loss.shape == (64,) and b1.shape[-2:] == (64, 4) and b2.shape[-2:] == (64, 2)
        optimizer.zero_grad()
        loss.mean().backward()
        optimizer.step()
        losses.append(loss.detach().mean().item())
    assert all(p.grad is not None for p in weights)
    assert sum(losses[-20:]) / 20 < sum(losses[:5]) / 5 - 0.5


def test_a_gaussian_layer_over_a_discrete_one():
    chain = Chain(Latent("rloo", "bernoulli", 3), Latent("reparameterization", "gaussian", 2))
    first, second = nn.Linear(4, 3), nn.Linear(3, 4)
    encoders = [first, lambda b, x: second(b).reshape(len(b), 2, 2)]
    loss, (b, s) = chain(encoders, lambda b, _, x: (b[0].sum(1) - b[1].sum(1)).square(), torch.randn(5, 4))
    loss.mean().backward()
    assert b.shape == (4, 5, 3) and s.shape == (4, 5, 2)
    assert all(p.grad.abs().sum() > 0 for m in (first, second) for p in m.parameters())
