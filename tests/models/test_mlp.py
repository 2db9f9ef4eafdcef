"""The small networks: initial weights, shapes, and the split first layer of the surrogate."""

import math

import pytest
import torch

from relax_exp.models.mlp import MLP, Linear, Surrogate, glorot_


@pytest.fixture(autouse=True)
def _seed():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


@pytest.mark.parametrize("fan_in", [None, 50])
def test_glorot_weights_fill_their_interval(fan_in):
    weight = glorot_(torch.empty(30, 20), fan_in)
    bound = math.sqrt(6 / ((fan_in or 20) + 30))
    assert weight.abs().max() <= bound
    assert weight.abs().max() > 0.97 * bound
    assert weight.std() == pytest.approx(bound / math.sqrt(3), rel=0.1)


def test_linear_maps_begin_without_a_constant():
    assert Linear(3, 4).bias.abs().max() == 0
    assert Linear(3, 4, bias=False).bias is None


@pytest.mark.parametrize("depth", [0, 1, 3])
@pytest.mark.parametrize("lead", [(), (7,), (2, 7)])
def test_a_network_maps_shapes_and_has_its_depth(depth, lead):
    network = MLP((2, 3), width=5, depth=depth, activation="tanh", output_shape=(4, 2))
    assert network(torch.rand(*lead, 2, 3)).shape == (*lead, 4, 2)
    assert len(network.hidden) == depth and all(layer.out_features == 5 for layer in network.hidden)


def test_a_network_is_its_formula():
    network, x = MLP((3,), width=5, depth=1, activation="elu"), torch.randn(6, 3)
    hidden = torch.nn.functional.elu(x @ network.hidden[0].weight.T + network.hidden[0].bias)
    torch.testing.assert_close(network(x), (hidden @ network.out.weight.T + network.out.bias).squeeze(-1))


def test_the_surrogate_is_one_network_of_z_and_the_context_together():
    surrogate, z, context = Surrogate((3,), (2, 2), width=5, depth=2), torch.randn(6, 3), torch.randn(6, 2, 2)
    weight = torch.cat([surrogate.from_z.weight, surrogate.from_context.weight], 1)
    hidden = torch.relu(torch.cat([z, context.flatten(1)], 1) @ weight.T + surrogate.from_z.bias)
    hidden = torch.relu(surrogate.hidden[0](hidden))
    torch.testing.assert_close(surrogate(z, surrogate.features(context)), surrogate.out(hidden).squeeze(-1))
    bound = math.sqrt(6 / (3 + 4 + 5))  # both parts are initialised as parts of the whole
    assert weight.abs().max() <= bound


def test_a_surrogate_of_no_hidden_layer_is_an_affine_map():
    surrogate, z, context = Surrogate((3,), (2,), width=5, depth=0), torch.randn(6, 3), torch.randn(6, 2)
    weight = torch.cat([surrogate.from_z.weight, surrogate.from_context.weight], 1)
    wanted = torch.cat([z, context], 1) @ weight.T + surrogate.from_z.bias
    torch.testing.assert_close(surrogate(z, surrogate.features(context)), wanted.squeeze(-1))
    assert sum(p.numel() for p in surrogate.parameters()) == 3 + 2 + 1


def test_the_surrogate_takes_a_context_exactly_where_it_was_built_for_one():
    assert Surrogate((3,), None, width=5, depth=1).features(None) == 0.0
    with pytest.raises(ValueError, match="pass context="):
        Surrogate((3,), (2,), width=5, depth=1).features(None)


def test_the_surrogate_takes_several_z_for_one_context():
    surrogate, z, context = Surrogate((3, 4), (2,), width=5, depth=1), torch.randn(2, 6, 3, 4), torch.randn(6, 2)
    both = surrogate(z, surrogate.features(context))
    assert both.shape == (2, 6)
    torch.testing.assert_close(both[1], surrogate(z[1], surrogate.features(context)))
