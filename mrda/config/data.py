# SPDX-License-Identifier: Apache-2.0
"""Training photos and their degradation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field, model_validator

from mrda.config.base import PositiveInt, Section
from mrda.options.classic import ClassicOptions


class PairsConfig(Section):
    """Photographs of the same scenes in two sizes, which files of the same names belong to."""

    lr: str
    """Folder of the LR photos."""
    hr: str
    """Folder of the HR photos, each `scale` times as high and wide; the same folder if names end in `_LR4` (with the
    scale) and `_HR`."""


class DataConfig(Section):
    """HR training photos, or pairs of LR and HR photos, and the patches that are cut out of them."""

    sources: list[str] = []
    """Folders, image files, caches made by `mrda data prepare`, or `skimage:NAME` for a photo from the scikit-image
    wheel. Photos are kept in memory, caches stay on disk."""
    pairs: list[PairsConfig] = []
    """Pairs of LR and HR folders in place of `sources`: what the stages degrade otherwise is then taken as it is. All
    photos are kept in memory."""
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
    candidates: PositiveInt = 1
    """Patches of `sources` that are drawn for each that is used, which is the one with the most detail: with more than
    one, fewer are of skies and blurred backgrounds, from which little is learned."""
    use_hflip: bool = True
    """Flip half of the patches horizontally."""
    use_rot: bool = True
    """Flip half of the patches vertically, and transpose half."""
    shuffle_channels: bool = False
    """Put the channels of each patch into a random order: colours become unnatural, but there are more textures."""
    reduced_by: list[Annotated[float, Field(gt=1)]] = []
    """Factors by which each photo of `sources` is also reduced, such as [2], because large photos often have little
    detail per pixel. Each copy is drawn like a photo of its own. Caches have none, nor have photos that would become
    smaller than the HR patches."""

    @model_validator(mode="after")
    def _photos_or_pairs(self) -> DataConfig:
        if self.pairs and self.sources:
            raise ValueError("pairs take the place of sources: set data.sources=[] or leave data.pairs out")
        for name, wanted in (("reduced_by", self.reduced_by), ("candidates", self.candidates > 1)):
            if self.pairs and wanted:
                raise ValueError(f"data.pairs are taken as they are: leave data.{name} out")
        return self


@dataclass(frozen=True)
class DegradationConfig(ClassicOptions):
    """Degradation that makes LR from HR: the classic one, by Gaussian blur, downsampling and Gaussian noise, or `real`.

    The options are those of the classic degradation. `real` is described by the section `real`; it takes `per`,
    `border` and `lr_up_from` from this one.
    """

    type: Literal["classic", "real"] = "classic"
    """Classic degradation, or that of real photos."""
    per: Literal["batch", "image"] = "image"
    """Draw one degradation per image, from which a DEN learns to tell degradations apart, or one per batch, as
    published, from which it learns several times slower. Stage 1b draws one per task in any case, unless `type` is
    real. With `data.pairs` each pair has its degradation: take every patch from a pair of its own, or all of a batch
    from one pair."""

    @property
    def resampling(self) -> dict[str, str]:
        """Options that the fixed degradations of an evaluation share with those of the training."""
        return {"downsample": self.downsample, "border": self.border, "lr_up_from": self.lr_up_from}
