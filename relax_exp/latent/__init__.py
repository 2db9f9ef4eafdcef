"""Latent variables in a model: `Latent` one layer, `Chain` several, `score_function_loss` for any distribution."""

from relax_exp.latent.chain import Chain
from relax_exp.latent.layer import Latent, Result
from relax_exp.latent.score_function import score_function_loss

__all__ = ["Chain", "Latent", "Result", "score_function_loss"]
