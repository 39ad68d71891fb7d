# SPDX-License-Identifier: Apache-2.0
"""Training photos and their degradation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from mrda.config.base import PositiveInt, Section
from mrda.degradations import ClassicOptions


class DataConfig(Section):
    """HR training photos, and the patches that are cut out of them."""

    sources: list[str] = []
    """Folders, image files, caches made by `mrda data prepare`, or `skimage:NAME` for a photo from the scikit-image
    wheel. Photos are kept in memory, caches stay on disk."""
    recursive: bool = True
    """Search the subfolders of the folders too."""
    patch_size: PositiveInt = 64
    """Side of the training patches in LR pixels; the HR patches are `scale` times larger."""
    crop_size: PositiveInt | None = None
    """Side in HR pixels of the crops that the real degradation works on, before a patch is cut out of the result;
    smaller photos are reflected at their borders. null: the size of the HR patches."""
    draw: Literal["photos", "pixels"] = "photos"
    """Draw patches evenly from the photos, so that each photo counts the same, or evenly from all pixels, so that
    large photos count more."""
    use_hflip: bool = True
    """Flip half of the patches horizontally."""
    use_rot: bool = True
    """Flip half of the patches vertically, and transpose half."""


@dataclass(frozen=True)
class DegradationConfig(ClassicOptions):
    """Degradation that makes LR from HR: the classic one, by Gaussian blur, downsampling and Gaussian noise, or `real`.

    The options are those of the classic degradation. `real` is described by the section `real`; it takes `per`,
    `border` and `lr_up_from` from this one.
    """

    type: Literal["classic", "real"] = "classic"
    """Classic degradation, or that of real photos."""

    @property
    def resampling(self) -> dict[str, str]:
        """Options that the fixed degradations of an evaluation share with those of the training."""
        return {"downsample": self.downsample, "border": self.border, "lr_up_from": self.lr_up_from}
