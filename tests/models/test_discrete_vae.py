"""The variational autoencoder as a model: its densities sum to one, its terms make up the bound, its options hold."""

import pytest
import torch

from relax_exp.distributions import Bernoulli
from relax_exp.models.vae import DiscreteVAE, Layer, network

PIXELS = 5
BITS, WORDS = Layer("bernoulli", (3,)), Layer("categorical", (2, 3))
MODELS = {
    "bits": [BITS],
    "words": [WORDS],
    "bits over bits": [BITS, Layer("bernoulli", (2,))],
    "bits over words": [WORDS, BITS],
}


@pytest.fixture(params=MODELS)
def vae(request):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        built = DiscreteVAE(MODELS[request.param], torch.rand(PIXELS)).double()
        torch.nn.init.normal_(built.prior)
    return built


@pytest.fixture
def x():
    return (torch.rand(4, PIXELS, generator=torch.Generator().manual_seed(1)) > 0.5).double()


def states(vae, layer):
    """All samples of a layer: ``(S, *shape)``."""
    return vae.families[layer].enumerate(vae.layers[layer].shape, dtype=torch.float64)


def test_prior_and_likelihood_are_distributions(vae):
    top = vae.depth - 1
    torch.testing.assert_close(vae.log_prior(states(vae, top)).exp().sum(), torch.tensor(1.0, dtype=torch.float64))
    images = Bernoulli.enumerate((PIXELS,), dtype=torch.float64)
    total = vae.log_p(0, states(vae, 0)[-1], images).exp().sum()
    torch.testing.assert_close(total, torch.tensor(1.0, dtype=torch.float64))


def test_layers_below_are_distributions_given_those_above(vae):
    for layer in range(1, vae.depth):
        total = vae.log_p(layer, states(vae, layer)[0], states(vae, layer - 1)).exp().sum()
        torch.testing.assert_close(total, torch.tensor(1.0, dtype=torch.float64))


def test_the_chain_collects_what_the_bound_is_made_of(vae, x):
    def convert(layer, logits):
        return vae.families[layer].hard(logits)

    logits, samples, log_q, log_p, log_prior = vae.chain(x, convert)
    assert [tuple(s.shape) for s in samples] == [(4, *layer.shape) for layer in vae.layers]
    below = [x, *samples]
    for layer in range(vae.depth):
        torch.testing.assert_close(logits[layer], vae.encode(layer, below[layer]))
        torch.testing.assert_close(log_q[layer], vae.families[layer].log_prob(logits[layer], samples[layer]))
        torch.testing.assert_close(log_p[layer], vae.log_p(layer, samples[layer], below[layer]))
    torch.testing.assert_close(log_prior, vae.log_prior(samples[-1]))
    elbo = log_prior + sum(log_p) - sum(log_q)
    torch.testing.assert_close(vae.above(0, samples[0], logits[0], x, convert, x), -elbo)


def test_logits_that_are_known_are_not_computed_again(vae, x):
    known = torch.zeros_like(vae.encode(0, x))
    logits, *_ = vae.chain(x, lambda layer, logits: vae.families[layer].hard(logits), known)
    assert logits[0] is known


def test_without_divergence_the_relaxed_loss_is_the_reconstruction(vae, x):
    def convert(layer, logits):
        return vae.families[layer].mean(logits)

    loss, logits = vae.relaxed(x, convert, lambda layer, q, p, s: torch.zeros(len(x), dtype=x.dtype))
    torch.testing.assert_close(logits, vae.encode(0, x))
    torch.testing.assert_close(loss, -vae.log_p(0, convert(0, logits), x))


def test_draws_from_the_prior_are_probabilities(vae):
    pixels = vae.generate([torch.rand(6, *layer.shape, dtype=torch.float64) for layer in vae.layers])
    assert pixels.shape == (6, PIXELS) and (pixels > 0).all() and (pixels < 1).all()


def test_bits_are_coded_by_their_sign_and_input_is_centred():
    vae = DiscreteVAE([BITS], torch.full((PIXELS,), 0.25))
    torch.testing.assert_close(vae.code(-1, torch.ones(1, PIXELS)), torch.full((1, PIXELS), 0.75))
    torch.testing.assert_close(vae.code(0, torch.tensor([[0.0, 1.0, 0.5]])), torch.tensor([[-1.0, 1.0, 0.0]]))
    plain = DiscreteVAE([BITS], torch.full((PIXELS,), 0.25), centred=False)
    torch.testing.assert_close(plain.code(-1, torch.ones(1, PIXELS)), torch.ones(1, PIXELS))
    assert plain.pixel_bias.abs().max() == 0 and vae.pixel_bias.min() < 0


def test_a_pinned_variable_has_its_first_logit_at_zero():
    vae = DiscreteVAE([WORDS], torch.rand(PIXELS), pinned=True)
    logits = vae.encode(0, torch.rand(4, PIXELS))
    assert logits.shape == (4, 2, 3) and logits[..., 0].abs().max() == 0 and logits[..., 1:].abs().min() > 0


def test_a_uniform_prior_is_not_learned():
    vae = DiscreteVAE([BITS], torch.rand(PIXELS), learned_prior=False)
    assert "prior" not in dict(vae.named_parameters()) and vae.prior.abs().max() == 0


def test_the_decoder_mirrors_the_encoder_unless_told_otherwise():
    def widths(part):
        return [layer.out_features for layer in part if hasattr(layer, "out_features")]

    vae = DiscreteVAE([BITS], torch.rand(PIXELS), hidden=(8, 7))
    assert widths(vae.encoder[0]) == [8, 7, 3] and widths(vae.decoder[0]) == [7, 8, PIXELS]
    other = DiscreteVAE([BITS], torch.rand(PIXELS), hidden=(8,), decoder_hidden=(6, 4))
    assert widths(other.decoder[0]) == [6, 4, PIXELS]


def test_a_map_without_hidden_layers_is_linear():
    linear, x = network(3, 2, (), "tanh"), torch.rand(4, 3)
    torch.testing.assert_close(linear(2 * x) - linear(x), linear(x) - linear(torch.zeros_like(x)))


def test_methods_are_called_by_name(vae, x):
    torch.testing.assert_close(vae("encode", 0, x), vae.encode(0, x))
