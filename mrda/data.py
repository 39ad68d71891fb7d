"""HR training patches from photos that stay in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import torch
from torch import Tensor

from mrda.config import DataConfig
from mrda.images import Source, find_images, read_rgb

Track = Callable[[Iterable[Source], int], Iterable[Source]]


def untracked(sources: Iterable[Source], total: int) -> Iterable[Source]:
    """Track no progress."""
    return sources


class PatchSampler:
    """Square HR patches at random places of random photos, flipped and transposed at random.

    Each patch picks a photo and a place uniformly, then a horizontal flip, a vertical flip and a
    transposition, each with probability 1/2 and independently.

    Args:
        images: photos (H, W, 3), uint8 or uint16; 16-bit ones are reduced to 8 bits. Kept in memory.
        size: side of the patches in HR pixels.
        names: what to call the photos in an error message.

    Raises:
        ValueError: there is no photo, or one is smaller than the patches.
    """

    def __init__(self, images: Iterable[np.ndarray], size: int, names: Iterable[Source]) -> None:
        self.size = size
        self.images = []
        for image, name in zip(images, names, strict=True):
            height, width = image.shape[:2]
            if min(height, width) < size:
                raise ValueError(
                    f"training photo '{name}' must be at least {size} x {size} px (the HR patch), "
                    f"it is {width} x {height}"
                )
            self.images.append(torch.tensor(_eight_bits(image)).permute(2, 0, 1))
        if not self.images:
            raise ValueError("data.sources must name at least one photo or folder of photos, it is empty")

    def sample(self, batch: int, generator: torch.Generator) -> Tensor:
        """Draw ``batch`` patches: (batch, 3, size, size) uint8, a function of the generator's state alone."""
        return torch.stack([self._patch(generator) for _ in range(batch)])

    def _patch(self, generator: torch.Generator) -> Tensor:
        def draw(limit: int) -> int:
            return int(torch.randint(limit, (), generator=generator))

        image = self.images[draw(len(self.images))]
        top, left = draw(image.shape[1] - self.size + 1), draw(image.shape[2] - self.size + 1)
        patch = image[:, top : top + self.size, left : left + self.size]
        if draw(2):
            patch = patch.flip(2)
        if draw(2):
            patch = patch.flip(1)
        return patch.transpose(1, 2) if draw(2) else patch


def load_patches(config: DataConfig, scale: int, track: Track = untracked) -> PatchSampler:
    """Read the photos that ``config.sources`` names.

    Args:
        config: the data section of the configuration.
        scale: upscaling factor; the HR patches are ``scale * config.patch_size`` px wide.
        track: wraps the sources (given their number) while they are read, to show progress.

    Raises:
        ValueError: no sources, an unreadable photo, or one smaller than a patch; the photo is named.
    """
    sources = find_images(config.sources, recursive=config.recursive)
    images = (read_rgb(source) for source in track(sources, len(sources)))
    return PatchSampler(images, scale * config.patch_size, sources)


def _eight_bits(image: np.ndarray) -> np.ndarray:
    # 65535 = 257 * 255, so dividing by 257 maps white to white.
    return np.round(image / 257).astype(np.uint8) if image.dtype == np.uint16 else image
