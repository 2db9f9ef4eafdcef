"""Verdicts that a verification keeps: taken again where the code is the same, measured anew where it is not."""

import math
import sys

import pytest

from relax_exp import estimators
from relax_exp.enumeration import checks, problems
from relax_exp.estimators.antithetic import ARM, ARMS, DisARM
from relax_exp.estimators.arsm import ARSM
from relax_exp.studies import verdict_cache, verification

VERDICT = checks.Verdict(1.5, 0.5, 9, 0.25, 0.01, 0.99, 1e-6)


def counted(calls, verdict=VERDICT):
    def check(*arguments):
        calls.append(arguments)
        return verdict

    return check


def test_a_verdict_is_measured_once(tmp_path):
    calls: list = []
    kept = verdict_cache.VerdictCache(tmp_path / "measured.jsonl")
    assert kept(("arm", "p", "a1"), counted(calls), 1, 2) == VERDICT
    assert kept(("arm", "p", "a1"), counted(calls), 1, 2) == VERDICT
    again = verdict_cache.VerdictCache(tmp_path / "measured.jsonl")
    assert again(("arm", "p", "a1"), counted(calls), 1, 2) == VERDICT
    assert calls == [(1, 2)]
    again(("arm", "p", "a2"), counted(calls), 3)
    assert calls == [(1, 2), (3,)], "other code"


def test_a_torn_line_and_what_is_not_a_number(tmp_path):
    path, nothing = tmp_path / "measured.jsonl", VERDICT._replace(variance=math.nan)
    verdict_cache.VerdictCache(path)(("arm", "p", "a1"), counted([], nothing))
    whole = path.read_text()
    path.write_text(whole + whole[: len(whole) // 2])
    (found,) = verdict_cache.VerdictCache(path).known.values()
    assert math.isnan(found.variance) and found.largest_z == 1.5


def test_the_fingerprint_is_of_the_code_that_runs(monkeypatch):
    first = {cls: verdict_cache.fingerprint(cls, checks) for cls in (ARM, ARMS, DisARM, ARSM)}
    assert first[ARM] == first[DisARM] != first[ARSM]
    source = {name: verdict_cache.inspect.getsource(sys.modules[name]) for name in (ARM.__module__, ARSM.__module__)}

    def now(module, text):
        verdict_cache._code.cache_clear()
        original = verdict_cache.inspect.getsource
        with monkeypatch.context() as patch:
            patch.setattr(verdict_cache.inspect, "getsource", lambda m: text if m.__name__ == module else original(m))
            return {cls: verdict_cache.fingerprint(cls, checks) for cls in first}

    text = source[ARM.__module__]
    said = text.replace('"""Antithetic samples', '"""Other words').replace("logits: Tensor, u: Tensor", "logits, u")
    assert said != text and now(ARM.__module__, said) == first
    other = now(ARSM.__module__, source[ARSM.__module__].replace("1 - size * pi", "1 - (size + 0) * pi"))
    assert other[ARM] == first[ARM] and other[ARSM] != first[ARSM]
    both = now(ARM.__module__, text.replace("logits > logit_uniform", "logits >= logit_uniform"))
    assert both[ARM] != first[ARM] and both[ARSM] != first[ARSM], "ARSM is built on what antithetic.py has"
    verdict_cache._code.cache_clear()


def test_an_interrupted_verification_goes_on_where_it_stood(tmp_path, monkeypatch):
    problem = next(p for p in problems.problems() if p.name == "bernoulli 1 smooth")
    todo = [(name, problem, checks.build(name, {}, problem)) for name in ("arm", "disarm", "rloo")]
    asked, check = [], checks.check

    def watched(estimator, *rest):
        asked.append(type(estimator).__name__)
        if asked.count("DisARM") == 1 and asked[-1] == "DisARM":
            raise KeyboardInterrupt
        return check(estimator, *rest)

    monkeypatch.setattr(checks, "check", watched)
    path = tmp_path / "measured.jsonl"
    with pytest.raises(KeyboardInterrupt):
        verification.table(todo, [], 2000, verdict_cache.VerdictCache(path))
    rows = verification.table(todo, [], 2000, verdict_cache.VerdictCache(path))
    assert asked == ["Reinforce", "ARM", "DisARM", "DisARM", "RLOO"]
    assert [row["estimator"] for row in rows] == ["arm", "disarm", "rloo"]
    assert {row["verdict"] for row in rows} == {"unbiased"}
    assert estimators.lookup("arm").families == ("bernoulli",)
