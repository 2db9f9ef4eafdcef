"""The checkpoint: bit for bit, whole or not at all, refused where it is damaged."""

import errno
import os
from typing import NamedTuple

import pytest
import torch

from relax_exp.errors import RunError
from relax_exp.runs import checkpoint


class State(NamedTuple):
    weights: dict
    parts: list
    step: torch.Tensor


def state(scale: float = 1.0) -> State:
    numbers = torch.tensor([1e-40, torch.nan, -torch.inf, 0.1]) * scale
    return State({"w": numbers, "empty": torch.zeros(2, 0)}, [numbers.double() / 3, []], torch.tensor(7))


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "my run" / "checkpoint.pt"
    path.parent.mkdir()
    checkpoint.save(path, state(), failed={1: "why"}, elapsed=1.5)
    return path


def bits(state: State) -> list:
    return [leaf.contiguous().view(-1).view(torch.uint8).tolist() for leaf in torch.utils._pytree.tree_leaves(state)]


def test_everything_comes_back_bit_for_bit(saved):
    restored, extra = checkpoint.load(saved, state(2.0))
    assert isinstance(restored, State) and bits(restored) == bits(state())
    assert restored.weights["w"].dtype == torch.float32 and restored.parts[0].dtype == torch.float64
    assert extra == {"failed": {1: "why"}, "elapsed": 1.5}


def test_it_is_a_plain_torch_file(saved):
    assert set(torch.load(saved, weights_only=True)) == {"format", "leaves", "extra"}
    assert [path.name for path in saved.parent.iterdir()] == ["checkpoint.pt"]


@pytest.mark.parametrize("size", range(0, 100, 7))
def test_a_truncated_file(saved, size):
    content = saved.read_bytes()
    saved.write_bytes(content[: len(content) * size // 100])
    with pytest.raises(RunError) as error:
        checkpoint.load(saved, state())
    assert f"the checkpoint {saved} is damaged" in str(error.value)
    assert f"to start over, remove the run's folder: rm -r '{saved.parent}'" in str(error.value)


def test_a_flipped_bit_in_a_number(saved):
    content = bytearray(saved.read_bytes())
    content[content.index(state().parts[0].numpy().tobytes()[-8:])] ^= 1
    saved.write_bytes(content)
    with pytest.raises(RunError, match="is damaged"):
        checkpoint.load(saved, state())


@pytest.mark.parametrize("content", [[1, 2], {"leaves": []}, {"format": 1, "leaves": [1], "extra": {}}])
def test_other_files_of_torch(saved, content):
    torch.save(content, saved)
    with pytest.raises(RunError, match="is damaged"):
        checkpoint.load(saved, state())


@pytest.mark.parametrize("change", [{"step": torch.zeros(2)}, {"step": torch.tensor(7.0)}, {"parts": []}])
def test_another_structure(saved, change):
    with pytest.raises(RunError, match="written by another version of relax-exp; to start over"):
        checkpoint.load(saved, state()._replace(**change))


@pytest.mark.parametrize("name", ["fsync", "replace"])
def test_a_full_disk_keeps_the_old_one(saved, monkeypatch, name):
    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    before = saved.read_bytes()
    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space left"):
        patch.setattr(os, name, full)
        checkpoint.save(saved, state(3.0))
    assert saved.read_bytes() == before
    assert [path.name for path in saved.parent.iterdir()] == ["checkpoint.pt"]
