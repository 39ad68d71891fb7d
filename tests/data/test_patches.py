import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from recorder import Recorder

from mrda.config import DataConfig
from mrda.data.cache import PatchCache
from mrda.data.patches import PatchSampler, load_patches, memory_budget
from mrda.data.prepare import prepare
from mrda.photo.images import read_rgb, to_eight_bits


def coordinates(height: int, width: int, number: int = 0) -> np.ndarray:
    """A photo whose pixels are their own coordinates: (row, column, number of the photo)."""
    rows, columns = np.mgrid[:height, :width]
    return np.stack([rows, columns, np.full_like(rows, number)], axis=-1).astype(np.uint8)


def place(patch: torch.Tensor) -> tuple[int, int, int, tuple[bool, bool, bool]]:
    """Return the origin of a patch of `coordinates`: photo, top, left, (transposed, flipped, mirrored)."""
    rows, columns, number = patch
    transposed = bool(rows[0, 0] == rows[1, 0])
    if transposed:
        rows, columns = rows.T, columns.T
    flips = (bool(rows[0, 0] > rows[1, 0]), bool(columns[0, 0] > columns[0, 1]))
    rows = rows.flip(0) if flips[0] else rows
    columns = columns.flip(1) if flips[1] else columns
    top, left = int(rows[0, 0]), int(columns[0, 0])
    steps, size = torch.arange(len(rows), dtype=torch.uint8), rows.shape
    assert torch.equal(rows, (top + steps)[:, None].expand(size))
    assert torch.equal(columns, (left + steps)[None].expand(size))
    assert (number == number[0, 0]).all()
    return int(number[0, 0]), top, left, (transposed, *flips)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_patches_are_a_function_of_the_generator_alone() -> None:
    sampler = PatchSampler([coordinates(20, 30), coordinates(25, 15, 1)], 8, ["a", "b"])
    first = sampler.sample(6, seeded(1))
    sampler.sample(3, seeded(9))
    assert torch.equal(sampler.sample(6, seeded(1)), first)
    assert not torch.equal(sampler.sample(6, seeded(2)), first)


def test_the_draws_stay_as_they_were() -> None:
    # Published results were trained on these very patches: photo, top, left, orientation.
    sampler = PatchSampler([coordinates(20, 30), coordinates(25, 15, 1)], 8, ["a", "b"])
    assert [place(patch) for patch in sampler.sample(4, seeded(1))] == [
        (1, 5, 4, (True, True, False)),
        (1, 5, 7, (True, False, False)),
        (0, 11, 22, (True, False, False)),
        (0, 2, 21, (False, False, True)),
    ]


def test_a_photo_smaller_than_the_crop_is_reflected_at_bottom_and_right() -> None:
    image = coordinates(8, 11)
    sampler = PatchSampler([image], 8, ["a"], hflip=False, rotate=False)
    [patch] = sampler.sample(1, seeded(0), size=20)
    expected = np.pad(image, ((0, 12), (0, 9), (0, 0)), mode="reflect").transpose(2, 0, 1)
    assert np.array_equal(patch.numpy(), expected)
    assert patch[:, 8].equal(patch[:, 6])  # the last row is not repeated
    assert sampler.sample(1, seeded(0)).shape == (1, 3, 8, 8)


@pytest.mark.parametrize(("hflip", "rotate", "count"), [(False, False, 1), (True, False, 2), (False, True, 4)])
def test_augmentation_can_be_left_out(hflip: bool, rotate: bool, count: int) -> None:
    sampler = PatchSampler([coordinates(9, 9)], 8, ["a"], hflip=hflip, rotate=rotate)
    orientations = {place(patch)[3] for patch in sampler.sample(100, seeded(0))}
    assert len(orientations) == count
    if not rotate:
        assert not any(transposed or flipped for transposed, flipped, _ in orientations)


def test_patches_are_windows_in_all_eight_orientations() -> None:
    height, width, size = 11, 9, 8
    sampler = PatchSampler([coordinates(height, width), coordinates(height, width, 1)], size, ["a", "b"])
    patches = sampler.sample(500, seeded(0))
    assert patches.shape == (500, 3, size, size)
    assert patches.dtype == torch.uint8

    places, orientations = set(), set()
    for patch in patches:
        *where, orientation = place(patch)
        places.add(tuple(where))
        orientations.add(orientation)
    # 16 places and 8 orientations in 500 draws: one of them stays away with probability below 1e-13.
    assert len(places) == 2 * (height - size + 1) * (width - size + 1)
    assert len(orientations) == 8


