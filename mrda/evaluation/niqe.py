# SPDX-License-Identifier: Apache-2.0
"""NIQE (Mittal et al., IEEE SPL 2013): the distance of an image's statistics from those of pristine photographs.

Blocks of 96x96 pixels, and of 48x48 of the image at half its size, are described by 36 numbers: parameters of the
generalised Gaussians that fit the locally normalised luma and the products of its neighbours. NIQE is a distance of
their mean and covariance from those of a pristine model; lower is better. Steps and constants are the authors'.
"""

from __future__ import annotations

import importlib
import os
import zipfile
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mrda.core.checks import check_image, check_int
from mrda.core.faults import reason
from mrda.core.files import atomic_write
from mrda.degradations.quantize import quantize
from mrda.degradations.resample import bicubic
from mrda.networks.reading import UNREADABLE

FEATURES = 36
BLOCK = 96
"""Side of a block in pixels."""

_WINDOW = 7
_WINDOW_SIGMA = 7 / 6
_SHARPNESS = 0.75  # of the sharpest block: less sharp blocks do not represent a pristine photo
_SHIFTS = ((0, 1), (1, 0), (1, 1), (1, -1))
_LUMA = (65481, 128553, 24966)  # of (R, G, B) in 0..255, over 255000; plus 16
_FLAT = 1e-9  # differences of levels in 0..255 that are rounding alone


class PristineModel(NamedTuple):
    """Statistics of pristine photographs, in float64."""

    mean: Tensor
    """(36,)"""
    covariance: Tensor
    """(36, 36)"""


def niqe(image: Tensor, model: PristineModel, border: int = 0) -> Tensor:
    """Return the NIQE of each image of a batch.

    Images are rounded to 8 bits, then to whole levels of MATLAB's luma. Rows and columns beyond a multiple
    of 96 are cut off. A block without contrast contributes only its defined features to the mean.

    Args:
        image: (B, 3, H, W) in [0, 1]; room for two blocks at least.
        model: from `load_pristine` or `fit_pristine`.
        border: pixels to leave out on each side first.

    Returns:
        (B,) in float64, on the CPU.

    Raises:
        TypeError: the image is not a floating point tensor, or `border` not an int.
        ValueError: the image has another shape, or fewer than two of its blocks have any contrast.
    """
    check_image("image", image)
    check_int("border", border, minimum=0)
    return torch.stack([_score(_features(one, border)[0], model) for one in image])


def fit_pristine(images: Iterable[Tensor]) -> PristineModel:
    """Make a model of pristine photographs: of their sharpest blocks, as the authors made theirs.

    Args:
        images: (B, 3, H, W) in [0, 1], B = 1 where sizes differ; uncompressed, unprocessed and sharp ones.

    Raises:
        TypeError: an image is not a floating point tensor.
        ValueError: an image has another shape or is smaller than a block, or there are fewer than 37 usable blocks.
    """
    found = []
    for image in images:
        check_image("image", image)
        for one in image:
            features, sharpness = _features(one, 0)
            found.append(features[sharpness > _SHARPNESS * sharpness.max()])
    features = torch.cat(found) if found else torch.empty(0, FEATURES)
    usable = int(features.isfinite().all(dim=1).sum())
    if usable <= FEATURES:
        raise ValueError(
            f"images must have {FEATURES + 1} sharp blocks of {BLOCK}x{BLOCK} pixels with contrast, they have {usable}"
        )
    return PristineModel(*_mean_and_covariance(features))


