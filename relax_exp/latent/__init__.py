"""Latent variables as layers of somebody's model: `Latent` for one layer, `Chain` for several on top of each other."""

from relax_exp.latent.chain import Chain
from relax_exp.latent.layer import Latent, Result

__all__ = ["Chain", "Latent", "Result"]
