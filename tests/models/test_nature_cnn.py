"""The convolutional network of Atari: forward, the backward pass written out, packed weights."""

import pytest
import torch
from torch.utils._pytree import tree_leaves

from relax_exp.models.nature_cnn import _backward, as_applied, init_nature, nature, packed, pull_back
from relax_exp.numerics import onednn as products
from relax_exp.numerics.random_streams import stream


def test_the_activations_of_the_rollout_serve_the_backward_pass():
    params = {k: v.double().requires_grad_() for k, v in init_nature(3, stream(0, "init")).items()}
    observations = torch.randint(0, 256, (3, 4, 84, 84), generator=stream(0, "x"), dtype=torch.uint8)
    at_logits, at_values = torch.randn(3, 3, dtype=torch.float64), torch.randn(3, dtype=torch.float64)
    seen = nature(params, observations)
    total = (seen.logits * at_logits).sum() + (seen.values * at_values).sum()
    plain = torch.autograd.grad(total, list(params.values()))
    ours = pull_back(params, seen, at_logits, at_values)
    assert list(ours) == list(params)
    for expected, got in zip(plain, ours.values(), strict=True):
        assert torch.allclose(got, expected, rtol=1e-10, atol=1e-12 * expected.abs().max().item())


onednn = pytest.mark.skipif(
    not all(hasattr(torch.ops.mkldnn, name) for name in products.OPERATORS), reason="needs a PyTorch with oneDNN"
)


@onednn
def test_packed_weights_and_a_second_thread_change_nothing(monkeypatch):
    monkeypatch.setattr(products, "useful", lambda: True)
    params = init_nature(3, stream(0, "init"))
    observations = torch.randint(0, 256, (5, 4, 84, 84), generator=stream(0, "x"), dtype=torch.uint8)
    at_logits, at_values = torch.randn(5, 3), torch.randn(5)
    with torch.no_grad():
        plain, seen = nature(params, observations), nature(params, observations, packed(params, 2))
        for expected, got in zip(tree_leaves(plain), tree_leaves(seen), strict=True):
            torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))
        ours = []
        for threads in (1, 2):
            monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
            ours.append(pull_back(params, plain, at_logits, at_values))
    for name, expected in ours[1].items():
        got = ours[0][name]
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))
        assert got.stride() == expected.stride()


def operands(dtype=torch.float64) -> tuple:
    """Of the backward pass below the features, for three rows."""
    params = {k: v.to(dtype) for k, v in init_nature(3, stream(0, "init")).items()}
    observations = torch.randint(0, 256, (3, 4, 84, 84), generator=stream(0, "x"), dtype=torch.uint8)
    seen = nature(params, observations)
    return torch.randn(3, 512, dtype=dtype), seen.features, list(seen.layers), as_applied(params)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_operator_of_the_backward_pass_is_well_described(dtype):
    with torch.no_grad():
        checks = ("test_schema", "test_faketensor")
        torch.library.opcheck(torch.ops.relax_exp.nature_backward.default, operands(dtype), test_utils=checks)


def test_the_backward_pass_can_be_traced_for_a_gpu():
    """There it is part of the compiled step."""
    with torch.no_grad():
        inputs = operands()
        traced = torch.compile(_backward, fullgraph=True, backend="aot_eager")(*inputs)
        for expected, got in zip(_backward(*inputs), traced, strict=True):
            assert torch.allclose(got, expected)


def test_the_network_sees_pixels_of_at_most_one():
    """Against the module that everyone writes."""
    params = init_nature(3, stream(0, "init"))
    net = torch.nn.Sequential(
        *(torch.nn.Conv2d(4, 32, 8, 4), torch.nn.ReLU(), torch.nn.Conv2d(32, 64, 4, 2), torch.nn.ReLU()),
        *(torch.nn.Conv2d(64, 64, 3, 1), torch.nn.ReLU()),
    )
    for layer, i in ((0, 0), (2, 1), (4, 2)):
        net[layer].load_state_dict({k: params[f"filters.{i}.{k}"] for k in ("weight", "bias")})
    observations = torch.randint(0, 256, (2, 4, 84, 84), generator=stream(0, "x"), dtype=torch.uint8)
    with torch.no_grad():
        filtered = net(observations / 255)
    seen = nature(params, observations)
    assert torch.allclose(seen.layers[-1], filtered, atol=1e-5)
    hidden = filtered.permute(0, 2, 3, 1).flatten(1) @ params["hidden.weight"].T
    assert torch.allclose(seen.features, hidden.relu(), atol=1e-4)
