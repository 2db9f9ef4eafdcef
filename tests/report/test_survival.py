"""The product-limit estimate against hand-made numbers, and against plain means where all were followed to the end."""

import numpy as np
import pytest

from relax_exp.report.survival import survival


def test_without_censoring_it_is_the_empirical_distribution():
    times = np.random.default_rng(0).exponential(100, 30).round()
    found = survival(times, np.ones(30, bool))
    assert found.complete and found.n == 30
    mean, half = found.mean
    assert mean == pytest.approx(times.mean())
    assert half == pytest.approx(1.959964 * times.std(ddof=1) / 30**0.5)
    assert found.median == np.sort(times)[14]
    low, high = found.median_interval
    assert np.sort(times)[5] <= low < found.median < high <= np.sort(times)[24]


def test_a_worked_example_with_censoring():
    """Times 6, 6, 6, 6*, 7, 9*, 10, 10* (*: not seen to happen)."""
    times = np.array([6, 6, 6, 6, 7, 9, 10, 10])
    happened = np.array([1, 1, 1, 0, 1, 0, 1, 0], bool)
    found = survival(times, happened)
    assert found.times.tolist() == [6, 7, 10] and found.watched.tolist() == [8, 4, 2]
    assert found.share.tolist() == pytest.approx([5 / 8, 5 / 8 * 3 / 4, 5 / 8 * 3 / 4 / 2])
    assert not found.complete and found.median == 7
    mean, half = found.mean
    assert mean == pytest.approx(6 + 5 / 8 * 1 + 15 / 32 * 3)
    variance = (5 / 8 + 45 / 32) ** 2 * 3 / (8 * 5) + (45 / 32) ** 2 * 1 / (4 * 3)
    assert half == pytest.approx(1.959964 * (variance * 8 / 7) ** 0.5)


def test_intervals_cover():
    """Exponential times, a third of them censored: 95% intervals of mean and median hold the truth about so often."""
    generator, tau, inside = np.random.default_rng(1), 150.0, np.zeros(2)
    for _ in range(400):
        times = generator.exponential(100, 40)
        found = survival(np.minimum(times, tau), times <= tau)
        mean, half = found.mean
        low, high = found.median_interval
        inside += [abs(mean - 100 * (1 - np.exp(-tau / 100))) < half, low <= 100 * np.log(2) <= high]
    assert (inside > 0.91 * 400).all() and (inside < 0.99 * 400).all(), inside / 400


def test_where_nothing_happened():
    found = survival(np.array([50, 70]), np.zeros(2, bool))
    assert found.mean == (pytest.approx(70), 0.0) and np.isnan(found.median)
    assert found.median_interval == (np.inf, np.inf) and not found.complete
