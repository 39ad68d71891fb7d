# SPDX-License-Identifier: Apache-2.0
"""Fig. 10: the modulation map of the RDA convs, photo by photo."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from mrda.core.files import write_csv
from mrda.degradations.resample import bicubic
from mrda.evaluation.metrics import psnr_y
from mrda.networks import BlindNetwork, MRDAStudent
from mrda.paper.figures.canvas import Cell, csv_beside, new_figure, plain, save_figure, shorten
from mrda.photo.images import to_array

TEXTURE_WINDOW = 7
"""Side of the window, in LR pixels, in which texture is measured."""
HEADER = (
    *("photo", "scale", "sigma", "width", "height", "cropped", "map_min", "map_mean", "map_max"),
    *("texture_correlation", "psnr_y_bicubic", "psnr_y"),
)


@dataclass(frozen=True)
class Modulation:
    """A row of Fig. 10.

    Args:
        name: the photo's.
        scale: the network's.
        lr_up: LR enlarged by bicubic interpolation, (H, W, 3) uint8.
        sr: the network's result, (H, W, 3) uint8.
        modulation: the mean of the masks of all RDA convs (Eq. 9), (H / scale, W / scale) in [0, 1].
        texture: local standard deviation of LR, of the same shape, see `local_texture`.
        sigma: standard deviation of the photo's blur, in HR pixels; None for a photo that was taken as LR.
        psnr_bicubic: PSNR-Y of `lr_up` in dB; None if there is no HR.
        psnr: PSNR-Y of `sr` in dB; None if there is no HR.
        cropped: True if this is the centre of a larger photo.
    """

    name: str
    scale: int
    lr_up: npt.NDArray[np.uint8]
    sr: npt.NDArray[np.uint8]
    modulation: npt.NDArray[np.floating]
    texture: npt.NDArray[np.floating]
    sigma: float | None = None
    psnr_bicubic: float | None = None
    psnr: float | None = None
    cropped: bool = False

    @property
    def texture_correlation(self) -> float | None:
        """Pearson's correlation of `modulation` and `texture` over all LR pixels; None where one is constant."""
        pairs = np.stack([self.modulation.ravel(), self.texture.ravel()]).astype(np.float64)
        deviations = pairs - pairs.mean(axis=1, keepdims=True)
        norms = np.linalg.norm(deviations, axis=1)
        # Below this, what differs is the rounding of float32 values.
        if (norms <= np.finfo(np.float32).eps * np.linalg.norm(pairs, axis=1)).any():
            return None
        return float(deviations[0] @ deviations[1] / (norms[0] * norms[1]))

    @property
    def on_hr_grid(self) -> npt.NDArray[np.floating]:
        """The map enlarged to the HR grid by bilinear interpolation, which keeps within its range; not stretched."""
        small = torch.from_numpy(np.ascontiguousarray(self.modulation))[None, None]
        return F.interpolate(small, scale_factor=self.scale, mode="bilinear", align_corners=False)[0, 0].numpy()


