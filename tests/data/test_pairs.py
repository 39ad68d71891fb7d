import numpy as np
import pytest
import torch
from PIL import Image

from mrda.config import DataConfig
from mrda.data.pairs import Pair, PairSampler, find_all_pairs, load_pairs, unpack


def scene(number: int, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """LR whose pixels name their number and place, and HR that repeats each of them."""
    rows, columns = np.mgrid[:height, :width]
    lr = np.stack([np.full_like(rows, number), rows, columns], axis=-1).astype(np.uint8)
    return lr, lr.repeat(2, axis=0).repeat(2, axis=1)


def sampler(**options) -> PairSampler:
    scenes = [scene(0, 9, 12), scene(1, 11, 7)]
    names = [Pair(str(number), f"lr{number}.png", f"hr{number}.png") for number in range(2)]
    return PairSampler(scenes, 5, names, 2, **options)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def write(folder, name, image):
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(folder / name)


def pairs(folder, lr="LR", hr="HR", **options):
    return DataConfig(pairs=[{"lr": str(folder / lr), "hr": str(folder / hr)}], patch_size=5, **options)


def test_patches_of_both_are_of_one_place_and_turned_alike():
    lr, hr = unpack(sampler().sample(200, seeded(0)), 2)
    assert lr.shape == (200, 3, 5, 5)
    torch.testing.assert_close(hr, lr.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3))
    assert {int(patch[0, 0, 0]) for patch in lr} == {0, 1}
    # Rows and columns that go up or down, and rows that have become columns: all eight orientations.
    steps = {tuple((patch[1:, 1, 1].int() - patch[1:, 0, 0].int()).tolist()) for patch in lr}
    swapped = {bool(patch[1, 0, 0] != patch[1, 0, 1]) for patch in lr}
    assert steps == {(1, 1), (1, -1), (-1, 1), (-1, -1)}
    assert swapped == {False, True}


def test_patches_can_come_from_one_pair():
    batches = [sampler().sample(8, seeded(seed), together=True) for seed in range(10)]
    numbers = [set(batch[:, 0].unique().tolist()) for batch in batches]
    assert all(len(found) == 1 for found in numbers)
    assert set.union(*numbers) == {0, 1}


def test_patches_depend_on_the_generator_alone():
    first = sampler().sample(4, seeded(1))
    assert torch.equal(sampler().sample(4, seeded(1)), first)
    assert not torch.equal(sampler().sample(4, seeded(2)), first)


def test_large_photos_can_count_more():
    shares = [
        float(sampler(draw=draw).sample(1000, seeded(0))[:, 0, 0, 0].float().mean()) for draw in ("photos", "pixels")
    ]
    assert shares == pytest.approx([0.5, 77 / (77 + 108)], abs=0.05)


def test_folders_become_pairs(tmp_path):
    for name in ("a", "b"):
        lr, hr = scene(0, 6, 7)
        write(tmp_path / "LR" / "deep", f"{name}x2.png", lr)
        write(tmp_path / "HR", f"{name}.png", hr)
    assert len(load_pairs(pairs(tmp_path), 2)) == 2
    with pytest.raises(ValueError, match="holds no image"):
        load_pairs(pairs(tmp_path, recursive=False), 2)


def test_one_folder_may_hold_both(tmp_path):
    lr, hr = scene(0, 6, 7)
    write(tmp_path, "scan_LR2.png", lr)
    write(tmp_path, "scan_HR.png", hr)
    config = pairs(tmp_path, "", "")
    assert find_all_pairs(config.pairs, 2) == [Pair("scan", tmp_path / "scan_LR2.png", tmp_path / "scan_HR.png")]
    with pytest.raises(ValueError, match="holds no photos NAME_LR4 and NAME_HR"):
        find_all_pairs(config.pairs, 4)


def test_sizes_that_do_not_match_are_one_sentence(tmp_path):
    lr, hr = scene(0, 6, 7)
    write(tmp_path / "LR", "a.png", lr)
    write(tmp_path / "HR", "a.png", hr[:-1])
    with pytest.raises(ValueError, match=r"a.png is 14x11 pixels, but must be 14x12, 2 times .* which is 7x6"):
        load_pairs(pairs(tmp_path), 2)


def test_photos_without_counterpart_or_room_are_refused(tmp_path):
    lr, hr = scene(0, 6, 4)
    write(tmp_path / "LR", "a.png", lr)
    write(tmp_path / "HR", "a.png", hr)
    with pytest.raises(ValueError, match=r"a.png' has only 4 x 6 px, but the LR patches have 5 x 5 px"):
        load_pairs(pairs(tmp_path), 2)
    with pytest.raises(ValueError, match=r"2 photos of data.pairs take .* GB of memory"):
        load_pairs(pairs(tmp_path), 2, memory=3 * (24 + 96) - 1)
    write(tmp_path / "LR", "b.png", lr)
    with pytest.raises(ValueError, match=r"b.png has no counterpart named b in the HR folder"):
        load_pairs(pairs(tmp_path), 2)


def test_pairs_and_sources_exclude_each_other(tmp_path):
    with pytest.raises(ValueError, match=r"pairs take the place of sources: set data.sources=\[\]"):
        pairs(tmp_path, sources=["photos"])
