"""Composition, types, checks, hash and path of a configuration, without the command line."""

from __future__ import annotations

import dataclasses
import re
import shlex
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from relax_exp import estimators
from relax_exp.config import identity, yaml_files
from relax_exp.config import resolve as config
from relax_exp.errors import ConfigError
from relax_exp.tasks.registry import TASKS


@pytest.fixture(scope="module", autouse=True)
def hydra():
    """Hydra, initialised once for all tests here."""
    with initialize_config_dir(str(yaml_files.CONFIGS), version_base="1.3"):
        yield


def resolve(command: str) -> dict:
    """The configuration of a command without `relax-exp` in front."""
    overrides = shlex.split(command)
    return config.resolve(compose("config", overrides), overrides)


TOY = "task=toy estimator=relax "
YAML = sorted(p for p in yaml_files.CONFIGS.rglob("*.yaml") if p.parent.name != "experiment")  # whose keys are a task's


SMALL = ("categorical_vae", "sequence", "structured")
PAIRS = [(task, name) for task, entry in TASKS.items() for name in entry.estimators or estimators.names(entry.family)]


@pytest.mark.parametrize("task, estimator", PAIRS)
def test_every_pair_composes(task, estimator):
    few = {"toy": " task.latents=2", "vae": " task.latents=2"} | dict.fromkeys(SMALL, " task.variables=2")
    few = few.get(task, "")
    resolved = resolve(f"task={task} estimator={estimator}{few}")
    assert (resolved["task"]["name"], resolved["estimator"]["name"]) == (task, estimator)
    assert "estimator_defaults" not in resolved["task"]
    assert set(identity.MACHINE_KEYS) <= set(resolved)


@pytest.mark.parametrize("path", YAML, ids=lambda p: p.stem)
def test_every_key_has_a_comment(path):
    keys = re.findall(r"^(?:  )?([a-z_]+): .+$", path.read_text().split("hydra:\n")[0], re.MULTILINE)
    commented = re.findall(r"^ *(\w+): .*# .+$", path.read_text(), re.MULTILINE)
    is_task = path.parent.name == "task"
    top_level = set(config.hints(config.RunOptions)) if is_task else set()  # explained in config.yaml
    assert set(keys) - {"name"} - top_level <= set(commented)


def test_yaml_offers_exactly_the_registries():
    assert {path.stem for path in (yaml_files.CONFIGS / "estimator").glob("*.yaml")} == set(estimators.names())
    assert {path.stem for path in (yaml_files.CONFIGS / "task").glob("*.yaml")} == set(TASKS)


@pytest.mark.parametrize("name", TASKS)
def test_values_are_in_the_file_alone(name):
    """So that they cannot differ: a record has types only, and from Python a task has the values of its file."""
    options = config.task_options(name)
    assert all(field.default is field.default_factory is dataclasses.MISSING for field in dataclasses.fields(options))
    of_file = yaml_files.of_task(name)["task"]
    assert dataclasses.asdict(options) == {k: v for k, v in of_file.items() if k not in ("name", "estimator_defaults")}
    with pytest.raises(dataclasses.FrozenInstanceError):
        options.variance_draws = 3


def test_options_from_python_are_checked():
    assert config.task_options("toy", latents=3).latents == 3
    with pytest.raises(ConfigError, match=r"task\.latents=0: must be a whole number > 0"):
        config.task_options("toy", latents=0)
    with pytest.raises(ConfigError, match=r"unknown key task\.latent\b.*did you mean task\.latents"):
        config.task_options("toy", latent=2)


def test_order_of_overrides_does_not_matter():
    words = ["estimator.depth=3", "estimator=relax", "steps=7", "task.t=0.4", "task=toy"]
    assert resolve(" ".join(words)) == resolve(" ".join(reversed(words)))


def test_defaults_depend_on_the_task():
    toy, vae = resolve("task=toy estimator=relax")["estimator"], resolve("task=vae estimator=relax")["estimator"]
    assert (toy["surrogate"], toy["noise"], toy["width"], toy["warmup"]) == ("network", "independent", 10, 0)
    assert (vae["surrogate"], vae["noise"], vae["width"], vae["warmup"]) == ("relaxed", "tied", 200, 1000)
    assert resolve("task=vae estimator=rebar")["estimator"]["warmup"] == 0
    assert resolve("task=vae estimator=relax task.estimator_defaults.depth=4")["estimator"]["depth"] == 4


def test_command_beats_task_beats_config():
    assert (resolve(TOY)["steps"], resolve(TOY)["batch_size"]) == (10000, 1)
    assert resolve(TOY + "steps=5")["steps"] == 5