def local_texture(lr: torch.Tensor, window: int = TEXTURE_WINDOW) -> torch.Tensor:
    """The standard deviation of the mean of RGB in a square around each pixel, the image reflected at its borders.

    Args:
        lr: (B, 3, H, W) in [0, 1].
        window: side of the square, odd; where the image is smaller, the largest that can be reflected.

    Returns:
        (B, 1, H, W), in float64.
    """
    gray = lr.double().mean(dim=1, keepdim=True)
    reach = min(window // 2, *(side - 1 for side in gray.shape[2:]))
    padded = F.pad(gray, (reach,) * 4, mode="reflect") if reach else gray
    mean, square = (F.avg_pool2d(values, 2 * reach + 1, stride=1) for values in (padded, padded.square()))
    return (square - mean.square()).clamp(min=0).sqrt()


def with_masks(network: BlindNetwork) -> MRDAStudent:
    """Return a network whose convolutions have masks.

    Raises:
        ValueError: it is a sister of MRDA's student, or its convolutions are those of an ablation.
    """
    if not isinstance(network, MRDAStudent):
        raise ValueError(f"the network is {type(network).__name__}, but only an MRDAStudent has masks to draw a map of")
    conv_type = network.rdan.hyperparameters["conv_type"]
    if conv_type != "rda":
        raise ValueError(f"the network has conv_type {conv_type!r}, but only 'rda' has masks to draw a map of")
    return network


@torch.no_grad()
def modulate(
    network: MRDAStudent,
    lr: torch.Tensor,
    *,
    name: str,
    hr: torch.Tensor | None = None,
    sigma: float | None = None,
    cropped: bool = False,
) -> Modulation:
    """Upscale LR and find the modulation map.

    Args:
        network: MRDA_S.
        lr: (1, 3, H, W) in [0, 1].
        name: the photo's.
        hr: original of `lr`, (1, 3, scale H, scale W), for the PSNR; None if it is unknown.
        sigma: standard deviation of the blur, in HR pixels.
        cropped: see `Modulation`.

    Raises:
        ValueError: the network has no masks, or makes NaN or infinite values.
    """
    with_masks(network)
    inputs = lr.to(next(network.parameters()))
    idr = network.degradation(inputs)
    sr = network(inputs, idr).to(lr)
    modulation = network.rdan.modulation_map(inputs, idr)[0, 0].float().cpu()
    if not (modulation.isfinite().all() and sr.isfinite().all()):
        raise ValueError(f"the network makes NaN or infinite values of {name}")
    enlarged = bicubic(lr, network.scale)
    return Modulation(
        name=name,
        scale=network.scale,
        lr_up=to_array(enlarged),
        sr=to_array(sr),
        modulation=modulation.numpy(),
        texture=local_texture(lr)[0, 0].numpy(),
        sigma=sigma,
        psnr_bicubic=None if hr is None else float(psnr_y(enlarged, hr, network.scale)),
        psnr=None if hr is None else float(psnr_y(sr, hr, network.scale)),
        cropped=cropped,
    )


def save_modulation(rows: Sequence[Modulation], path: str | Path) -> None:
    """Draw Fig. 10 and write its numbers beside it.

    Columns: LR enlarged by bicubic interpolation, SR, and the map on the HR grid, its colours stretched from its least
    to its greatest value, which the colour bar tells.

    Args:
        rows: one photo or more.
        path: the picture, PNG by its suffix; the CSV has its stem.

    Raises:
        ValueError: no rows.
        ModuleNotFoundError: matplotlib is missing.
    """
    if not rows:
        raise ValueError("rows must hold one photo at least")
    width = 3.3
    heights = [width * row.sr.shape[0] / row.sr.shape[1] + 0.42 for row in rows]
    figure = new_figure(3 * width + 0.7, sum(heights))
    grid = figure.add_gridspec(
        len(rows), 4, height_ratios=heights, width_ratios=[1, 1, 1, 0.04], wspace=0.04, hspace=0.16
    )
    for index, row in enumerate(rows):
        blurred = "" if row.sigma is None else f", blur of {row.sigma:g} px"
        titles = (
            f"{plain(shorten(row.name))}{blurred}\nbicubic{_decibels(row.psnr_bicubic)}",
            f"MRDA$_S$ x{row.scale}{_decibels(row.psnr)}",
            "modulation map"
            if row.texture_correlation is None
            else f"modulation map (r = {row.texture_correlation:.2f} with texture)",
        )
        for column, (title, picture) in enumerate(zip(titles, (row.lr_up, row.sr, row.on_hr_grid), strict=True)):
            cell = figure.add_subplot(grid[index, column])
            cell.set_axis_off()
            cell.set_title(title, fontsize=9)
            shown = cell.imshow(picture, cmap="magma")
        bar = figure.colorbar(shown, cax=figure.add_subplot(grid[index, 3]))
        bar.ax.tick_params(labelsize=7)
    write_csv(csv_beside(path), HEADER, [_numbers(row) for row in rows])
    save_figure(figure, path)


def _decibels(psnr: float | None) -> str:
    return "" if psnr is None else f", {psnr:.2f} dB"


def _numbers(row: Modulation) -> list[Cell]:
    height, width = row.sr.shape[:2]
    values = row.modulation.astype(np.float64)
    numbers = [float(values.min()), float(values.mean()), float(values.max())]
    cropped = str(row.cropped).lower()
    return [
        *(row.name, row.scale, row.sigma, width, height, cropped, *numbers),
        *(row.texture_correlation, row.psnr_bicubic, row.psnr),
    ]
