"""The verification rejects deliberately broken code: every mutant of `scripts/mutants.py`."""

import mutants
import pytest


@pytest.mark.parametrize("mutant", mutants.MUTANTS, ids=lambda m: m.mistake.replace(" ", "_"))
def test_mutant_is_rejected(mutant):
    assert not mutants.rejected(mutants.measure(mutant, 50_000)), "the shipped code itself is rejected"
    verdict = mutants.run(mutant, 50_000)
    assert mutants.rejected(verdict), verdict


def test_a_mutant_must_match_the_source():
    with pytest.raises(ValueError, match="occurs 0 times"), mutants.patched("distributions:Bernoulli.hard", "nope", ""):
        pass