@pytest.mark.parametrize(
    "command, expected",
    [
        ("", {"seeds": [0], "lrs": [0.01]}),
        ("seed=3 lr=1", {"seeds": [3], "lrs": [1.0]}),
        ("'seeds=[2,0]' 'lrs=[1e-3,3e-4]'", {"seeds": [2, 0], "lrs": [0.001, 0.0003]}),
        ("compile=true", {"compile": True}),
        ("compile=auto", {"compile": "auto"}),
        ("eval_every=20000", {"eval_every": 20000}),
        ("out=runs/x data_root=/data", {"out": "runs/x", "data_root": "/data"}),
        ("seeds=null", {"seeds": [0]}),
    ],
)
def test_values(command, expected):
    assert expected.items() <= resolve(TOY + command).items()


def test_values_have_the_declared_types():
    relax = resolve(TOY + "estimator.weight_decay=0 estimator.temperature=1")["estimator"]
    assert [type(relax[key]) for key in ("weight_decay", "temperature", "depth")] == [float, float, int]


def test_replicas_and_tracked_estimators():
    resolved = resolve(TOY + "'seeds=[0,1]' 'lrs=[0.1,0.2]' 'track=[rebar,nvil]'")
    assert identity.replicas(resolved) == [(0, 0.1), (0, 0.2), (1, 0.1), (1, 0.2)]
    assert list(resolved["track"]) == ["rebar", "nvil"]
    assert resolved["track"]["rebar"] == resolve("task=toy estimator=rebar")["estimator"]


