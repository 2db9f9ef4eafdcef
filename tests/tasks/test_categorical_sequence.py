"""Text with latents over time: the corpus, the counts, the model against enumeration, replicas, what it reports."""

import itertools
import json
import math

import pytest
import torch
import torch.nn.functional as F
from running import beside_and_alone, execute, resolve
from torch.utils._pytree import tree_map

from relax_exp import testing
from relax_exp.data import text_corpus
from relax_exp.data.text_corpus import ALPHABET
from relax_exp.enumeration import checks, hierarchies
from relax_exp.errors import ConfigError, SettingError
from relax_exp.numerics.random_streams import stream
from relax_exp.runs.build import make_task
from relax_exp.tasks.base import draw
from relax_exp.tasks.sequence import Sequence
from relax_exp.training.replicas import Replicas


def make(estimator, **options) -> Sequence:
    options = {
        "variables": 3,
        "categories": 3,
        "segment": 2,
        "hidden": 6,
        "batch_size": 2,
        "variance_draws": 4,
    } | options
    return make_task("sequence", estimator, dtype=torch.float64, **options)


def moved(task: Sequence, seed: int = 0):
    generator = stream(seed, "moved")
    model = task.init(generator)
    return tree_map(lambda v: v + 0.3 * torch.randn(v.shape, generator=generator, dtype=v.dtype), model)


def test_the_corpus_and_what_is_held_out():
    blocks = text_corpus.read_corpus()
    text = "".join(blocks)
    assert len(text) > 24_000 and set(text) == set(ALPHABET) and "  " not in text
    assert text.startswith("the unanimous declaration of the thirteen united states of america. when in the course")
    train, held = text_corpus.split(blocks)
    assert len(held) == len(blocks) // 8 and sorted(train + held) == sorted(blocks)
    rows = text_corpus.windows(held, 2, 16, 16)
    assert rows.shape[1] == 18
    assert "".join(ALPHABET[i] for i in rows[1]) == held[0][16:34]


def test_counts_are_a_distribution_and_are_counted_by_hand():
    rows = torch.tensor([[ALPHABET.index(c) for c in "ab" + last] for last in ALPHABET], dtype=torch.uint8)
    bits = [text_corpus.count_bits(["abcabd", "bb"], rows[i : i + 1], 2) for i in range(len(rows))]
    assert sum(2**-b for b in bits) == pytest.approx(1)
    unigram = (1 + 4 / 30) / (8 + 4)  # eight letters, four different ones
    after_b = (1 + 3 * unigram) / (3 + 3)  # b is followed by c, d, b
    after_ab = (1 + 2 * after_b) / (2 + 2)  # ab by c, d
    assert 2 ** -bits[ALPHABET.index("c")] == pytest.approx(after_ab)


@pytest.mark.parametrize("order", [0, 1, 3])
def test_the_model_is_the_one_described(order):
    task = make({"name": "rloo"}, order=order)
    model, rows = moved(task), task.data[:2]
    p, given = model.params, max(order, 2)
    assert rows.shape[1] == given + 6
    x = task.pixels(rows, None)
    z = F.one_hot(torch.tensor([[0, 2, 1], [1, 1, 0]]), 3).double()
    log_x, log_z = torch.zeros(2, dtype=torch.float64), torch.zeros(2, dtype=torch.float64)
    for n, t in itertools.product(range(2), range(6)):
        k, place = divmod(t, 2)
        hidden = p["decoder.latent.weight"] @ z[n, k] + p["decoder.latent.bias"]
        hidden = hidden[6 * place : 6 * place + 6]
        if order:
            past = F.one_hot(rows[n, given + t - order : given + t].long(), len(ALPHABET)).double().flatten()
            hidden = hidden + p["decoder.past.weight"] @ past
        logits = p["decoder.out.weight"] @ hidden.tanh() + p["decoder.out.bias"]
        log_x[n] += logits.log_softmax(-1)[rows[n, given + t].long()]
    for n, k in itertools.product(range(2), range(3)):
        logits = p["prior"] + (p["transition.weight"] @ z[n, k - 1] if k else 0)
        log_z[n] += logits.log_softmax(-1)[z[n, k].argmax()]
    torch.testing.assert_close(task.hierarchy.call(p, "log_p", 0, z, x), log_x)
    torch.testing.assert_close(task.hierarchy.call(p, "log_prior", z), log_z)
    stacked = torch.stack([z, z.flip(0)])
    assert task.hierarchy.call(p, "log_p", 0, stacked, x).shape == (2, 2)


