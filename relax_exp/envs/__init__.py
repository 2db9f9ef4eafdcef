"""Environments: vectors of them, Atari's games, and playing a policy in them."""
