"""The bundled text, `founding.txt`: blocks of it, windows, and how well a model that counts predicts it.

It is in the public domain: the Declaration of Independence of the United States, most of their Constitution of 1787 and
the Bill of Rights; 25 kB, used in lower case.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from importlib import resources

import torch
from torch import Tensor

from relax_exp.errors import SettingError

ALPHABET = " abcdefghijklmnopqrstuvwxyz,.;"
BLOCK, HELD_OUT = 512, 8  # every eighth block of so many characters is held out
GIVEN = 2  # characters before a window that it starts from, at least: what the counts need


def read_corpus() -> list[str]:
    """Read the blocks of the normalised text: lower case, other characters left out, runs of blanks as one."""
    text = resources.files("relax_exp.data").joinpath("founding.txt").read_text(encoding="utf-8").lower()
    text = " ".join("".join(c if c in ALPHABET else " " if c.isspace() or c == "-" else "" for c in text).split())
    return [text[start : start + BLOCK] for start in range(0, len(text), BLOCK)]


def split(blocks: list[str]) -> tuple[list[str], list[str]]:
    """Return the training and the held-out blocks."""
    held = [block for i, block in enumerate(blocks) if i % HELD_OUT == HELD_OUT - 1]
    return [block for i, block in enumerate(blocks) if i % HELD_OUT != HELD_OUT - 1], held


def windows(blocks: list[str], given: int, length: int, stride: int) -> Tensor:
    """Return rows of characters as uint8 indices, ``(N, given + length)``.

    Of each, ``given`` characters are to start from and ``length`` to model.

    Raises:
        SettingError: No block is so long.
    """
    if given + length > BLOCK:
        raise SettingError(
            f"windows of {given + length} characters, {given} to start from and {length} to model, are longer than the "
            f"text's blocks of {BLOCK}: lower task.variables, task.segment or task.order"
        )
    indices = [torch.tensor([ALPHABET.index(c) for c in block], dtype=torch.uint8) for block in blocks]
    return torch.cat([block.unfold(0, given + length, stride) for block in indices if len(block) >= given + length])


def count_bits(train: list[str], rows: Tensor, given: int) -> float:
    """Compute the bits per character of an order-2 count model on ``rows``.

    Witten-Bell interpolates it down to uniform: p(c | ab) = (n(abc) + t(ab) p(c | b)) / (n(ab) + t(ab)), t the number
    of different characters seen after ab.
    """
    counts: dict[str, Counter] = defaultdict(Counter)
    for block in train:
        for i in range(len(block)):
            for order in range(min(i, 2) + 1):
                counts[block[i - order : i]][block[i]] += 1

    def probability(context: str, c: str) -> float:
        seen, lower = counts[context], probability(context[1:], c) if context else 1 / len(ALPHABET)
        return (seen[c] + len(seen) * lower) / (seen.total() + len(seen)) if seen else lower

    texts = ["".join(ALPHABET[i] for i in row) for row in rows.tolist()]
    bits = [-math.log2(probability(text[i - 2 : i], text[i])) for text in texts for i in range(given, len(text))]
    return sum(bits) / len(bits)
