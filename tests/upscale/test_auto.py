"""Each photo by the weights that suit it."""

import hashlib
import io
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

import mrda.upscale.weights
from mrda.networks import MRDAStudent, save_network
from mrda.photo.lanczos import resample
from mrda.photo.photo import Photo
from mrda.upscale.auto import AutoUpscaler
from mrda.upscale.batch import upscale_photos
from mrda.upscale.choice import PURPOSES, choose
from mrda.upscale.jobs import plan
from mrda.upscale.manifest import Manifest, origin
from mrda.upscale.upscaler import Upscaler

CLEAN, NOISY, REAL = PURPOSES


@pytest.fixture
def shipped(tmp_path, monkeypatch):
    """Small networks in place of the package's."""
    folder = tmp_path / "shipped"
    folder.mkdir()
    for seed, name in enumerate(PURPOSES):
        torch.manual_seed(seed)
        path = folder / f"{name}.safetensors"
        save_network(MRDAStudent(scale=2, num_feat=8, num_blocks=1, den_width=4), path)
        monkeypatch.setitem(mrda.upscale.weights.BUNDLED, name, hashlib.sha256(path.read_bytes()).hexdigest())
    monkeypatch.setattr(mrda.upscale.weights, "BUNDLED_FOLDER", folder)


def photo(noise=0.0, channels=3):
    ramp = np.mgrid[:64, :64].sum(axis=0)[..., None] + np.random.default_rng(0).normal(size=(64, 64, 3)) * noise
    return np.uint8(np.clip(ramp + 60, 0, 255))[..., :channels]


def by(name, image):
    return Upscaler.from_pretrained(name, device="cpu")(image)


def test_each_image_gets_the_weights_that_suit_it(shipped):
    upscaler = AutoUpscaler(device="cpu")
    assert upscaler.scale == 2
    for noise, name in ((0, CLEAN), (15, NOISY)):
        np.testing.assert_array_equal(upscaler(photo(noise)), by(name, photo(noise)))
        enlarged = upscaler(Image.fromarray(photo(noise)))
        np.testing.assert_array_equal(np.asarray(enlarged), by(name, photo(noise)))
    assert upscaler.upscaler(CLEAN) is upscaler.upscaler(CLEAN)


def test_weights_with_a_partner_are_taken_at_the_strength_of_their_purpose(shipped):
    strength = PURPOSES[REAL].strength
    assert 0 < strength < 1
    file = io.BytesIO()
    Image.fromarray(photo()).save(file, "JPEG", quality=40)
    with Image.open(file) as image:
        enlarged = AutoUpscaler(device="cpu")(image)
        expected = Upscaler.from_pretrained(REAL, strength=strength, device="cpu")(image)
        whole = by(REAL, image)
        assert f"{REAL} at strength {strength:g}" in str(choose(Photo(np.asarray(image), jpeg_quality=40)))
    np.testing.assert_array_equal(np.asarray(enlarged), np.asarray(expected))
    assert not np.array_equal(np.asarray(enlarged), np.asarray(whole))


def test_the_choice_takes_a_folder_of_the_users_as_it_is(shipped, tmp_path, monkeypatch):
    (tmp_path / REAL).mkdir()
    (tmp_path / REAL / "model.safetensors").write_bytes((tmp_path / "shipped" / f"{CLEAN}.safetensors").read_bytes())
    monkeypatch.chdir(tmp_path)
    pixels = photo()
    np.testing.assert_array_equal(AutoUpscaler(device="cpu").upscaler(REAL)(pixels), by(CLEAN, pixels))


def test_results_depend_on_the_limits_of_the_choice_too(shipped, monkeypatch):
    upscaler = AutoUpscaler(device="cpu")
    before = origin(upscaler)
    monkeypatch.setitem(PURPOSES, REAL, replace(PURPOSES[REAL], strength=0.5))
    assert origin(upscaler) != before


def test_weights_are_loaded_when_they_are_needed(shipped, monkeypatch):
    loaded = []
    load = Upscaler.from_pretrained
    monkeypatch.setattr(
        Upscaler, "from_pretrained", lambda name, **options: loaded.append(name) or load(name, **options)
    )
    upscaler = AutoUpscaler(device="cpu")
    for _ in range(2):
        upscaler(photo(15))
    assert loaded == [NOISY]


def test_a_photo_that_no_weights_suit_is_resampled_and_hidden_colours_leave_no_fringe(shipped):
    upscaler = AutoUpscaler(device="cpu")
    file = io.BytesIO()
    Image.fromarray(photo()).save(file, "JPEG", quality=5, dpi=(300, 300))
    with Image.open(file) as image:
        enlarged = upscaler(image)
        expected = np.concatenate(list(resample([np.asarray(image)], (64, 64), (128, 128))))
    np.testing.assert_array_equal(np.asarray(enlarged), expected)
    assert enlarged.info["dpi"] == (300, 300)


def test_images_of_other_kinds_are_refused(shipped):
    upscaler = AutoUpscaler(device="cpu")
    with pytest.raises(
        TypeError, match="image is an array of float32, but must be a Pillow image, or an array of uint8"
    ):
        upscaler(photo().astype(np.float32))
    with pytest.raises(TypeError, match="image is Tensor, but must be"):
        upscaler(torch.zeros(3, 9, 9))


def test_folders_choose_for_each_photo_and_tell(shipped, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    Image.fromarray(photo()).save(folder / "clean.png")
    Image.fromarray(photo(15)).save(folder / "noisy.png")
    Image.fromarray(photo()).save(folder / "saved.jpg", quality=40)
    Image.fromarray(photo()).save(folder / "worn.jpg", quality=5)
    rgba = np.dstack([photo(15), np.zeros((64, 64), np.uint8)])
    Image.fromarray(rgba).save(folder / "hidden.png")
    upscaler = AutoUpscaler(device="cpu")
    jobs = plan([folder], tmp_path / "out", suffix="x")
    results = {result.job.name.stem: result for result in upscale_photos(upscaler, jobs, scale=3)}
    assert {name: result.choice.weights for name, result in results.items()} == {
        "clean_x": CLEAN,
        "hidden_x": NOISY,
        "noisy_x": NOISY,
        "saved_x": REAL,
        "worn_x": None,
    }
    for name in ("clean", "noisy"):
        with Image.open(tmp_path / "out" / f"{name}_x.png") as result:
            pixels = photo(15 * (name == "noisy"))
            own = by(CLEAN if name == "clean" else NOISY, pixels)
            np.testing.assert_array_equal(result, np.concatenate(list(resample([own], (128, 128), (192, 192)))))
    with Image.open(tmp_path / "out" / "worn_x.jpg") as result:
        assert result.size == (192, 192)


def test_a_manifest_counts_with_the_same_package_only(shipped, tmp_path, monkeypatch):
    (tmp_path / "in").mkdir()
    Image.fromarray(photo()).save(tmp_path / "in" / "a.png")
    jobs = plan([tmp_path / "in"], tmp_path / "out", suffix="x")
    upscaler = AutoUpscaler(device="cpu")
    list(upscale_photos(upscaler, jobs, manifest=Manifest(tmp_path / "m", upscaler)))
    assert Manifest(tmp_path / "m", upscaler).has(jobs[0])
    assert not Manifest(tmp_path / "m", upscaler.upscaler(CLEAN)).has(jobs[0])
    monkeypatch.setitem(mrda.upscale.weights.BUNDLED, CLEAN, "0" * 64)
    assert not Manifest(tmp_path / "m", upscaler).has(jobs[0])
