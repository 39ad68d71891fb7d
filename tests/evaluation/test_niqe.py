import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from mrda.degradations.resample import bicubic
from mrda.evaluation import niqe as module
from mrda.evaluation.niqe import PristineModel, fit_pristine, load_pristine, niqe, save_pristine
from mrda.photo.images import read_rgb, to_tensor

gamma = np.vectorize(math.gamma)


def noise(height=192, width=200, seed=0, smooth=1.0):
    """Smoothed noise (1, 3, H, W), which has something of everything and no flat area."""
    generator = torch.Generator().manual_seed(seed)
    image = bicubic(torch.rand(1, 3, height // 2 + 1, width // 2 + 1, generator=generator), 2)[..., :height, :width]
    fine = torch.rand(1, 3, height, width, generator=generator)
    return (smooth * image + (1 - smooth) * fine).clamp(0, 1)


# The authors' release, written down in numpy block by block.


CANDIDATES = np.arange(0.2, 10.0005, 0.001)
RATIOS = gamma(2 / CANDIDATES) ** 2 / (gamma(1 / CANDIDATES) * gamma(3 / CANDIDATES))


def aggd(block):
    left = np.sqrt(np.mean(block[block < 0] ** 2))
    right = np.sqrt(np.mean(block[block > 0] ** 2))
    asymmetry = left / right
    ratio = np.mean(np.abs(block)) ** 2 / np.mean(block**2)
    ratio = ratio * (asymmetry**3 + 1) * (asymmetry + 1) / (asymmetry**2 + 1) ** 2
    shape = CANDIDATES[np.argmin((RATIOS - ratio) ** 2)]
    scale = np.sqrt(gamma(1 / shape) / gamma(3 / shape))
    return shape, left * scale, right * scale


def described(block):
    shape, left, right = aggd(block)
    features = [shape, (left + right) / 2]
    for shift in ((0, 1), (1, 0), (1, 1), (1, -1)):
        shape, left, right = aggd(block * np.roll(block, shift, axis=(0, 1)))
        features += [shape, (right - left) * gamma(2 / shape) / gamma(1 / shape), left, right]
    return features


def normalised(y):
    offsets = np.arange(-3, 4)
    window = np.exp(-(offsets[:, None] ** 2 + offsets**2) / (2 * (7 / 6) ** 2))
    window /= window.sum()
    padded = np.pad(y, 3, mode="edge")
    views = np.lib.stride_tricks.sliding_window_view(padded, (7, 7))
    mean = np.einsum("hwij,ij->hw", views, window)
    deviation = np.sqrt(np.abs(np.einsum("hwij,ij->hw", views**2, window) - mean**2))
    return (y - mean) / (deviation + 1), deviation


def released(image, border=0):
    """Features (N, 36) and the sharpness of blocks, of (1, 3, H, W)."""
    r, g, b = np.rint(255 * image[0].double().numpy()).astype(np.int64)
    y = 16.0 + (65481 * r + 128553 * g + 24966 * b + 127500) // 255000
    y = y[border : y.shape[0] - border, border : y.shape[1] - border]
    rows, columns = y.shape[0] // 96, y.shape[1] // 96
    y = y[: 96 * rows, : 96 * columns]
    scales = []
    for side in (96, 48):
        values, deviation = normalised(y)
        blocks = [
            (slice(i * side, (i + 1) * side), slice(j * side, (j + 1) * side))
            for i in range(rows)
            for j in range(columns)
        ]
        scales.append([described(values[block]) for block in blocks])
        if side == 96:
            sharpness = np.array([deviation[block].mean() for block in blocks])
        y = bicubic(torch.from_numpy(y)[None, None], 0.5, "mirror")[0, 0].numpy()
    return np.concatenate(scales, axis=1), sharpness


def distance(features, model):
    difference = model.mean.numpy() - features.mean(axis=0)
    inverse = np.linalg.pinv((model.covariance.numpy() + np.cov(features, rowvar=False)) / 2)
    return math.sqrt(difference @ inverse @ difference)


@pytest.fixture(scope="module")
def model():
    """Not of pristine photographs, but of full rank."""
    return fit_pristine(noise(96 * 5, 96 * 5, seed=seed, smooth=1 - seed / 10) for seed in range(4))


def test_features_are_those_of_the_release():
    image = noise(200, 203)
    expected, wanted = released(image, border=3)
    found, sharpness = module._features(image[0], 3)
    # Sums of 96*96 numbers in another order, in float64; features are at most 10.
    budget = 10 * 96 * 96 * torch.finfo(torch.float64).eps
    np.testing.assert_allclose(found.numpy(), expected, rtol=0, atol=budget)
    np.testing.assert_allclose(sharpness.numpy(), wanted, rtol=0, atol=255 * budget)


def test_the_score_is_the_distance_of_the_release(model):
    images = torch.cat([noise(seed=seed, smooth=0.8) for seed in (7, 8)])
    found = niqe(images, model)
    assert found.dtype == torch.float64
    expected = [distance(released(image[None])[0], model) for image in images]
    # The features' error, times the condition of the covariances.
    budget = float(torch.linalg.cond(model.covariance)) * 96 * 96 * torch.finfo(torch.float64).eps
    assert budget < 1e-3
    assert found.tolist() == pytest.approx(expected, rel=budget)
    assert torch.equal(niqe(images, model, 4), niqe(images[..., 4:-4, 4:-4], model))


def test_a_model_is_of_the_sharpest_blocks():
    images = [noise(96 * 4, 96 * 4, seed=seed, smooth=0.9) for seed in range(4)]
    for image in images:
        image[..., :96, :] = 0.5 + (image[..., :96, :] - 0.5) / 8  # of little contrast
    both = [released(image) for image in images]
    features = np.concatenate([rows[sharp > 0.75 * sharp.max()] for rows, sharp in both])
    assert len(features) == 4 * 12
    found = fit_pristine(images)
    np.testing.assert_allclose(found.mean.numpy(), features.mean(axis=0), rtol=0, atol=1e-9)
    np.testing.assert_allclose(found.covariance.numpy(), np.cov(features, rowvar=False), rtol=0, atol=1e-9)
    assert torch.equal(fit_pristine([torch.cat(images)]).mean, found.mean)


def test_blur_and_noise_are_worse_than_what_the_model_knows(model):
    clean = noise(seed=20, smooth=0.8)
    blurred = bicubic(bicubic(clean, 0.25), 4)
    score, of_blurred = (float(niqe(image, model)) for image in (clean, blurred))
    assert of_blurred > 2 * score


def test_images_are_rounded_to_eight_bits_first(model):
    image = (255 * noise()).round() / 255
    assert torch.equal(niqe(image + 0.4 / 255, model), niqe(image, model))
    assert torch.equal(niqe(image.double(), model), niqe(image, model))


def test_flat_areas_are_no_lottery(model):
    """Nothing lies below or above the mean of a flat area, whatever the order in which its levels are summed."""
    image = noise()
    image[..., :150] = 0.7
    features, _ = module._features(image[0], 0)
    assert features[0, 0] == 0.2  # the release's shape where there is nothing to fit
    assert features[0, [1, 19]].isnan().all()
    assert features[1].isfinite().all()
    mean, covariance = module._mean_and_covariance(features)
    assert mean[0] == features[:, 0].mean()
    assert torch.equal(mean[1], features[[1, 3], 1].mean())
    assert torch.equal(covariance, torch.cov(features[[1, 3]].T))
    assert niqe(image, model).isfinite().all()
    # The same flat area, turned: sums of its levels round differently.
    turned = image.flip(-1).transpose(2, 3).contiguous()
    assert niqe(turned, model).isfinite().all()
    for level in range(256):
        values, _ = module._normalise(torch.full((20, 20), level + 0.1, dtype=torch.float64))
        assert not values.any()


def test_images_must_have_two_blocks_with_contrast(model):
    gray = torch.full((1, 3, 192, 192), 0.5)
    with pytest.raises(ValueError, match="2 blocks of 96x96 pixels with contrast for NIQE, it has 0"):
        niqe(gray, model)
    with pytest.raises(ValueError, match="for NIQE, it has 1"):
        niqe(noise(96, 191), model)
    with pytest.raises(ValueError, match="is 95x96 pixels, but NIQE requires at least 96x96 inside a border of 0"):
        niqe(torch.rand(1, 3, 96, 95), model)
    with pytest.raises(ValueError, match="inside a border of 4"):
        niqe(torch.rand(1, 3, 100, 192), model, 4)
    with pytest.raises(ValueError, match="image has shape"):
        niqe(torch.rand(1, 1, 192, 192), model)
    with pytest.raises(TypeError, match="image has dtype"):
        niqe(torch.zeros(1, 3, 192, 192, dtype=torch.uint8), model)
    with pytest.raises(ValueError, match=r"must have 37 sharp blocks .* they have 4"):
        fit_pristine([noise(192, 192)])
    with pytest.raises(ValueError, match="they have 0"):
        fit_pristine([])


def test_models_go_into_files_and_come_back(tmp_path, model):
    save_pristine(model, tmp_path / "model.npz")
    loaded = load_pristine(tmp_path / "model.npz")
    assert torch.equal(loaded.mean, model.mean)
    assert torch.equal(loaded.covariance, model.covariance)
    assert os.listdir(tmp_path) == ["model.npz"]
    with pytest.raises(ValueError, match=r"must end in \.npz"):
        save_pristine(model, tmp_path / "model.mat")


def test_the_published_forms_are_read(tmp_path, model):
    mean, covariance = model.mean.numpy()[None], model.covariance.numpy()
    basicsr = {"mu_pris_param": mean, "cov_pris_param": covariance, "gaussian_window": np.ones((7, 7))}
    np.savez(tmp_path / "niqe_pris_params.npz", **basicsr)
    loaded = [load_pristine(tmp_path / "niqe_pris_params.npz")]
    scipy_io = pytest.importorskip("scipy.io", reason="requires scipy")
    scipy_io.savemat(tmp_path / "modelparameters.mat", {"mu_prisparam": mean, "cov_prisparam": covariance})
    loaded.append(load_pristine(str(tmp_path / "modelparameters.mat")))
    for found in loaded:
        assert isinstance(found, PristineModel)
        assert torch.equal(found.mean, model.mean)
        assert torch.equal(found.covariance, model.covariance)


def test_other_files_are_refused(tmp_path, monkeypatch):
    path = tmp_path / "model.npz"
    with pytest.raises(ValueError, match=r"there is no pristine model .*model\.npz"):
        load_pristine(path)
    for content, words in (
        ({"mu_pris_param": np.ones(36)}, "must have 1296 finite numbers under cov_pris_param or cov_prisparam"),
        ({"mu_pris_param": np.ones(35), "cov_pris_param": np.eye(36)}, "must have 36 finite numbers"),
        ({"mu_pris_param": np.full(36, np.nan), "cov_pris_param": np.eye(36)}, "must have 36 finite numbers"),
        ({"mu_pris_param": np.array([{}] * 36), "cov_pris_param": np.eye(36)}, "can't be read"),
    ):
        np.savez(path, **content)
        with pytest.raises(ValueError, match=words):
            load_pristine(path)
    for name in ("model.npz", "model.mat"):
        (tmp_path / name).write_bytes(b"milk, bread\n")
        with pytest.raises(ValueError, match="can't be read"):
            load_pristine(tmp_path / name)
    np.save(tmp_path / "model.npy", np.ones(3))
    (tmp_path / "model.npy").rename(path)
    with pytest.raises(ValueError, match=r"it is no \.npz archive"):
        load_pristine(path)
    monkeypatch.setitem(__import__("sys").modules, "scipy.io", None)
    with pytest.raises(ValueError, match="requires scipy"):
        load_pristine(tmp_path / "model.mat")


def test_the_published_score_of_the_baboon():
    """MATLAB R2021a gives 5.72957338, as BasicSR's niqe.py notes."""
    folder = os.environ.get("MRDA_DATA")
    files = [] if folder is None else [Path(folder, "Set14", "baboon.png"), Path(folder, "niqe_pris_params.npz")]
    if not files or not all(file.exists() for file in files):
        pytest.skip("needs MRDA_DATA, with Set14/baboon.png and BasicSR's niqe_pris_params.npz")
    score = float(niqe(to_tensor(read_rgb(files[0])), load_pristine(files[1])))
    assert score == pytest.approx(5.72957338, abs=1e-6)
