# SPDX-License-Identifier: Apache-2.0
"""Random HR training patches from photos in memory and from patch caches."""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import accumulate, permutations, tee
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mrda.config import DataConfig
from mrda.core.checks import check_choice
from mrda.core.progress import NoProgress, Progress, track
from mrda.data.cache import PatchCache, is_cache
from mrda.photo.images import ImageArray, Source, find_images, read_rgb, read_size, to_eight_bits
from mrda.photo.lanczos import resampled

# Files with the memory limit of a Linux container, for both versions of control groups.
CONTAINER_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
CHANNEL_ORDERS = tuple(permutations(range(3)))


class Turn(NamedTuple):
    """An augmentation: flips of the columns and the rows, then a transposition and an order of the channels."""

    columns: bool
    rows: bool
    transposed: bool
    channels: tuple[int, ...] = CHANNEL_ORDERS[0]

    @classmethod
    def drawn(cls, draw: Callable[[int], int], *, hflip: bool, rotate: bool, shuffle: bool = False) -> Turn:
        """Draw each that is wanted with probability 1/2, and one of the six orders of the channels where ``shuffle``.

        ``draw`` gives a number below its argument.
        """
        flips = hflip and draw(2) > 0, rotate and draw(2) > 0, rotate and draw(2) > 0
        return cls(*flips, CHANNEL_ORDERS[draw(len(CHANNEL_ORDERS)) if shuffle else 0])

    def __call__(self, patch: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """Turn a patch (C, H, W)."""
        if self.columns:
            patch = patch[:, :, ::-1]
        if self.rows:
            patch = patch[:, ::-1]
        if self.channels != CHANNEL_ORDERS[0]:
            patch = patch[list(self.channels)]
        return patch.transpose(0, 2, 1) if self.transposed else patch


def turns(config: DataConfig) -> dict[str, bool]:
    """Return the augmentations that a configuration asks for, as arguments of `Turn.drawn` and of the samplers."""
    return {"hflip": config.use_hflip, "rotate": config.use_rot, "shuffle": config.shuffle_channels}


class PatchSampler:
    """Draws square HR patches from random positions of random photos, flipped and transposed at random.

    For each patch it draws a photo and a position uniformly, then a horizontal flip, a vertical flip and a
    transposition, each independently with probability 1/2. In a cached photo it draws one of the tiles uniformly, then
    a position in the tile. Large and small photos are equally probable, unless ``draw`` is "pixels". Photos that are
    smaller than the patches are padded by reflection at bottom and right, as Real-ESRGAN does.

    Args:
        images: photos (H, W, 3), uint8 or uint16; 16-bit photos are reduced to 8 bits. Kept in memory.
        size: side of the patches in HR pixels, and the smallest side that a photo may have.
        names: names of the photos for error messages.
        caches: further photos, which stay on the disk.
        draw: "photos" to draw all photos with equal probability, "pixels" in proportion to their numbers of pixels.
        hflip: flip patches horizontally.
        rotate: flip patches vertically and transpose them.
        shuffle: put the channels of each patch into a random order.
        candidates: number of patches that are drawn for each; `detail` chooses among them.

    Raises:
        ValueError: there is no photo, or a photo or tile is smaller than the patches.
    """

    def __init__(
        self,
        images: Iterable[np.ndarray],
        size: int,
        names: Iterable[Source],
        caches: Iterable[PatchCache] = (),
        *,
        draw: str = "photos",
        hflip: bool = True,
        rotate: bool = True,
        shuffle: bool = False,
        candidates: int = 1,
    ) -> None:
        check_choice("draw", draw, ("photos", "pixels"))
        self.size = size
        self.turns = {"hflip": hflip, "rotate": rotate, "shuffle": shuffle}
        self.candidates = candidates
        self._images: list[npt.NDArray[np.uint8]] = []
        for image, name in zip(images, names, strict=True):
            height, width = image.shape[:2]
            if min(height, width) < size:
                raise ValueError(
                    f"training photo '{name}' has only {width} x {height} px, but the HR patches have "
                    f"{size} x {size} px: remove it, or train on smaller patches"
                )
            self._images.append(to_eight_bits(image))
        self._caches = list(caches)
        for cache in self._caches:
            cache.check_fits(size)
        # Photo number n is in memory below the first of these, in the first cache below the second, and so on.
        self._ends = list(accumulate([len(self._images), *(len(cache) for cache in self._caches)]))
        if not self._ends[-1]:
            raise ValueError("data.sources is empty: name a folder of photos, as in --set 'data.sources=[HR]'")
        self._pixel_ends: list[int] | None = None
        if draw == "pixels":
            pixels = [image.shape[0] * image.shape[1] for image in self._images]
            pixels += [cache.pixels(photo) for cache in self._caches for photo in range(len(cache))]
            self._pixel_ends = list(accumulate(pixels))

    def __len__(self) -> int:
        """Number of photos."""
        return self._ends[-1]

    def sample(self, batch: int, generator: torch.Generator, size: int | None = None) -> Tensor:
        """Draw ``batch`` patches: (batch, 3, size, size) uint8, which depend only on the generator's state.

        Args:
            batch: number of patches.
            generator: source of the random numbers.
            size: side of the patches in HR pixels, which may be larger than a photo; None is that of the sampler.
        """
        size = size or self.size
        # In numpy, because torch would use its threads for each small copy, and the training step needs them.
        patches = np.empty((batch, 3, size, size), np.uint8)
        for patch in patches:
            patch[...] = self._patch(size, generator)
        return torch.from_numpy(patches)

    def _patch(self, size: int, generator: torch.Generator) -> npt.NDArray[np.uint8]:
        def draw(limit: int) -> int:
            return int(torch.randint(limit, (), generator=generator))

        found = max((self._crop(size, draw) for _ in range(self.candidates)), key=detail)
        return Turn.drawn(draw, **self.turns)(found)

    def _crop(self, size: int, draw: Callable[[int], int]) -> npt.NDArray[np.uint8]:
        photo = (
            draw(len(self)) if self._pixel_ends is None else bisect_right(self._pixel_ends, draw(self._pixel_ends[-1]))
        )
        where = bisect_right(self._ends, photo)
        if where == 0:
            image = self._images[photo]
        else:
            cache, photo = self._caches[where - 1], photo - self._ends[where - 1]
            image = cache.tile(photo, draw(cache.tiles(photo)))
        missing = [(0, max(0, size - length)) for length in image.shape[:2]]
        if any(after for _, after in missing):
            image = np.pad(image, (*missing, (0, 0)), mode="reflect")
        top, left = draw(image.shape[0] - size + 1), draw(image.shape[1] - size + 1)
        return image[top : top + size, left : left + size].transpose(2, 0, 1)


def detail(patch: npt.NDArray[np.uint8]) -> int:
    """Return the sum of absolute differences between every second pixel of a patch (3, H, W), in green, both ways."""
    green = patch[1, ::2, ::2].astype(np.int16)
    return int(np.abs(np.diff(green, axis=0)).sum() + np.abs(np.diff(green, axis=1)).sum())


def load_patches(
    config: DataConfig, scale: int, progress: Progress | None = None, *, memory: int | None = None
) -> PatchSampler:
    """Read the photos that ``config.sources`` names, and open the caches among them.

    Args:
        config: the data section of the configuration.
        scale: upscaling factor; the HR patches are ``scale * config.patch_size`` px wide. Smaller photos are refused
            unless there is a ``config.crop_size``.
        progress: receives photos.
        memory: bytes that decoded photos may take; None is `memory_budget`.

    Raises:
        ValueError: no sources, an unreadable photo, one smaller than a patch, a damaged cache, or photos that need more
            than ``memory``.
    """
    caches = [PatchCache(source) for source in dict.fromkeys(config.sources) if is_cache(source)]
    for cache in caches:
        cache.check_tiles(config.crop_size or 0)
    photos = [source for source in config.sources if not is_cache(source)]
    sources = find_images(photos, recursive=config.recursive)
    advice = "make a cache of them with `mrda data prepare` and name it in data.sources instead"
    budget = memory_budget() if memory is None else memory
    copies = 1 + sum(factor**-2 for factor in config.reduced_by)
    check_memory(sources, budget, copies=copies, option="data.sources", advice=advice)
    # Photos smaller than the crops are padded by reflection, which needs two pixels.
    size = scale * config.patch_size if config.crop_size is None else 2
    read = track(sources, len(sources), "reading photos", progress or NoProgress())
    smallest = max(size, scale * config.patch_size)
    copies_of = ((image, source) for source in read for image in _copies(read_rgb(source), config.reduced_by, smallest))
    images, names = tee(copies_of)
    return PatchSampler(
        (image for image, _ in images),
        size,
        (name for _, name in names),
        caches,
        draw=config.draw,
        candidates=config.candidates,
        **turns(config),
    )


def _copies(image: ImageArray, factors: Sequence[float], smallest: int) -> Iterator[ImageArray]:
    """Yield a photo (H, W, 3), then reduced by each factor, unless that makes a side smaller than ``smallest``."""
    yield image
    for factor in factors:
        height, width = (round(length / factor) for length in image.shape[:2])
        if min(height, width) >= smallest:
            yield resampled(image, (height, width))


def memory_budget() -> int:
    """Return the bytes that decoded photos may take: a third of the memory of machine or container, per process."""
    limits = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")] if hasattr(os, "sysconf") else []
    for file in CONTAINER_LIMITS:
        text = Path(file).read_text(encoding="ascii").strip() if os.path.isfile(file) else ""
        if text.isdecimal():  # "max" means no limit
            limits.append(int(text))
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))  # set by torchrun and accelerate
    return min(limits, default=2**63) // (3 * processes)


def check_memory(sources: Sequence[Source], budget: int, *, option: str, advice: str, copies: float = 1) -> None:
    """Check that decoded photos fit into so many bytes.

    Args:
        sources: the photos.
        budget: the bytes.
        copies: times that each photo's pixels are kept, reduced copies by their share.
        option: the option that names them, for the message.
        advice: the way out, for the message.

    Raises:
        ValueError: they do not fit.
    """
    sizes = (read_size(source) for source in sources)
    needed = copies * sum(3 * width * height for width, height in sizes)
    if needed > budget:
        raise ValueError(
            f"the {len(sources)} photos of {option} take {needed / 1e9:.1f} GB of memory, but may take at most "
            f"{budget / 1e9:.1f} GB: {advice}"
        )
