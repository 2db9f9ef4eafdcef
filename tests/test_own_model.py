"""README's VAE and the code of docs/own_model.md and docs/moving.md, executed from top to bottom."""

import importlib.util
import re
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r"^```python\n(.*?)^```", re.M | re.S)


def blocks(name):
    return BLOCK.findall((ROOT / name).read_text(encoding="utf-8"))


def test_the_vae_of_the_readme_has_seventeen_lines_and_trains():
    (code,) = [block for block in blocks("README.md") if "Latent" in block]
    lines = [line for line in code.splitlines() if line.strip()]
    assert len(lines) == 17
    torch.manual_seed(0)
    losses, space = [], {"record": lambda loss: losses.append(loss.detach().mean().item())}
    exec(code + "    record(loss)\n", space)
    assert sum(losses[-20:]) / 20 < sum(losses[:5]) / 5 - 10
    parameters = [
        *space["encoder"].parameters(),
        *space["decoder"].parameters(),
        space["prior"],
        *space["z"].parameters(),
    ]
    assert all(p.grad is not None for p in parameters)


@pytest.mark.parametrize("name", ["docs/own_model.md", "docs/moving.md"])
def test_the_code_of_the_page_runs(name):
    space = {}
    torch.manual_seed(0)
    ran = 0
    for code in blocks(name):
        modules = re.findall(r"^(?:import|from) (\w+)", code, re.M)
        if all(importlib.util.find_spec(module) for module in modules):
            exec(code, space)
            ran += 1
    assert ran >= 4


def test_a_two_layer_vae_takes_at_most_forty_lines():
    page = (ROOT / "docs/own_model.md").read_text(encoding="utf-8")
    first, chain = BLOCK.findall(page)[0], next(block for block in BLOCK.findall(page) if "Chain(" in block)
    shared = first[: first.index("encoder, decoder")]  # imports, nll, data
    assert len([line for line in (shared + chain).splitlines() if line.strip()]) <= 40


@pytest.mark.parametrize(
    ("name", "options"), [("relax", "width=20"), ("rebar", ""), ("disarm", ""), ("rloo", ""), ("vimco", "")]
)
def test_the_two_layer_vae_trains_with(name, options):
    page = BLOCK.findall((ROOT / "docs/own_model.md").read_text(encoding="utf-8"))
    chain = next(block for block in page if "Chain(" in block)
    space = {}
    torch.manual_seed(0)
    exec(page[0].replace("range(20)", "range(1)"), space)
    exec(chain.replace('"relax"', f'"{name}"').replace("width=20", options), space)
    assert all(p.grad is not None and p.grad.isfinite().all() for p in space["layers"].parameters())
