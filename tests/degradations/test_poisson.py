"""The alias tables against the distribution itself, and drawing by them against drawing number by number."""

import numpy as np
import pytest
import torch

from mrda.degradations.real import poisson as module
from mrda.degradations.real.poisson import PEAKS, poisson

COLUMNS = 512


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(autouse=True)
def few_threads():
    """More threads only wait for each other in tensors of this size."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("peak", PEAKS)
def test_the_tables_hold_the_distribution(peak):
    stats = pytest.importorskip("scipy.stats", reason="needs scipy, which comes with scikit-image")
    entries = module._alias_table(peak).view(256, COLUMNS).long()
    thresholds, aliases = entries // COLUMNS / 2**22, entries % COLUMNS
    chances = torch.zeros(256, COLUMNS, dtype=torch.float64)
    chances += thresholds
    chances.scatter_add_(1, aliases, 1 - thresholds.double())
    expected = stats.poisson.pmf(np.arange(COLUMNS), np.arange(256)[:, None] * (peak / 255))
    # Each column that a number has a share of rounds to 2^-22 of a column.
    shares = torch.ones(256, COLUMNS, dtype=torch.float64).scatter_add_(1, aliases, torch.ones(256, COLUMNS).double())
    assert ((chances / COLUMNS - torch.from_numpy(expected)).abs() <= shares * 2.0**-31 + 1e-14).all()


def test_numbers_come_from_the_draws_one_by_one():
    levels = torch.randint(256, (3, 2, 4, 5), generator=seeded()).float()
    peaks = torch.tensor([256.0, 4.0, 256.0])
    counts = poisson(levels, peaks, seeded(1))
    draws = torch.empty(levels.shape, dtype=torch.int32).random_(generator=seeded(1))
    for place in np.ndindex(*levels.shape):
        table = module._alias_table(int(peaks[place[0]])).view(256, COLUMNS)
        draw = int(draws[place])
        entry = int(table[int(levels[place]), draw % COLUMNS])
        assert counts[place] == (draw if draw < entry else entry) % COLUMNS


def test_mean_and_variance_are_the_expectation():
    levels = torch.tensor([0.0, 1.0, 100.0, 255.0])[:, None, None, None].expand(4, 1, 200, 500)
    counts = poisson(levels, torch.tensor([64.0]), seeded()).double()
    expected = levels[:, 0, 0, 0].double() * 64 / 255
    pixels = 100_000
    # Five standard errors; the variance's has the fourth moment of the distribution, 3 l^2 + l.
    assert ((counts.mean(dim=(1, 2, 3)) - expected).abs() <= 5 * (expected / pixels).sqrt()).all()
    error = (counts.var(dim=(1, 2, 3)) - expected).abs()
    assert (error <= 5 * ((2 * expected**2 + expected) / pixels).sqrt()).all()


def test_one_peak_for_all_images_and_float64():
    levels = torch.randint(256, (3, 1, 4, 5), generator=seeded()).double()
    shared = poisson(levels, torch.tensor([8.0]), seeded(1))
    assert torch.equal(shared, poisson(levels, torch.full((3,), 8.0), seeded(1)))
    assert shared.dtype == torch.float64


def test_no_pixel_leads_out_of_the_table():
    levels = torch.tensor([float("nan"), float("inf"), -1.0, 300.0])[:, None, None, None]
    assert poisson(levels, torch.tensor([256.0]), seeded()).isfinite().all()


@pytest.mark.gpu
def test_a_gpu_uses_torch():
    levels = torch.full((2, 3, 64, 64), 100.0, device="cuda")
    counts = poisson(levels, torch.tensor([64.0, 1.0], device="cuda"), torch.Generator("cuda").manual_seed(0)).double()
    expected = torch.tensor([6400 / 255, 100 / 255], dtype=torch.float64)
    pixels = 3 * 64 * 64
    assert ((counts.mean(dim=(1, 2, 3)).cpu() - expected).abs() <= 5 * (expected / pixels).sqrt()).all()
