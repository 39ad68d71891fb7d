import itertools

import numpy as np
import pytest

from mrda.core.tiling import strips, tiles


@pytest.mark.parametrize(
    ("height", "width", "side", "pad"), [(1, 1, 5, 3), (17, 9, 4, 2), (30, 31, 16, 40), (8, 8, 8, 0)]
)
def test_tiles_cover_a_band_once_and_see_their_surroundings(height, width, side, pad):
    rows = slice(height // 2, height)
    covered = np.zeros(width, int)
    for tile in tiles(rows, height, width, side, pad):
        covered[tile.columns] += 1
        assert tile.rows == rows
        assert 0 < tile.columns.stop - tile.columns.start <= side
        for own, seen, length in (
            (tile.rows, tile.seen_rows, height),
            (tile.columns, tile.seen_columns, width),
        ):
            assert seen == slice(max(0, own.start - pad), min(length, own.stop + pad))
    assert (covered == 1).all()


def test_tiles_are_about_the_same_size():
    sizes = {tile.columns.stop - tile.columns.start for tile in tiles(slice(0, 1), 1, 1001, 500, 0)}
    assert sizes == {333, 334}


@pytest.mark.parametrize(("height", "side"), [*itertools.product([1, 3, 4, 9, 32, 33], [1, 4, 6, 100])])
def test_strips_cover_the_rows_once_on_the_networks_grid(height, side):
    covered = np.zeros(height, int)
    for own, seen in strips(height, side, 12, 4):
        covered[own] += 1
        assert own.start % 4 == seen.start % 4 == 0
        assert own.stop == height or own.stop % 4 == 0
        assert seen.start <= max(0, own.start - 12)
        assert seen.stop == min(height, own.stop + 12)
    assert (covered == 1).all()