BAD = {
    "task=toy": ["choose estimator=NAME", "straight_through"],
    "estimator=relax": ["choose task=NAME", "toy, vae"],
    "": ["choose task=NAME", "estimator=NAME"],
    TOY + "steps=0": ["steps=0: must be a whole number > 0"],
    TOY + "steps=-1": ["steps=-1"],
    TOY + "steps=1e3": ["steps=1000.0", "did you mean steps=1000?"],
    TOY + "steps=1.5": ["steps=1.5: must be a whole number > 0"],
    TOY + "steps=true": ["steps=true"],
    TOY + "steps=many": ["steps=many"],
    TOY + "steps=null": ["steps=null"],
    TOY + "eval_every=0": ["eval_every=0"],
    TOY + "batch_size=0": ["batch_size=0"],
    TOY + "threads=0": ["threads=0"],
    TOY + "lr=abc": ["lr=abc: must be a finite number > 0"],
    TOY + "lr=0": ["lr=0: "],
    TOY + "lr=-1e-3": ["lr=-0.001: "],
    TOY + "lr=inf": ["lr=inf: "],
    TOY + "lr=nan": ["lr=nan: "],
    TOY + "lr=": ["lr=: "],
    TOY + "lr=true": ["lr=true: "],
    TOY + "lrs=0.1": ["did you mean lrs=[0.1]?"],
    TOY + "'lrs=[]'": ["lrs=[]: must be a list that is not empty"],
    TOY + "'lrs=[0.1,0.1]'": ["without repetition"],
    TOY + "'lrs=[0.1,nan]'": ["lrs=[0.1,nan]"],
    TOY + "'lrs=[0.1,-0.1]'": ["each item a finite number > 0"],
    TOY + "seed=-1": ["seed=-1: must be a whole number from 0"],
    TOY + "seed=1.5": ["seed=1.5"],
    TOY + "seeds=3": ["did you mean seeds=[3]?"],
    TOY + "'seeds=[]'": ["seeds=[]"],
    TOY + "'seeds=[0,0]'": ["seeds=[0,0]", "without repetition"],
    TOY + "'seeds=[-1]'": ["seeds=[-1]"],
    TOY + "'seeds=[0,a]'": ["seeds=[0,a]"],
    TOY + "lr=0.1 'lrs=[0.1]'": ["lr and lrs exclude each other"],
    TOY + "seed=0 'seeds=[0]'": ["seed and seeds exclude each other"],
    TOY + "device=gpu": ["device=gpu: must be text that is auto, cpu, cuda or cuda:N"],
    TOY + "compile=1": ["compile=1: must be one of auto, true, false"],
    TOY + "dtype=float65": ["did you mean dtype=float64?"],
    TOY + "out=": ["out=: must be text"],
    TOY + "'track=[rebarr]'": ["did you mean track=[rebar]?", "straight_through"],
    TOY + "'track=[rebar,rebar]'": ["without repetition"],
    TOY + "'track=[exact]' task.latents=17": ["2^17 states", "at most 16"],
    TOY + "+stepz=3": ["unknown key stepz", "did you mean steps?"],
    TOY + "+estimator.dept=3": ["unknown key estimator.dept", "did you mean estimator.depth?"],
    TOY + "+task.model=linear1": ["unknown key task.model", "latents"],
    TOY + "~estimator.depth": ["estimator.depth is missing"],
    TOY + "'lr=${nowhere}'": ["lr: ", "nowhere"],
    TOY + "estimator.name=relaxx": ["estimator.name=relaxx", "did you mean estimator.name=relax?"],
    TOY + "estimator.depth=-1": ["estimator.depth=-1: must be a whole number >= 0"],
    TOY + "estimator.width=0": ["estimator.width=0"],
    TOY + "estimator.temperature=0": ["estimator.temperature=0"],
    TOY + "estimator.eta=inf": ["estimator.eta=inf: must be a finite number"],
    TOY + "estimator.weight_decay=-1": ["estimator.weight_decay=-1: must be a finite number >= 0"],
    TOY + "estimator.warmup=-1": ["estimator.warmup=-1"],
    TOY + "estimator.noise=tight": ["estimator.noise=tight: must be one of tied, independent"],
    TOY + "estimator.surrogate=relax": ["did you mean estimator.surrogate=relaxed?"],
    "task=toy estimator=nvil estimator.decay=1": ["estimator.decay=1: must be a finite number >= 0 and < 1"],
    "task=toy estimator=nvil estimator.normalize=1": ["true or false"],
    "task=toy estimator=baseline estimator.objective=var": ["one of mse, variance"],
    "task=toy estimator=reinforce estimator.samples=0": ["estimator.samples=0"],
    "task=toy estimator=exact task.latents=17": ["2^17 states", "at most 16"],
    "task=vae estimator=exact task.model=linear2": ["2^200 states"],
    TOY + "task.t=1.1": ["task.t=1.1: must be a finite number from 0 to 1"],
    TOY + "task.t=-0.1": ["task.t=-0.1"],
    TOY + "task.t=nan": ["task.t=nan"],
    TOY + "task.latents=0": ["task.latents=0"],
    TOY + "task.variance_draws=1": ["> 1"],
    TOY + "task.black_box=maybe": ["true or false"],
    "task=toy estimator=rebar task.black_box=true": ["rebar differentiates f", "reinforce", "relax"],
    TOY + "task.black_box=true estimator.surrogate=relaxed": ["relax differentiates f"],
    TOY + "task.black_box=true 'track=[straight_through]'": ["straight_through differentiates f"],
    **{
        f"task=toy estimator={name}": ["is not for bernoulli variables"]
        for name in estimators.names()
        if name not in estimators.names("bernoulli")
    },
    "task=vae estimator=relax task.dataset=minst": ["one of mnist, omniglot, digits", "task.dataset=mnist?"],
    "task=vae estimator=relax task.model=linear3": ["linear1, linear2, nonlinear"],
    "task=vae estimator=relax task.binarize=dynamik": ["did you mean task.binarize=dynamic?"],
    "task=vae estimator=relax task.bound_every=0": ["task.bound_every=0"],
    "task=vae estimator=relax task.hidden=0": ["task.hidden=0"],
    "task=atari estimator=a2c estimator.advantage=published_error": ["advantage=correct", "task=cartpole"],
    "task=vae estimator=relax estimator.sampler=published_error": ["categorical variables", "sampler=correct"],
    "task=verify estimator=relax estimator.sampler=published_error estimator.noise=tied": ["noise=independent"],
    "task=cartpole estimator=a2c task.frame_skip=0": ["task.frame_skip=0"],
}


@pytest.mark.parametrize("command", BAD)
def test_bad_input(command):
    with pytest.raises(ConfigError) as caught:
        resolve(command)
    for part in BAD[command]:
        assert part in str(caught.value)
    assert "\n" not in str(caught.value)


def test_exact_counts_each_layer_by_itself():
    assert resolve("task=vae estimator=exact task.model=linear2 task.latents=16")


def test_black_box_offers_what_needs_only_values():
    assert resolve(TOY + "task.black_box=true")["estimator"]["surrogate"] == "network"
    assert resolve("task=toy estimator=nvil task.black_box=true")


def test_a_key_outside_the_catalogue_has_the_type_of_its_default(tmp_path, monkeypatch):
    (tmp_path / "estimator").mkdir()
    (tmp_path / "estimator" / "relax.yaml").write_text("name: relax\nnovelty: 1.5\n")
    monkeypatch.setattr(yaml_files, "CONFIGS", tmp_path)
    assert config._estimator({"name": "relax", "novelty": 2}, {}) == {"name": "relax", "novelty": 2.0}
    with pytest.raises(ConfigError, match=r"estimator\.novelty=high: must be a finite number"):
        config._estimator({"name": "relax", "novelty": "high"}, {})


