# SPDX-License-Identifier: Apache-2.0
"""Pairs of LR and HR photographs of the same scenes: which files belong together, and training patches of them."""

from __future__ import annotations

import os
import re
from bisect import bisect_right
from collections.abc import Collection, Iterable, Mapping
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from mrda.config.data import DataConfig, PairsConfig
from mrda.core.checks import check_scale
from mrda.core.progress import NoProgress, Progress, track
from mrda.data.patches import Turn, check_memory, memory_budget, turns
from mrda.photo.images import ImageError, Source, find_images, read_rgb, source_name, to_eight_bits

if TYPE_CHECKING:
    import torch
    from torch import Tensor

_BEGINNING = "^im(g|age)?_"
_HR_END = r"_(HR|GT)$"


class Pair(NamedTuple):
    """The files of one scene."""

    name: str
    lr: Path
    hr: Path


def match_pairs(lr_photos: Iterable[Source], hr_photos: Iterable[Source], scale: int) -> list[Pair]:
    """Find the HR photo of each LR photo by its name.

    Files of the same name (without suffix) are a pair. The others are paired by their names without `_LR`, `_LR4`,
    `_x4`, `x4` or `_LRx4` (with the scale for 4) at the end of LR's, `_HR` or `_GT` at the end of HR's, and `im_`,
    `img_` or `image_` at the beginning of either, as in DIV2KRK.

    Args:
        lr_photos: files.
        hr_photos: files.
        scale: the factor between LR and HR; 2, 3 or 4.

    Returns:
        Pairs in the order of their names.

    Raises:
        ImageError: photos of one side differ in their suffix alone.
        ValueError: a photo has no counterpart, or two have the same one.
    """
    check_scale(scale)
    lr, hr = _by_name(lr_photos), _by_name(hr_photos)
    found = {name: Pair(name, lr.pop(name), hr.pop(name)) for name in sorted(lr.keys() & hr.keys())}
    lr_rest = _stripped(lr, _lr_end(scale))
    hr_rest = _stripped(hr, _HR_END)
    endings = {"HR": "_HR or _GT", "LR": f"_LR, _LR{scale}, _LRx{scale} or _x{scale}"}
    # Names that are not the same yet may differ in their beginnings.
    lr_other = _stripped({name: path for name, path in lr_rest.items() if name not in hr_rest}, _BEGINNING)
    hr_other = _stripped({name: path for name, path in hr_rest.items() if name not in lr_rest}, _BEGINNING)
    for rest, others, missing in ((lr_other, hr_other, "HR"), (hr_other, lr_other, "LR")):
        for name, path in rest.items():
            if name not in others:
                raise ValueError(
                    f"{path} has no counterpart named {name} in the {missing} folder, where {endings[missing]} may "
                    "follow the name, and im_, img_ or image_ precede it"
                )
    same = {name: path for name, path in lr_rest.items() if name in hr_rest}
    for name, path in [*same.items(), *lr_other.items()]:
        if name in found:
            raise ValueError(f"{path} and {found[name].lr} are both the LR photo of {name}")
        found[name] = Pair(name, path, hr_rest[name] if name in same else hr_other[name])
    return [found[name] for name in sorted(found)]


def find_all_pairs(sets: Collection[PairsConfig], scale: int, *, recursive: bool = True) -> list[Pair]:
    """List the pairs of the folders that a configuration names.

    Args:
        sets: the folders. One folder may hold LR and HR, as in RealSR: names with `_HR` or `_GT` at their end are then
            HR photos, and those with the scale or `_LR` are LR photos.
        scale: the factor between LR and HR.
        recursive: search subfolders too.

    Raises:
        ImageError: a folder holds no image, or can't be read.
        ValueError: as for `match_pairs`.
    """
    found = []
    for folders in sets:
        lr, hr = (find_images([folder], recursive=recursive) for folder in (folders.lr, folders.hr))
        if os.path.realpath(folders.lr) == os.path.realpath(folders.hr):
            lr = [photo for photo in lr if re.search(_lr_end(scale), source_name(photo), re.IGNORECASE)]
            hr = [photo for photo in hr if re.search(_HR_END, source_name(photo), re.IGNORECASE)]
            if not lr or not hr:
                raise ImageError(f"the folder {folders.lr} holds no photos NAME_LR{scale} and NAME_HR")
        found += match_pairs(lr, hr, scale)
    return found


def check_sizes(pair: Pair, lr: tuple[int, ...], hr: tuple[int, ...], scale: int) -> None:
    """Check that HR (H, W, ...) is ``scale`` times as high and wide as LR.

    Raises:
        ValueError: it is not; the message names the files and both sizes.
    """
    height, width = (scale * side for side in lr[:2])
    if hr[:2] != (height, width):
        raise ValueError(
            f"{pair.hr} is {hr[1]}x{hr[0]} pixels, but must be {width}x{height}, {scale} times as wide and high as "
            f"{pair.lr}, which is {lr[1]}x{lr[0]}"
        )


