"""Count the kernels of one training step on a GPU, from the programs that Inductor writes for it; needs no GPU.

The step is traced on torch's ``meta`` device and lowered as for an NVIDIA H200 that is only pretended, so that it
runs with any build of PyTorch. Nothing is executed. Each kernel costs some microseconds of a GPU, whatever it does, so
that a step of this size is about as fast as it has few of them. Exit code 1 where there are more than the limits below.
"""

from __future__ import annotations

import argparse
import contextlib
import re
import shlex
import sys
import warnings
from types import SimpleNamespace
from unittest import mock

import torch
from hydra import compose, initialize_config_dir
from torch._dynamo.device_interface import CudaInterface
from torch._inductor import config as inductor
from torch._inductor.debug import DebugContext
from torch._inductor.decomposition import select_decomp_table
from torch._inductor.fx_passes.joint_graph import joint_graph_passes
from torch._inductor.fx_passes.post_grad import post_grad_passes
from torch._inductor.graph import GraphLowering
from torch._inductor.virtualized import V
from torch._subclasses import FakeTensorMode
from torch.func import vmap
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.passes.fake_tensor_prop import FakeTensorProp
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

from relax_exp.config import resolve, yaml_files
from relax_exp.errors import DataError
from relax_exp.numerics import gpu_programs
from relax_exp.numerics.random_streams import stream
from relax_exp.runs.build import build_task
from relax_exp.tasks.base import draw
from relax_exp.training.replicas import Replicas
from relax_exp.training.step import make_step

LIMITS = {  # kernels at five replicas; None: only counted
    "task=vae estimator=rebar": 26,
    "task=vae estimator=relax": 50,
    "task=vae estimator=rebar task.model=linear2": None,
    "task=vae estimator=relax task.model=linear2": 110,
    "task=vae estimator=relax task.model=nonlinear": None,
}
H200 = {
    "name": "H200",
    "major": 9,
    "minor": 0,
    "multi_processor_count": 132,
    "total_memory": 139 << 30,
    "warp_size": 32,
    "max_threads_per_block": 1024,
    "max_threads_per_multi_processor": 2048,
    "regs_per_multiprocessor": 65536,
    "shared_memory_per_block": 49152,
    "shared_memory_per_block_optin": 232448,
    "shared_memory_per_multiprocessor": 233472,
    "L2_cache_size": 50 << 20,
    "gcnArchName": "",
}