def test_channels_are_shuffled_into_all_six_orders() -> None:
    image = np.broadcast_to(np.array([10, 20, 30], np.uint8), (8, 8, 3))
    for shuffle, count in [(False, 1), (True, 6)]:
        patches = PatchSampler([image], 8, ["a"], shuffle=shuffle).sample(100, seeded(0))
        orders = {tuple(patch[:, 0, 0].tolist()) for patch in patches}
        assert len(orders) == count
        assert (patches == patches[:, :, :1, :1]).all()
        assert {tuple(sorted(order)) for order in orders} == {(10, 20, 30)}


def test_each_photo_is_reduced_besides_unless_it_gets_too_small(tmp_path: Path) -> None:
    large, small = np.full((40, 60, 3), 100, np.uint8), np.full((20, 30, 3), 200, np.uint8)
    config = DataConfig(sources=[str(save(tmp_path, large, small))], patch_size=8, reduced_by=[2, 2.5])
    sampler = load_patches(config, scale=2)
    assert len(sampler) == 4  # the large one at three sizes, the small one at its own: 10 rows are less than 16
    patches = sampler.sample(400, seeded(0))
    assert set(patches.unique().tolist()) == {100, 200}
    assert (patches[:, 0, 0, 0] == 100).float().mean() == pytest.approx(3 / 4, abs=0.09)  # four standard deviations


def test_reduced_copies_count_as_memory_and_not_for_pairs(tmp_path: Path) -> None:
    config = DataConfig(sources=[str(save(tmp_path, coordinates(20, 30)))], patch_size=4, reduced_by=[2])
    needed = 3 * 20 * 30 + 3 * 10 * 15
    assert len(load_patches(config, 2, memory=needed)) == 2
    with pytest.raises(ValueError, match="take at most"):
        load_patches(config, 2, memory=needed - 1)
    with pytest.raises(ValueError, match=r"leave data\.reduced_by out"):
        DataConfig(pairs=[{"lr": "LR", "hr": "HR"}], reduced_by=[2])
    with pytest.raises(ValueError, match="greater than 1"):
        DataConfig(reduced_by=[1])


def test_the_candidate_with_the_most_detail_is_taken(tmp_path: Path) -> None:
    flat, fine = np.full((16, 16, 3), 100, np.uint8), coordinates(16, 16)
    config = DataConfig(sources=[str(save(tmp_path, flat, fine))], patch_size=4)

    def flats(candidates: int) -> float:
        sampler = load_patches(config.model_copy(update={"candidates": candidates}), scale=2)
        return float((sampler.sample(400, seeded(0))[:, 1] == 100).all(-1).all(-1).float().mean())

    # A patch is flat if all candidates are; four standard deviations.
    assert flats(1) == pytest.approx(1 / 2, abs=0.1)
    assert flats(3) == pytest.approx(1 / 8, abs=0.07)
    with pytest.raises(ValueError, match=r"leave data\.candidates out"):
        DataConfig(pairs=[{"lr": "LR", "hr": "HR"}], candidates=2)


@pytest.mark.parametrize("cached", [False, True])
def test_photos_count_alike_or_by_their_pixels(cached: bool, tmp_path: Path) -> None:
    photos = [coordinates(8, 8), coordinates(24, 24, 1)]
    prepare([save(tmp_path / "photos", *photos)], tmp_path / "cache", size=16, overlap=8)
    kept = {"images": [], "caches": [PatchCache(tmp_path / "cache")]} if cached else {"images": photos}

    def share(draw: str) -> float:
        sampler = PatchSampler(size=8, names=[] if cached else ["a", "b"], draw=draw, **kept)
        return sum(place(patch)[0] for patch in sampler.sample(1000, seeded(0))) / 1000

    # Standard deviations are below 0.016.
    assert share("photos") == pytest.approx(0.5, abs=0.08)
    assert share("pixels") == pytest.approx(0.9, abs=0.08)


