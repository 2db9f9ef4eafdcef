"""No step of a task and estimator leaves its device: a CUDA graph captures no copy from the host.

The step runs on torch's ``meta`` device, which knows shapes but no numbers: whatever asks for a number raises, and
every operation that touches another device, or makes a tensor of numbers on the host, is written down.
"""

import pytest
import torch
from running import resolve
from torch.func import vmap
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from relax_exp import estimators
from relax_exp.errors import ConfigError
from relax_exp.numerics.random_streams import stream
from relax_exp.runs.build import build_task
from relax_exp.tasks.base import draw
from relax_exp.training.replicas import Replicas
from relax_exp.training.step import make_step

IMAGES = "task.dataset=digits batch_size=2 "
TOYS = {"bernoulli": "task=toy task.latents=2 ", "categorical": "task=categorical_toy task.categories=3 "}
VAE = "task=vae task.latents=3 " + IMAGES
TWO = "task=vae task.model=linear2 task.latents=3 task.binarize=dynamic " + IMAGES
CATEGORICAL = "task=categorical_vae task.variables=2 task.categories=3 'task.hidden=[]' " + IMAGES
HALVES = "task=structured task.variables=3 " + IMAGES
OTHERS = [
    "task=toy estimator=rodeo estimator.samples=3",
    "task=lax_toy estimator=lax",
    *(f"task=permutation estimator={name}" for name in ("relax", "rloo")),
    *(VAE + f"estimator={name}" for name in ("exact", "rodeo", "relax", "concrete", "vimco", "muprop", "double_cv")),
    VAE + "estimator=rebar 'track=[relax,exact]'",
    TWO + "estimator=rebar",
    *(CATEGORICAL + f"estimator={name}" for name in ("exact", "rebar", "arsm", "unordered")),
    *(CATEGORICAL + f"estimator=concrete task.relaxed={kind}" for kind in ("kl", "density")),
    *(HALVES + f"estimator={name}" for name in ("relax", "concrete", "vimco", "double_cv", "muprop")),
    *(HALVES + f"task.categories=3 estimator={name}" for name in ("rebar", "arsm", "st_gumbel")),
    "task=sequence estimator=rebar task.variables=2 task.categories=3 task.hidden=4 batch_size=2",
    *(f"task=cartpole task.max_steps=5 estimator={name}" for name in ("relax", "a2c", "arsm", "optimal_baseline")),
    *(f"task=continuous estimator={name}" for name in ("lax", "a2c")),
]


class Host(TorchFunctionMode):
    """Writes down the calls that make a tensor of numbers on the host."""

    made_of_numbers = (torch.tensor, torch.as_tensor, torch.asarray, torch.from_numpy, torch.scalar_tensor)

    def __init__(self):
        super().__init__()
        self.found: list[str] = []

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function in self.made_of_numbers and not isinstance(args[0], torch.Tensor):
            self.found.append(function.__name__)
        return function(*args, **(kwargs or {}))


class Elsewhere(TorchDispatchMode):
    """Writes down the operations with a tensor, in or out, that is not on the ``meta`` device.

    Numbers of Python are tensors without dimensions on the CPU here; a kernel takes them as its arguments.
    """

    def __init__(self):
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        tensors = [leaf for leaf in tree_leaves((args, kwargs, out)) if isinstance(leaf, torch.Tensor)]
        there = {tensor.device.type for tensor in tensors}
        copied = function is torch.ops.aten._to_copy.default and len(there) > 1
        if copied or any(tensor.device.type != "meta" and tensor.dim() for tensor in tensors):
            self.found.append(str(function))
        return out


def traced(step, *inputs) -> list[str]:
    """What a step did elsewhere than on its device."""
    with Host() as host, Elsewhere() as elsewhere:
        step(*inputs)
    return host.found + elsewhere.found


def check(config: dict) -> None:
    """The step of two replicas."""
    task, seeds = build_task(config, "meta"), [0, 1]
    replicas = Replicas(task, seeds, [0.1], "meta")
    noise = draw(task.noise_shapes(), 1, stream(0, "noise"), task.dtype)
    noise = {k: v.to("meta").expand(len(seeds), *v.shape[1:]) for k, v in noise.items()}
    batch = tree_map(lambda x: x.unsqueeze(0).expand(len(seeds), *x.shape), task.example())
    with torch.no_grad():
        assert traced(vmap(make_step(task)), replicas.state, batch, noise) == []


@pytest.mark.parametrize("family", TOYS)
@pytest.mark.parametrize("name", estimators.names())
def test_every_estimator(family, name):
    try:
        config = resolve(TOYS[family] + f"estimator={name}")
    except ConfigError:
        pytest.skip("not for this family")
    check(config)


@pytest.mark.parametrize("line", OTHERS)
def test_every_task(line):
    check(resolve(line))


@pytest.mark.parametrize(
    "step",
    [
        lambda x: x + torch.tensor([1.0, 2.0], device="meta"),
        lambda x: x * torch.as_tensor(0.5, device="meta"),
        lambda x: torch.ones(2).to("meta") * x,
    ],
)
def test_a_step_that_leaves_its_device_is_found(step):
    assert traced(step, torch.ones(2, device="meta"))


@pytest.mark.parametrize("ask", [lambda x: x.sum().item(), lambda x: x.cpu(), lambda x: x[x > 0], lambda x: bool(x[0])])
def test_a_step_that_asks_for_a_number_is_found(ask):
    with pytest.raises((RuntimeError, NotImplementedError)):
        traced(ask, torch.ones(2, device="meta"))
