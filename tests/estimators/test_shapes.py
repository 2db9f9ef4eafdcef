"""The shapes in the annotations of the estimators' contract, read by jaxtyping and held against tensors by beartype."""

import typing

import pytest
import torch
from beartype.door import die_if_unbearable, is_bearable
from jaxtyping import Float, jaxtyped
from test_contract import VARIANTS, loss_of, made

from relax_exp.estimators import base

NAMES = {**vars(base), "Float": Float}
ARGUMENTS, FIELDS, TUNING = (
    typing.get_type_hints(of, NAMES) for of in (base.Estimator.forward, base.Output, base.Estimator.tuning_loss)
)


@pytest.mark.parametrize(("name", "family", "options"), VARIANTS, ids=str)
def test_every_estimator_keeps_the_shapes_of_its_annotations(name, family, options):
    est, logits, noise, context = made(name, family, **options)
    out = est(logits, loss_of(family), noise=noise, context=context)
    with jaxtyped("context"):  # in which N and the other names stand for one size each
        for key, value in {"logits": logits, "noise": noise, "context": context}.items():
            die_if_unbearable(value, ARGUMENTS[key])
        for key in base.Output._fields:
            die_if_unbearable(getattr(out, key), FIELDS[key])
        die_if_unbearable(est.tuning_loss(out), TUNING["return"])


def test_a_wrong_shape_is_found():
    with jaxtyped("context"):
        assert is_bearable(torch.zeros(4, 3), FIELDS["grad"])
        assert not is_bearable(torch.zeros(5), FIELDS["loss"])
        assert is_bearable(torch.zeros(4), FIELDS["loss"])
