from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mrda.config import DataConfig
from mrda.data import PatchSampler, load_patches


def coordinates(height: int, width: int, number: int = 0) -> np.ndarray:
    """A photo whose pixels say where they are: (row, column, number of the photo)."""
    rows, columns = np.mgrid[:height, :width]
    return np.stack([rows, columns, np.full_like(rows, number)], axis=-1).astype(np.uint8)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_patches_are_a_function_of_the_generator_alone() -> None:
    sampler = PatchSampler([coordinates(20, 30), coordinates(25, 15, 1)], 8, ["a", "b"])
    first = sampler.sample(6, seeded(1))
    sampler.sample(3, seeded(9))
    assert torch.equal(sampler.sample(6, seeded(1)), first)
    assert not torch.equal(sampler.sample(6, seeded(2)), first)


def test_patches_are_windows_in_all_eight_orientations() -> None:
    height, width, size = 11, 9, 8
    sampler = PatchSampler([coordinates(height, width), coordinates(height, width, 1)], size, ["a", "b"])
    patches = sampler.sample(500, seeded(0))
    assert patches.shape == (500, 3, size, size)
    assert patches.dtype == torch.uint8

    steps = torch.arange(size, dtype=torch.uint8)
    places, orientations = set(), set()
    for rows, columns, number in patches:
        transposed = bool(rows[0, 0] == rows[1, 0])
        if transposed:
            rows, columns = rows.T, columns.T
        flips = (bool(rows[0, 0] > rows[1, 0]), bool(columns[0, 0] > columns[0, 1]))
        rows = rows.flip(0) if flips[0] else rows
        columns = columns.flip(1) if flips[1] else columns
        top, left = int(rows[0, 0]), int(columns[0, 0])
        assert torch.equal(rows, (top + steps)[:, None].expand(size, size))
        assert torch.equal(columns, (left + steps)[None].expand(size, size))
        places.add((int(number[0, 0]), top, left))
        orientations.add((transposed, *flips))
    # 16 places and 8 orientations in 500 draws: one of them stays away with probability below 1e-13.
    assert len(places) == 2 * (height - size + 1) * (width - size + 1)
    assert len(orientations) == 8


def test_sixteen_bits_are_reduced_to_eight() -> None:
    deep = np.full((4, 4, 3), 65535, np.uint16)
    deep[..., 1] = 257 * 100
    deep[..., 2] = 257 * 7 + 129
    patch = PatchSampler([deep], 4, ["deep"]).sample(1, seeded(0))
    assert patch[0, :, 0, 0].tolist() == [255, 100, 8]


def test_a_photo_smaller_than_the_patch_is_named() -> None:
    with pytest.raises(ValueError, match=r"'small' must be at least 16 x 16 px .*, it is 30 x 15"):
        PatchSampler([coordinates(16, 16), coordinates(15, 30)], 16, ["exact", "small"])


def test_sources_must_not_be_empty() -> None:
    with pytest.raises(ValueError, match=r"data\.sources must name at least one photo"):
        load_patches(DataConfig(sources=[]), scale=4)


@pytest.mark.parametrize(("recursive", "numbers"), [(False, {0}), (True, {0, 1})])
def test_folders_are_read_recursively_only_where_asked(recursive: bool, numbers: set[int], tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    Image.fromarray(coordinates(8, 8, 0)).save(tmp_path / "a.png")
    Image.fromarray(coordinates(8, 8, 1)).save(tmp_path / "inner" / "b.png")
    config = DataConfig(sources=[str(tmp_path)], recursive=recursive, patch_size=4)
    patches = load_patches(config, scale=2).sample(40, seeded(0))
    # Two photos in 40 draws: one is missed with probability 2^-39.
    assert set(patches[:, 2].flatten().tolist()) == numbers
    assert patches.shape[-1] == 8