def load_pristine(path: str | os.PathLike[str]) -> PristineModel:
    """Read a model.

    Args:
        path: file of `save_pristine`; BasicSR's niqe_pris_params.npz; or the authors' modelparameters.mat, which
            requires scipy.

    Raises:
        ValueError: the file can't be read or holds no such model; scipy is missing.
    """
    name = os.fspath(path)
    if not os.path.isfile(path):
        raise ValueError(f"there is no pristine model {name}")
    try:
        content = _read_mat(name) if Path(path).suffix == ".mat" else _read_npz(name)
    except (*UNREADABLE, zipfile.BadZipFile, NotImplementedError) as error:
        raise ValueError(f"pristine model {name} can't be read: {reason(error)}") from error
    arrays = []
    for keys, size in ((_MEAN_KEYS, FEATURES), (_COVARIANCE_KEYS, FEATURES**2)):
        array = next((content[key] for key in keys if key in content), None)
        if array is None or array.dtype.kind != "f" or array.size != size or not np.isfinite(array).all():
            raise ValueError(f"pristine model {name} must have {size} finite numbers under {' or '.join(keys)}")
        arrays.append(torch.from_numpy(np.array(array, dtype=np.float64)))
    return PristineModel(arrays[0].reshape(FEATURES), arrays[1].reshape(FEATURES, FEATURES))


def save_pristine(model: PristineModel, path: str | os.PathLike[str]) -> None:
    """Write a model as .npz, under BasicSR's keys; the file appears whole or not at all.

    Raises:
        ValueError: the path has another suffix.
        OSError: the file can't be written.
    """
    if Path(path).suffix != ".npz":
        raise ValueError(f"path is {os.fspath(path)}, but must end in .npz")
    with atomic_write(path) as file:
        np.savez(file, mu_pris_param=model.mean.numpy()[None], cov_pris_param=model.covariance.numpy())


_MEAN_KEYS = ("mu_pris_param", "mu_prisparam")
_COVARIANCE_KEYS = ("cov_pris_param", "cov_prisparam")


def _read_npz(name: str) -> dict[str, Any]:
    archive = np.load(name, allow_pickle=False)
    if not isinstance(archive, np.lib.npyio.NpzFile):
        raise ValueError("it is no .npz archive")
    with archive:
        return {key: archive[key] for key in archive.files}


def _read_mat(name: str) -> dict[str, Any]:
    try:
        scipy_io = importlib.import_module("scipy.io")
    except ImportError:
        raise ValueError("reading a .mat file requires scipy: install it, or use an .npz file") from None
    try:
        content = scipy_io.loadmat(name)
    except scipy_io.matlab.MatReadError as error:
        raise ValueError(reason(error)) from error
    return {key: value for key, value in content.items() if isinstance(value, np.ndarray)}


def _score(features: Tensor, model: PristineModel) -> Tensor:
    """NIQE of one image from the features (N, 36) of its blocks (Eq. 10 of Mittal et al.)."""
    usable = int(features.isfinite().all(dim=1).sum())
    if usable < 2:
        raise ValueError(f"image must have 2 blocks of {BLOCK}x{BLOCK} pixels with contrast for NIQE, it has {usable}")
    mean, covariance = _mean_and_covariance(features)
    difference = model.mean - mean
    inverse = torch.linalg.pinv((model.covariance + covariance) / 2)
    return (difference @ inverse @ difference).sqrt()


def _mean_and_covariance(features: Tensor) -> tuple[Tensor, Tensor]:
    """Mean of each column without NaN, and covariance of the rows without any NaN."""
    return features.nanmean(dim=0), torch.cov(features[features.isfinite().all(dim=1)].T)


