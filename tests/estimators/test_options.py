"""Options are checked from Python as on the command line: by `build` and by every constructor."""

import pytest
import torch
from omegaconf import OmegaConf

from relax_exp import distributions, estimators
from relax_exp.config.yaml_files import CONFIGS
from relax_exp.estimators import options
from relax_exp.estimators.rebar_relax import Rebar
from relax_exp.estimators.score import Reinforce

WRONG = [
    ("relax", {"surrogate": "netwrk"}, "surrogate=netwrk: must be one of network, relaxed; did you mean surrogate=net"),
    ("rebar", {"noise": "tide"}, "noise=tide: must be one of tied, independent; did you mean noise=tied"),
    ("rebar", {"granularity": "tensor"}, "granularity=tensor: must be one of layer, parameter"),
    ("gumbel_rao", {"draws": 0}, "draws=0: must be a whole number > 0"),
    ("rebar", {"temperature": -1}, "temperature=-1: must be a finite number > 0"),
    ("rebar", {"temperature": float("nan")}, "must be a finite number > 0"),
    ("reinforce", {"samples": 0}, "samples=0: must be a whole number > 0"),
    ("reinforce", {"samples": 2.0}, "did you mean samples=2"),
    ("nvil", {"normalize": 1}, "normalize=1: must be true or false"),
    ("rodeo", {"width": "wide"}, "width=wide: must be a whole number > 0"),
]


@pytest.mark.parametrize(("name", "given", "message"), WRONG, ids=str)
def test_a_wrong_value_is_named_with_what_is_allowed_and_what_is_near(name, given, message):
    with pytest.raises(ValueError) as error:
        estimators.build(name, **given)
    assert message in str(error.value)


def test_a_constructor_checks_as_build_does():
    with pytest.raises(ValueError, match="Rebar: noise=tide"):
        Rebar("bernoulli", (3,), noise="tide")
    with pytest.raises(TypeError, match=r"Rebar has no option temprature: must be one of .*did you mean temperature"):
        Rebar("bernoulli", (3,), temprature=1.0)
    with pytest.raises(ValueError, match=r"family=bernouli: must be one of .*did you mean bernoulli"):
        Reinforce("bernouli", (3,))
    with pytest.raises(ValueError, match=r"event_shape=\(3,\): one row's sample of categorical variables is \(D, C\)"):
        Reinforce("categorical", (3,))


def test_numbers_of_numpy_and_torch_are_numbers():
    temperature = torch.tensor(0.25)
    assert Rebar("bernoulli", (3,), temperature=temperature).temperature.item() == pytest.approx(0.25)


@pytest.mark.parametrize("name", estimators.names())
def test_every_option_of_a_file_is_one_of_the_constructor_and_has_a_type(name):
    keys = set(OmegaConf.load(CONFIGS / "estimator" / f"{name}.yaml")) - {"name", *options.OF_TRAINING}
    family = estimators.lookup(name).families[0]
    shape = (3, 2)[: distributions.FAMILIES[family].shape_dims]
    accepted = options.accepted(type(estimators.build(name, family, shape)))
    assert keys <= set(accepted)
    assert all(options.types(accepted).values())


def test_an_option_of_ones_own_has_the_type_of_its_default():
    class Mine(Reinforce):
        def __init__(self, *args, mean: bool = True, scale: float = 1.0, **kwargs):
            super().__init__(*args, **kwargs)

    assert set(options.accepted(Mine)) == {"mean", "scale", "samples"}
    Mine("bernoulli", (3,), mean=False, scale=2, samples=3)
    with pytest.raises(ValueError, match="scale=big: must be a finite number"):
        Mine("bernoulli", (3,), scale="big")
