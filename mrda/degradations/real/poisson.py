# SPDX-License-Identifier: Apache-2.0
"""Poisson random numbers with expectations from 8-bit images."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

PEAKS = tuple(2**n for n in range(9))

_LEVELS = 256
_COLUMN_BITS = 9  # the numbers below 512: of expectations up to 256, those beyond have a probability of 1e-44
_COLUMNS = 1 << _COLUMN_BITS
_DRAW_BITS = 31


def poisson(levels: Tensor, peaks: Tensor, generator: torch.Generator) -> Tensor:
    """Draw a Poisson number with the expectation levels / 255 * peak for each pixel.

    On the CPU, an alias table (Walker 1977) for each of the 256 levels turns a 31-bit random number into a Poisson
    number. Its probabilities are exact to 2^-31, and it takes a tenth of the time of torch's own sampler, which is used
    on other devices.

    Args:
        levels: (B, C, H, W), integers from 0 to 255 as floating point numbers.
        peaks: (B,) or (1,), each one of `PEAKS`, as floating point numbers.
        generator: On the device of ``levels``.

    Returns:
        The numbers, in the shape, dtype and device of ``levels``.
    """
    if levels.device.type != "cpu":
        return torch.poisson(levels * (peaks.to(levels) / 255)[:, None, None, None], generator)
    table, starts = _tables(tuple(int(peak) for peak in peaks.tolist()))
    draws = torch.empty(levels.shape, dtype=torch.int32).random_(generator=generator)
    # NaN becomes an arbitrary integer, which must not index beyond the table.
    places = levels.int().clamp_(0, _LEVELS - 1).mul_(_COLUMNS)
    places.add_(starts[:, None, None, None]).add_(draws.bitwise_and(_COLUMNS - 1))
    entries = table.index_select(0, places.view(-1)).view(levels.shape)
    return torch.minimum(draws, entries).bitwise_and_(_COLUMNS - 1).to(levels.dtype)


def _tables(peaks: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Return the tables of all different peaks, concatenated, and the offset of each peak's table in them."""
    found = sorted(set(peaks))
    tables = [_alias_table(peak) for peak in found]
    starts = torch.tensor([found.index(peak) * _LEVELS * _COLUMNS for peak in peaks], dtype=torch.int32)
    return tables[0] if len(tables) == 1 else torch.cat(tables), starts


@lru_cache(maxsize=len(PEAKS))
def _alias_table(peak: int) -> Tensor:
    """Return an entry for each level and column: (256 * 512,) int32.

    The lowest bits of a random number choose a column. If the random number is below the column's entry, the result is
    the column's index; otherwise it is the alias, in the lowest bits of the entry. In both cases the result is in the
    lowest bits of the smaller of the two.
    """
    with torch.inference_mode(False):  # cached tensors must work in training too
        numbers = torch.arange(_COLUMNS, dtype=torch.float64)
        expectations = (torch.arange(_LEVELS, dtype=torch.float64) * (peak / 255))[:, None]
        shares = torch.exp(torch.xlogy(numbers, expectations) - expectations - torch.lgamma(numbers + 1))
        shares = shares * (_COLUMNS / shares.sum(dim=1, keepdim=True))
        limits = torch.ones_like(shares)
        aliases = torch.arange(_COLUMNS).repeat(_LEVELS, 1)
        rows = torch.arange(_LEVELS)
        for _ in range(_COLUMNS):  # fill the emptiest column of each row from its fullest
            least, emptiest = shares.min(dim=1)
            fullest = shares.argmax(dim=1)
            open_rows = least < 1 - 1e-12
            if not open_rows.any():
                break
            row, low, high = rows[open_rows], emptiest[open_rows], fullest[open_rows]
            limits[row, low] = shares[row, low]
            aliases[row, low] = high
            shares[row, high] -= 1 - shares[row, low]
            shares[row, low] = 1
        scale = 1 << (_DRAW_BITS - _COLUMN_BITS)
        thresholds = (limits * scale).round().long().clamp(max=scale - 1)  # a full column is its own alias
        return (thresholds * _COLUMNS + aliases).int().view(-1)