def _features(image: Tensor, border: int) -> tuple[Tensor, Tensor]:
    """The features (N, 36) of the blocks of an image (3, H, W) in [0, 1], and their mean local deviation, (N,)."""
    luma = _luma(image)
    height, width = luma.shape
    rows, columns = ((side - 2 * border) // BLOCK for side in (height, width))
    if min(rows, columns) < 1:
        raise ValueError(
            f"image is {width}x{height} pixels, but NIQE requires at least {BLOCK}x{BLOCK} inside a border of {border}"
        )
    inner = luma[border:, border:][: rows * BLOCK, : columns * BLOCK]
    normalised, deviation = _normalise(inner)
    sharpness = _blocks(deviation, BLOCK).mean(dim=(1, 2))
    half, _ = _normalise(bicubic(inner[None, None], 0.5, "mirror")[0, 0])
    return torch.cat([_describe(_blocks(normalised, BLOCK)), _describe(_blocks(half, BLOCK // 2))], dim=1), sharpness


def _luma(image: Tensor) -> Tensor:
    """MATLAB's luma of (3, H, W) in whole levels, halves rounded up: (H, W) in float64."""
    levels = (255 * quantize(image.detach().to("cpu", torch.float64))).round()
    total = sum(weight * channel for weight, channel in zip(_LUMA, levels, strict=True))
    return torch.div(total + 16.5 * 255000, 255000, rounding_mode="floor")


def _normalise(luma: Tensor) -> tuple[Tensor, Tensor]:
    """Subtract the local mean, divide by the local deviation + 1; return the deviation too (Eq. 1 of Mittal et al.)."""
    offsets = torch.arange(_WINDOW, dtype=luma.dtype) - _WINDOW // 2
    window = torch.exp(-0.5 * (offsets / _WINDOW_SIGMA) ** 2)
    window = window / window.sum()

    def smooth(x: Tensor) -> Tensor:
        x = F.pad(x[None, None], [_WINDOW // 2] * 4, mode="replicate")
        return F.conv2d(F.conv2d(x, window.reshape(1, 1, -1, 1)), window.reshape(1, 1, 1, -1))[0, 0]

    mean = smooth(luma)
    deviation = (smooth(luma.square()) - mean.square()).abs().sqrt()
    difference = luma - mean
    # In a flat area these are rounding errors, whose signs would make NIQE random.
    difference[difference.abs() < _FLAT] = 0
    return difference / (deviation + 1), deviation


def _blocks(x: Tensor, side: int) -> Tensor:
    """Cut (R*side, C*side) into blocks (R*C, side, side)."""
    rows, columns = (size // side for size in x.shape)
    return x.reshape(rows, side, columns, side).transpose(1, 2).reshape(-1, side, side)


def _describe(blocks: Tensor) -> Tensor:
    """18 features of each block (N, h, w): of its values, and of the products of neighbours in four directions."""
    shape, left, right, _ = _fit(blocks)
    features = [shape, (left + right) / 2]
    for shift in _SHIFTS:
        shape, left, right, ratio = _fit(blocks * blocks.roll(shift, dims=(1, 2)))
        features += [shape, (right - left) * ratio, left, right]  # Eq. 8 of Mittal et al.
    return torch.stack(features, dim=1)


def _fit(blocks: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Fit an asymmetric generalised Gaussian to each block by its moments (Lasmar et al., 2009).

    Returns:
        Shape, left and right scale, and gamma(2/shape) / gamma(1/shape), each (N,). Where nothing is below 0 or nothing
        above it, the scales or one of them are NaN, and the shape is the least, as in the authors' release.
    """
    x = blocks.flatten(1)
    square = x.square()
    left, right = ((square * side).sum(dim=1).div(side.sum(dim=1)).sqrt() for side in (x < 0, x > 0))
    asymmetry = left / right
    ratio = x.abs().mean(dim=1).square() / square.mean(dim=1)
    ratio = ratio * (asymmetry**3 + 1) * (asymmetry + 1) / (asymmetry.square() + 1).square()
    table = _table()
    nearest = torch.bucketize(ratio, table.between).masked_fill(ratio.isnan(), 0)
    scale = table.scale[nearest]
    return table.shape[nearest], left * scale, right * scale, table.mean[nearest]


class _Table(NamedTuple):
    """Constants of generalised Gaussians for each candidate shape."""

    shape: Tensor
    between: Tensor
    """The ratios E|x|^2 / E[x^2] halfway between those of neighbouring candidates; they grow with the shape."""
    scale: Tensor
    """Scale over deviation."""
    mean: Tensor
    """gamma(2/shape) / gamma(1/shape)."""


@lru_cache(maxsize=1)
def _table() -> _Table:
    shape = torch.arange(200, 10001, dtype=torch.float64) / 1000
    one, two, three = (torch.lgamma(number / shape) for number in (1, 2, 3))
    ratio = torch.exp(2 * two - one - three)
    return _Table(shape, (ratio[1:] + ratio[:-1]) / 2, torch.exp((one - three) / 2), torch.exp(two - one))