def main() -> int:
    """Print a table; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("commands", nargs="*", help="such as 'task=vae estimator=relax' (default: those with limits)")
    parser.add_argument("--replicas", type=int, default=5)
    parser.add_argument("--digits", action="store_true", help="with the bundled images, which need no download")
    arguments = parser.parse_args()
    over = 0
    print(f"{arguments.replicas} replicas{'':35}products  others  kernels  limit  plain torch.compile")
    for command in arguments.commands or LIMITS:
        line = f"{command} task.dataset=digits" if arguments.digits else command
        plain = sum(kernels(line, arguments.replicas, fewer=False))
        products, others = kernels(line, arguments.replicas)
        limit = LIMITS.get(command)
        over += bool(limit and products + others > limit)
        print(f"{command:48}{products:6}{others:8}{products + others:9}{limit or '–':>7}{plain:10}", flush=True)
    return 1 if over else 0


def kernels(command: str, replicas: int, fewer: bool = True) -> tuple[int, int]:
    """Return how many matrix products and other kernels a step launches; ``fewer``: with `gpu_programs`."""
    code = program(command, replicas, fewer)
    return len(re.findall(r"extern_kernels\.\w+\(", code)), len(re.findall(r"\w\.run\(", code))


def program(command: str, replicas: int, fewer: bool) -> str:
    """Return the program that Inductor writes for a GPU, which launches the kernels of a step."""
    step, inputs = traced(command, replicas)
    fake, mode = moved(step, inputs, "cpu")  # what these passes fold to constants cannot be made on a pretended device
    with V.set_fake_mode(mode):
        FakeTensorProp(step, mode).propagate_dont_convert_inputs(*fake)
        joint_graph_passes(step)
    fake, mode = moved(step, inputs, "cuda:0")
    chosen = gpu_programs.options() if fewer else {}
    with pretended(), V.set_fake_mode(mode), inductor.patch(chosen), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        FakeTensorProp(step, mode).propagate_dont_convert_inputs(*fake)
        post_grad_passes(step, True)
        FakeTensorProp(step, mode).propagate_dont_convert_inputs(*fake)
        lowering = GraphLowering(step, example_inputs=fake, is_inference=True)
        with V.set_graph_handler(lowering), V.set_debug_handler(DebugContext()):
            lowering.run(*fake)
            return lowering.codegen()[0].value


def traced(command: str, replicas: int) -> tuple[GraphModule, list[torch.Tensor]]:
    """Return the step of a command as a graph, and its inputs; both on the ``meta`` device, which has no numbers."""
    overrides = shlex.split(command)
    with initialize_config_dir(str(yaml_files.CONFIGS), version_base="1.3"):
        task = build_task(resolve.resolve(compose("config", overrides), overrides), "meta")
    state = Replicas(task, list(range(replicas)), [1e-3], "meta").state

    def of_all(x: torch.Tensor) -> torch.Tensor:
        return x.unsqueeze(0).expand(replicas, *x.shape).clone().to("meta")

    noise = {k: of_all(v[0]) for k, v in draw(task.noise_shapes(), 1, stream(0, "noise"), task.dtype).items()}
    inputs, tree = tree_flatten((state, tree_map(of_all, task.example()), noise))
    step = vmap(make_step(task))

    def flat(*leaves):
        return tree_flatten(step(*tree_unflatten(list(leaves), tree)))[0]

    with torch.no_grad():
        return make_fx(flat, decomposition_table=select_decomp_table())(*inputs), inputs


def moved(graph: GraphModule, inputs: list[torch.Tensor], device: str) -> tuple[list[torch.Tensor], FakeTensorMode]:
    """Move a graph and its constants to another device; return fake inputs there, and the mode that they live in."""
    mode = FakeTensorMode(allow_non_fake_inputs=True)

    def fake(x: torch.Tensor) -> torch.Tensor:
        return torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device=device)

    with mode:
        for node in graph.graph.nodes:
            if "device" in node.kwargs:
                node.kwargs = {**node.kwargs, "device": torch.device(device)}
        for name in {node.target for node in graph.graph.nodes if node.op == "get_attr"}:
            setattr(graph, name, fake(getattr(graph, name)))
        graph.recompile()
        return [fake(x) for x in inputs], mode


@contextlib.contextmanager
def pretended():
    """Pretend that there is a GPU, as far as Inductor asks before it compiles a kernel."""
    gpu = SimpleNamespace(**H200)
    answers = {
        "get_device_properties": gpu,
        "get_compute_capability": 90,
        "is_available": True,
        "current_device": 0,
        "device_count": 1,
    }
    with contextlib.ExitStack() as stack:
        for name, answer in answers.items():
            stack.enter_context(mock.patch.object(CudaInterface, name, staticmethod(lambda *_, it=answer: it)))
        for name, answer in (answers | {"get_device_capability": (9, 0)}).items():
            if hasattr(torch.cuda, name):
                stack.enter_context(mock.patch.object(torch.cuda, name, lambda *_, it=answer: it))
        stack.enter_context(mock.patch.object(torch.version, "cuda", "13.0"))
        stack.enter_context(mock.patch("torch.utils._triton.triton_hash_with_backend", lambda: "none"))
        stack.enter_context(mock.patch("torch._inductor.scheduler.has_triton", lambda: True))
        # Attention patterns, which are tried on the device itself; there is no attention here.
        stack.enter_context(mock.patch("torch._inductor.fx_passes.post_grad.lazy_init", lambda *_: None))
        yield


if __name__ == "__main__":
    try:
        sys.exit(main())
    except DataError as error:
        sys.exit(str(error))
