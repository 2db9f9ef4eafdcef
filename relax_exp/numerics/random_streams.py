"""Random streams that belong to a run, named by what they are for; nothing uses torch's global state.

A stream is a fresh generator seeded by (seed, purpose, index), for instance the noise of chunk 17. So the position in a
run determines everything that is still to be drawn, and resuming needs no generator state.
"""

from __future__ import annotations

import hashlib

import torch


def stream(seed: int, purpose: str, index: int = 0) -> torch.Generator:
    """Make a CPU generator for one purpose ("init", "data", "noise", "warmup", "evaluation", ...) and index."""
    digest = hashlib.blake2b(f"{seed}/{purpose}/{index}".encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "big") >> 1)


def seed_of(seed: int, purpose: str, index: int) -> int:
    """Make a seed for an environment, from the run's seed, a purpose and an index."""
    return int(torch.randint(2**31 - 1, (), generator=stream(seed, purpose, index)))