def test_sixteen_bits_are_reduced_to_eight() -> None:
    deep = np.full((4, 4, 3), 65535, np.uint16)
    deep[..., 1] = 257 * 100
    deep[..., 2] = 257 * 7 + 129
    patch = PatchSampler([deep], 4, ["deep"]).sample(1, seeded(0))
    assert patch[0, :, 0, 0].tolist() == [255, 100, 8]


def test_a_photo_smaller_than_the_patch_is_named() -> None:
    with pytest.raises(ValueError, match=r"'small' has only 30 x 15 px, but the HR patches have 16 x 16 px"):
        PatchSampler([coordinates(16, 16), coordinates(15, 30)], 16, ["exact", "small"])


def test_sources_must_not_be_empty() -> None:
    with pytest.raises(ValueError, match=r"data\.sources is empty: name a folder of photos"):
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


# --- caches


def save(folder: Path, *photos: np.ndarray) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for i, photo in enumerate(photos):
        Image.fromarray(photo).save(folder / f"{i}.png")
    return folder


def places_of(sampler: PatchSampler, count: int) -> set[tuple[int, int, int]]:
    return {place(patch)[:3] for patch in sampler.sample(count, seeded(0))}


def test_a_cache_gives_every_patch_of_its_photos(tmp_path: Path) -> None:
    photos = save(tmp_path / "photos", coordinates(14, 11), coordinates(9, 9, 1))
    prepare([photos], tmp_path / "cache", size=10, overlap=7)
    sampler = load_patches(DataConfig(sources=[str(tmp_path / "cache")], patch_size=4), scale=2)
    assert len(sampler) == 2
    everywhere = {(0, top, left) for top in range(7) for left in range(4)}
    everywhere |= {(1, top, left) for top in range(2) for left in range(2)}
    # The rarest of 32 places, in one tile of six alone, has probability 1/108: 4000 draws miss it at a chance of 1e-16.
    assert places_of(sampler, 4000) == everywhere


def test_a_photo_counts_once_however_many_tiles_it_has(tmp_path: Path) -> None:
    photos = save(tmp_path / "photos", coordinates(100, 100), coordinates(10, 10, 1))
    counts = prepare([photos], tmp_path / "cache", size=10, overlap=0).counts
    assert counts.tiles == 101
    sampler = load_patches(DataConfig(sources=[str(tmp_path / "cache")], patch_size=4), scale=2)
    small = sum(place(patch)[0] for patch in sampler.sample(1000, seeded(0)))
    assert abs(small - 500) < 5 * 1000**0.5 / 2


def test_patches_of_a_cache_are_a_function_of_the_generator_alone(tmp_path: Path) -> None:
    photos = save(tmp_path / "photos", coordinates(40, 40))
    prepare([photos], tmp_path / "cache", size=16)
    config = DataConfig(sources=[str(tmp_path / "cache")], patch_size=4)
    sampler = load_patches(config, scale=2)
    first = sampler.sample(6, seeded(1))
    sampler.sample(3, seeded(9))
    assert torch.equal(sampler.sample(6, seeded(1)), first)
    assert torch.equal(load_patches(config, scale=2).sample(6, seeded(1)), first)
    first.zero_()  # patches are copies: the file stays as it is
    assert load_patches(config, scale=2).sample(6, seeded(1)).any()


def test_caches_and_photos_mix(tmp_path: Path) -> None:
    one, two = (save(tmp_path / name, coordinates(8, 8, i)) for i, name in enumerate("ab"))
    three = save(tmp_path / "c", coordinates(8, 8, 2), coordinates(8, 8, 3))
    prepare([two], tmp_path / "cache2")
    prepare([three], tmp_path / "cache3")
    progress = Recorder()
    sources = [str(tmp_path / "cache2"), str(one), str(tmp_path / "cache3"), str(tmp_path / "cache2")]
    sampler = load_patches(DataConfig(sources=sources, patch_size=4), 2, progress)
    assert len(sampler) == 4  # a cache named twice counts once, as a photo does
    assert progress.told == [("reading photos", 0, 1), ("reading photos", 1, 1)]
    # Each of four photos in 200 draws: one is missed with a probability below 1e-24.
    assert {number for number, *_ in places_of(sampler, 200)} == {0, 1, 2, 3}