BASE = "task=vae estimator=relax "


@pytest.mark.parametrize("change", ["out=elsewhere", "data_root=/data", "device=cpu", "threads=2", "compile=false"])
def test_hash_ignores_the_machine(change):
    assert identity.run_hash(resolve(BASE + change)) == identity.run_hash(resolve(BASE))


@pytest.mark.parametrize(
    "change",
    [
        "steps=5",
        "lr=0.5",
        "seed=1",
        "'seeds=[0,1]'",
        "batch_size=3",
        "eval_every=7",
        "dtype=float64",
        "'track=[rebar]'",
        "task.dataset=digits",
        "task.latents=3",
        "task.bound_every=10",
        "estimator.depth=1",
        "estimator.temperature=0.1",
    ],
)
def test_hash_sees_the_numbers(change):
    changed = resolve(BASE + change)
    assert identity.run_hash(changed) != identity.run_hash(resolve(BASE))
    only_seeds = change in ("seed=1", "'seeds=[0,1]'")
    assert (identity.group_key(changed) == identity.group_key(resolve(BASE))) == only_seeds


def test_hash_is_the_same_for_the_same_numbers():
    assert identity.run_hash(resolve(BASE + "lr=0.001 seed=0")) == identity.run_hash(resolve(BASE + "'lrs=[1e-3]'"))
    assert re.fullmatch("[0-9a-f]{10}", identity.run_hash(resolve(BASE)))


def test_run_path():
    resolved = resolve(BASE)
    assert identity.run_path(resolved) == Path("runs/vae", f"relax-{identity.run_hash(resolved)}")
    assert identity.run_path(resolve(BASE + "out=a/b")) == Path("a/b")
    assert identity.run_path(resolve(BASE + "'out=\"~/x\"'")) == Path.home() / "x"


def test_a_preset_sets_what_the_command_line_may_change(tmp_path):
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text(
        "# @package _global_\ndefaults:\n  - override /task: toy\n  - override /estimator: relax\nlrs: [0.1, 0.2]\n"
        "estimator: {depth: 3}\n"
    )
    for command, lrs in (("", [0.1, 0.2]), ("lr=0.5", [0.5])):
        resolved = resolve(f"hydra.searchpath=[file://{tmp_path}] experiment=mine {command}")
        assert (resolved["lrs"], resolved["estimator"]["depth"], resolved["steps"]) == (lrs, 3, 10000)


def test_resolved_configuration_is_plain():
    resolved = resolve(BASE)
    assert OmegaConf.to_container(OmegaConf.create(resolved)) == resolved
    assert all(type(section) in (dict, list, str, int, float, bool, type(None)) for section in resolved.values())


def test_the_width_of_the_decoder():
    def width(typed: str):
        return resolve(typed)["task"]["decoder_hidden"]

    assert width("task=vae estimator=relax task.model=nonlinear") == 784
    assert width("task=vae estimator=relax task.model=nonlinear task.dataset=digits") == 64
    assert width("task=vae estimator=relax task.model=nonlinear task.decoder_hidden=200") == 200
    assert width("task=vae estimator=relax") is None
    with pytest.raises(config.ConfigError, match=r"task\.model=linear1 has no hidden layers"):
        width("task=vae estimator=relax task.decoder_hidden=200")


@pytest.mark.parametrize("task", ["vae", "categorical_vae", "sequence"])
def test_the_score_term_is_dropped_where_it_can_be(task):
    """A bound's weights and a relaxation need it: there the key says what is done, and names no other run."""

    def score_term(rest):
        return resolve(f"task={task} {rest}")["task"]["score_term"]

    assert score_term("estimator=rebar") == score_term("estimator=reinforce track=[vimco]") == "dropped"
    assert score_term("estimator=vimco track=[reinforce]") == "dropped"
    assert score_term("estimator=rebar task.score_term=kept") == "kept"
    for name in ("vimco", "concrete", "st_gumbel"):
        assert score_term(f"estimator={name}") == "kept"
        assert score_term(f"estimator={name} track=[straight_through]") == "kept"
    kept, dropped = (resolve(f"task={task} estimator=rloo task.score_term={value}") for value in ("kept", "dropped"))
    older = {**kept, "task": {k: v for k, v in kept["task"].items() if k != "score_term"}}
    assert identity.run_hash(older) == identity.run_hash(kept) != identity.run_hash(dropped)
