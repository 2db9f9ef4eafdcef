"""relax-exp: gradient estimators for discrete and black-box variables, verified and reproduced."""

__version__ = "0.1.0"