def test_a_photo_in_a_cache_that_is_too_small_is_named(tmp_path: Path) -> None:
    photos = save(tmp_path / "photos", coordinates(40, 40), coordinates(15, 30, 1), coordinates(40, 41))
    prepare([photos], tmp_path / "cache", size=16)
    load_patches(DataConfig(sources=[str(tmp_path / "cache")], patch_size=5), scale=3)
    with pytest.raises(
        ValueError, match=r"1\.png' in the patch cache .* has only 16 x 15 px, .* 16 x 16 px: .*min-size 16"
    ):
        load_patches(DataConfig(sources=[str(tmp_path / "cache")], patch_size=4), scale=4)
    with pytest.raises(
        ValueError, match=r"cache has tiles of 16 px, but the HR patches are 20 px .*--size 20` or more"
    ):
        load_patches(DataConfig(sources=[str(tmp_path / "cache")], patch_size=5), scale=4)


def test_crops_larger_than_a_cache_s_tiles_are_refused_and_smaller_photos_are_not(tmp_path: Path) -> None:
    photos = save(tmp_path / "photos", coordinates(40, 40), coordinates(6, 7, 1))
    prepare([photos], tmp_path / "cache", size=16)
    sources = [str(tmp_path / "cache")]
    sampler = load_patches(DataConfig(sources=sources, patch_size=4, crop_size=16), scale=4)
    assert sampler.sample(20, seeded(0), 16).shape == (20, 3, 16, 16)
    with pytest.raises(ValueError, match=r"cache has tiles of 16 px, but the HR patches are 17 px wide"):
        load_patches(DataConfig(sources=sources, patch_size=4, crop_size=17), scale=4)
    assert load_patches(DataConfig(sources=[str(photos)], patch_size=4, crop_size=17), scale=4)


# --- memory


def test_photos_that_do_not_fit_are_refused_before_they_are_decoded(tmp_path: Path) -> None:
    photos = save(tmp_path, coordinates(20, 30), coordinates(8, 10))
    config = DataConfig(sources=[str(photos)], patch_size=4)
    needed = 3 * (20 * 30 + 8 * 10)
    assert len(load_patches(config, 2, memory=needed)) == 2

    progress = Recorder()
    with pytest.raises(ValueError, match=r"the 2 photos of data\.sources take .* GB of memory, .*`mrda data prepare`"):
        load_patches(config, 2, progress, memory=needed - 1)
    assert progress.told == []
    prepare([photos], tmp_path / "cache")
    load_patches(DataConfig(sources=[str(tmp_path / "cache")], patch_size=4), 2, memory=0)


def test_the_memory_budget_is_a_third_of_the_machine_for_all_its_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    alone = memory_budget()
    assert 0 < alone < 2**50
    monkeypatch.setattr("mrda.data.patches.os.sysconf", {"SC_PHYS_PAGES": 3000, "SC_PAGE_SIZE": 4096}.__getitem__)
    assert memory_budget() == 1000 * 4096
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert memory_budget() == 250 * 4096


def test_a_containers_limit_counts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    limit = tmp_path / "memory.max"
    monkeypatch.setattr("mrda.data.patches.CONTAINER_LIMITS", (str(limit), str(tmp_path / "absent")))
    unlimited = memory_budget()
    limit.write_text("max\n")
    assert memory_budget() == unlimited
    limit.write_text("3000000\n")
    assert memory_budget() == 1_000_000


# --- real photos


@pytest.mark.skipif("MRDA_DATA" not in os.environ, reason="MRDA_DATA names no folder of photo sets")
def test_real_files_of_every_kind(tmp_path: Path) -> None:
    """Gray, with alpha, 16-bit: all can be trained on, and a cache holds their pixels."""
    folder = Path(os.environ["MRDA_DATA"]) / "RealESRGAN_inputs"
    if not folder.is_dir():
        pytest.skip(f"there is no {folder}")
    sampler = load_patches(DataConfig(sources=[str(folder)], patch_size=16), scale=2)
    prepared = prepare([folder], tmp_path / "cache", size=4096)  # one tile for each photo
    assert not prepared.failures
    assert not prepared.left_out
    cache = PatchCache(tmp_path / "cache")
    assert len(cache) == len(sampler)
    for photo, name in enumerate(cache.names):
        np.testing.assert_array_equal(cache.tile(photo, 0), to_eight_bits(read_rgb(name)))