def test_the_encoder_sees_the_segment_and_its_neighbours():
    task = make({"name": "rloo"}, variables=5)
    params, x = moved(task).params, task.pixels(task.data[:1], None)
    encode = lambda x: task.hierarchy.call(params, "encode", 0, x)[0]  # noqa: E731
    changed = x.unflatten(-1, (-1, len(ALPHABET))).clone()
    changed[0, 2 + 2] = changed[0, 2 + 2].roll(1)  # a character of segment 1
    moves = (encode(changed.flatten(-2)) != encode(x)).any(-1)
    assert moves.tolist() == [True, True, True, False, False]


@pytest.mark.parametrize("estimator", [{"name": "arsm"}, {"name": "rloo"}, {"name": "relax", "width": 4, "depth": 1}])
def test_the_whole_step_against_enumeration(estimator):
    task = make(estimator, hidden=2, variables=2)
    model, x = moved(task), task.pixels(task.data[:2], None)
    one = lambda noise: hierarchies.flat(task.gradients(model, {"x": task.data[:2]}, noise).params)  # noqa: E731
    exact = hierarchies.flat(hierarchies.exact_parameter_gradient(task.hierarchy, model.params, x))
    verdict = checks.compare(one, task.noise_shapes(), exact, 10_000, stream(0, "draws"), 1_000)
    assert verdict.largest_z < testing.threshold(verdict.tests), verdict


def test_without_latents_the_bound_is_the_likelihood():
    task = make({"name": "reinforce"}, categories=1)
    model, rows = moved(task), task.data[:2]
    noise = {k: v[0] for k, v in draw(task.noise_shapes(), 1, stream(0, "noise"), torch.float64).items()}
    out = task.gradients(model, {"x": rows}, noise)
    z = torch.ones(2, 3, 1, dtype=torch.float64)
    log_p = task.hierarchy.call(model.params, "log_p", 0, z, task.pixels(rows, None)).mean()
    assert out.metrics["train/elbo"].item() == pytest.approx(log_p.item())
    assert out.metrics["train/bpc"].item() == pytest.approx(-log_p.item() / 6 / math.log(2))
    expected = torch.func.grad(
        lambda p: -task.hierarchy.call(p, "log_p", 0, z, task.pixels(rows, None)).mean()
    )(model.params)  # fmt: skip
    for key in expected:
        torch.testing.assert_close(out.params[key], expected[key])


@pytest.mark.parametrize(
    "estimator, relaxed",
    [({"name": "arsm"}, "elbo"), ({"name": "concrete"}, "density"), ({"name": "st_gumbel"}, "kl"),
     ({"name": "relax", "width": 4, "depth": 1}, "elbo")],
)  # fmt: skip
def test_replicas_equal_the_runs_made_alone(estimator, relaxed):
    task = make(estimator, relaxed=relaxed)
    beside_and_alone(task, steps=5)


def test_a_run_reports_bits_per_character(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    line = "task=sequence estimator=rloo task.hidden=4 steps=4 eval_every=2 task.variance_draws=3 seeds=[0,1] out=run"
    assert execute(line) == 0
    rows = [json.loads(row) for row in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    for row in rows:
        assert row["valid/bpc"] == pytest.approx(-row["valid/elbo"] / 32 / math.log(2))
        assert row["valid/bpc100"] <= row["valid/bpc"]
        assert 2 < row["valid/bpc_counts"] < 3
    assert "order-2 counts" in (tmp_path / "run" / "table.md").read_text()


def test_one_category_needs_an_estimator_that_copes():
    with pytest.raises(ConfigError, match="nothing to estimate"):
        resolve("task=sequence estimator=arsm task.categories=1")
    for name in ("reinforce", "rloo", "concrete"):
        task = make({"name": name}, categories=1)
        assert len(list(Replicas(task, [0], [1e-3]).advance(1))) == 1


def test_windows_that_no_block_of_the_text_holds():
    with pytest.raises(SettingError, match=r"lower task\.variables, task\.segment or task\.order"):
        make_task("sequence", {"name": "reinforce"}, variables=128)
