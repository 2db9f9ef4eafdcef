"""What `import relax_exp` loads, and when."""

import subprocess
import sys

import pytest

import relax_exp


def new_process(code):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_torch_is_loaded_when_a_name_is_used():
    loaded = "print('torch' in sys.modules)"
    code = f"import sys, relax_exp; dir(relax_exp); {loaded}; relax_exp.Latent; {loaded}"
    assert new_process(code) == ["False", "True"]


def test_the_layer_needs_torch_and_numpy_alone():
    """Everything that is for experiments stays away, also when the layer, the check and the monitor work."""
    code = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"hydra", "omegaconf", "tensorboard", "gymnasium", "scipy", "sklearn", "matplotlib",
                                  "tabulate", "tqdm", "pooch", "torchvision"}:
            raise ImportError(name)
import torch._dynamo  # which looks for some of them
sys.meta_path.insert(0, Refuse())
import torch
import relax_exp
from relax_exp.testing import assert_unbiased
for name in relax_exp.__all__:
    getattr(relax_exp, name)
for name in relax_exp.names("bernoulli"):
    z = relax_exp.Latent(name, "bernoulli", 2)
    logits = torch.zeros(3, 2, requires_grad=True)
    z(logits, lambda b: b.sum(1).square()).loss.sum().backward()
relax_exp.GradientMonitor(z, reference=2, draws=1)
found = assert_unbiased(lambda l, f, g: 0.25 * torch.ones_like(l), torch.zeros(1), lambda b: b.sum(-1), draws=100)
print(found.biased)
"""
    assert new_process(code) == ["False"]


@pytest.mark.parametrize("name", relax_exp.__all__)
def test_every_public_name_is_there(name):
    assert getattr(relax_exp, name) is not None and name in dir(relax_exp)


def test_an_unknown_name():
    with pytest.raises(AttributeError, match="has no attribute 'Latents'"):
        _ = relax_exp.Latents


def test_a_command_without_its_packages_names_the_extra():
    code = """
import importlib.util, sys
from relax_exp.cli import entry
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name in ("hydra", "tabulate") else find(name, *rest)
sys.stderr = sys.stdout
print(entry.run(), entry.report(), "torch" in sys.modules)
"""
    said = new_process(code)
    assert said[-3:] == ["2", "2", "False"] and "'relax-exp[run]'" in said and "(hydra," in said