class PairSampler:
    """Draws square patches of LR, and the same places of HR, flipped and transposed alike at random.

    Args:
        pairs: LR (h, w, 3) and HR (scale h, scale w, 3), uint8 or uint16; 16-bit photos are reduced to 8 bits.
        size: side of the patches in LR pixels.
        names: the files, for messages.
        scale: the factor between LR and HR.
        draw: "photos" to draw all pairs with equal probability, "pixels" in proportion to their numbers of pixels.
        hflip: flip patches horizontally.
        rotate: flip patches vertically and transpose them.
        shuffle: put the channels of each patch into a random order.

    Raises:
        ValueError: the sizes of a pair do not match, or LR is smaller than the patches.
    """

    def __init__(
        self,
        pairs: Iterable[tuple[np.ndarray, np.ndarray]],
        size: int,
        names: Iterable[Pair],
        scale: int,
        *,
        draw: str = "photos",
        hflip: bool = True,
        rotate: bool = True,
        shuffle: bool = False,
    ) -> None:
        self.size, self.scale = size, scale
        self.turns = {"hflip": hflip, "rotate": rotate, "shuffle": shuffle}
        self._pairs: list[tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]] = []
        for (lr, hr), name in zip(pairs, names, strict=True):
            check_sizes(name, lr.shape, hr.shape, scale)
            if min(lr.shape[:2]) < size:
                raise ValueError(
                    f"training photo '{name.lr}' has only {lr.shape[1]} x {lr.shape[0]} px, but the LR patches have "
                    f"{size} x {size} px: remove the pair, or train on smaller patches"
                )
            self._pairs.append((to_eight_bits(lr), to_eight_bits(hr)))
        shares = [lr.shape[0] * lr.shape[1] if draw == "pixels" else 1 for lr, _ in self._pairs]
        self._ends = list(accumulate(shares))

    def __len__(self) -> int:
        """Number of pairs."""
        return len(self._pairs)

    def sample(self, batch: int, generator: torch.Generator, *, together: bool = False) -> Tensor:
        """Draw ``batch`` patches, which depend only on the generator's state.

        Args:
            batch: number of patches.
            generator: source of the random numbers.
            together: draw all of them from one pair, so that they share its degradation.

        Returns:
            (batch, 3 + 3 scale², size, size) uint8, which `unpack` divides into LR and HR.
        """
        import torch
        import torch.nn.functional as F

        def draw(limit: int) -> int:
            return int(torch.randint(limit, (), generator=generator))

        patches = np.empty((batch, 3 * (1 + self.scale**2), self.size, self.size), np.uint8)
        number = None
        for patch in patches:
            if number is None or not together:
                number = bisect_right(self._ends, draw(self._ends[-1]))
            lr, hr = self._pairs[number]
            top, left = (draw(length - self.size + 1) for length in lr.shape[:2])
            turn = Turn.drawn(draw, **self.turns)
            patch[:3] = turn(_patch(lr, top, left, self.size))
            there = turn(_patch(hr, *(self.scale * length for length in (top, left, self.size))))
            patch[3:] = F.pixel_unshuffle(torch.from_numpy(np.ascontiguousarray(there)), self.scale).numpy()
        return torch.from_numpy(patches)


def unpack(patches: Tensor, scale: int) -> tuple[Tensor, Tensor]:
    """Divide a batch of `PairSampler.sample` into LR (B, 3, H, W) and HR (B, 3, scale H, scale W)."""
    import torch.nn.functional as F

    return patches[:, :3], F.pixel_shuffle(patches[:, 3:], scale)


def load_pairs(
    config: DataConfig, scale: int, progress: Progress | None = None, *, memory: int | None = None
) -> PairSampler:
    """Read the photos of ``config.pairs``.

    Args:
        config: the data section of the configuration.
        scale: the factor between LR and HR.
        progress: receives pairs.
        memory: bytes that decoded photos may take; None is `mrda.data.patches.memory_budget`.

    Raises:
        ValueError: a photo is unreadable or has no counterpart, sizes do not match, LR is smaller than a patch, or the
            photos need more than ``memory``.
    """
    pairs = find_all_pairs(config.pairs, scale, recursive=config.recursive)
    files = [path for pair in pairs for path in (pair.lr, pair.hr)]
    advice = "name fewer of them, or cut them into parts of the same places and keep some"
    check_memory(files, memory_budget() if memory is None else memory, option="data.pairs", advice=advice)
    read = track(pairs, len(pairs), "reading pairs", progress or NoProgress())
    arrays = ((read_rgb(pair.lr), read_rgb(pair.hr)) for pair in read)
    return PairSampler(arrays, config.patch_size, pairs, scale, draw=config.draw, **turns(config))


def _patch(image: npt.NDArray[np.uint8], top: int, left: int, size: int) -> npt.NDArray[np.uint8]:
    return image[top : top + size, left : left + size].transpose(2, 0, 1)


def _lr_end(scale: int) -> str:
    """Return a regular expression of the ends of LR's names."""
    return rf"(_LR(x?{scale})?|_?x{scale})$"


def _by_name(photos: Iterable[Source]) -> dict[str, Path]:
    """Return photos by their names without suffix, and refuse two of one name."""
    names: dict[str, Path] = {}
    for photo in map(Path, photos):
        if names.setdefault(photo.stem, photo) is not photo:
            other, unknown = names[photo.stem], "have the same name, so their partner is not known"
            if other.parent == photo.parent:
                raise ImageError(f"{other} and {photo.name} {unknown}")
            raise ImageError(f"{other} and {photo} {unknown}: name each of their folders as a pair of its own")
    return names


def _stripped(photos: Mapping[str, Path], part: str) -> dict[str, Path]:
    """Photos by their names without a part, which is a regular expression in upper or lower case."""
    named: dict[str, Path] = {}
    for stem, path in photos.items():
        name = re.sub(part, "", stem, flags=re.IGNORECASE)
        if name in named:
            raise ValueError(f"{named[name]} and {path.name} are both named {name}, so their partner is not known")
        named[name] = path
    return named
