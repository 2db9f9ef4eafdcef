"""The tangent kernel of a policy is the inner products of its derivatives, as autograd has them."""

import pytest
import torch
from torch.func import jacrev, vmap
from torch.utils._pytree import tree_leaves

from relax_exp.models.policy import init_policy, policy_logits, tangent_kernel
from relax_exp.numerics.random_streams import stream


@pytest.mark.parametrize("sizes", [[3, 2], [3, 5, 1], [2, 4, 6, 3]])
def test_the_kernel_is_that_of_the_derivatives(sizes):
    generator = stream(0, "kernel")
    params = {k: v.double() for k, v in init_policy(sizes, generator).items()}
    params = {k: v + torch.randn(v.shape, generator=generator, dtype=v.dtype) for k, v in params.items()}
    x = torch.randn((2, 4, sizes[0]), generator=generator, dtype=torch.float64)

    def derivatives(x):
        leaves = tree_leaves(jacrev(lambda p: policy_logits(p, x, torch.tanh).flatten())(params))
        return torch.cat([leaf.flatten(1) for leaf in leaves], 1)

    expected = [rows @ rows.T for rows in map(derivatives, x)]
    torch.testing.assert_close(tangent_kernel(params, x), torch.stack(expected))
    torch.testing.assert_close(vmap(lambda x: tangent_kernel(params, x))(x), torch.stack(expected))
