# SPDX-License-Identifier: Apache-2.0
"""A pool of degraded pairs from which batches are mixed, as Real-ESRGAN's training does."""

from __future__ import annotations

import torch
from torch import Tensor

from mrda.core.checks import check_int
from mrda.degradations.classic import Degraded, check_generator
from mrda.degradations.sharpen import sharpen

_IMAGES = ("lr", "lr_up", "hr")
_FILLED = "filled"


class ShufflePool:
    """Exchanges the pairs of a batch for pairs of earlier batches.

    With one degradation per image, a batch still shares the draws that `RealDegradation` makes once per batch; the pool
    mixes them. It makes no sense with one degradation per batch. While the pool is being filled, batches are returned
    unchanged. After that, as many pairs as the batch has are chosen at random and returned, and the batch takes their
    places.

    Images are stored in 8 bits, on the device of the first batch.

    Args:
        size: Number of pairs, a multiple of the batch; ``queue_size`` in Real-ESRGAN's option files, where it is 180.

    Raises:
        TypeError: ``size`` is not an int.
        ValueError: ``size`` is below 1.
    """

    def __init__(self, size: int) -> None:
        check_int("size", size)
        self.size = size
        self._filled = 0
        self._images: dict[str, Tensor] = {}

    def __call__(self, pair: Degraded, generator: torch.Generator) -> Degraded:
        """Exchange a batch.

        Args:
            pair: A degraded batch, of the same shape in every call. Its HR should have 8-bit values, as image files
                have; other values are rounded.
            generator: Source of the choice of pairs, on the device of ``pair``.

        Returns:
            A batch of the same size, without kernel and noise level. If ``pair`` has sharpened HR, it is computed again
            from HR, as in Real-ESRGAN, so that it may differ near the borders of a patch.

        Raises:
            TypeError: ``generator`` is not a torch.Generator.
            ValueError: The size is not a multiple of the batch, the images differ in shape from those in the pool, or
                ``generator`` is on another device.
        """
        batch = len(pair.lr)
        if batch == 0 or self.size % batch:
            raise ValueError(f"size is {self.size}, but must be a multiple of the batch, which is {batch}")
        if (self.size - self._filled) % batch:
            raise ValueError(f"pair has {batch} images, but must have as many as the batches before it")
        check_generator(generator, pair.hr)
        arriving = {name: _to_bytes(getattr(pair, name)) for name in _IMAGES}
        self._prepare(arriving)
        if self._filled < self.size:
            places: slice | Tensor = slice(self._filled, self._filled + batch)
            leaving = arriving
            self._filled += batch
        else:
            places = torch.randperm(self.size, generator=generator, device=generator.device)[:batch]
            leaving = {name: images[places] for name, images in self._images.items()}
        for name, images in arriving.items():
            self._images[name][places] = images
        lr, lr_up, hr = (leaving[name].to(pair.hr.dtype) / 255 for name in _IMAGES)
        return Degraded(lr, lr_up, None, None, hr, None if pair.hr_sharp is None else sharpen(hr))

    def state_dict(self) -> dict[str, Tensor]:
        """Return the images (size, 3, H, W) in uint8 and the number of pairs so far, which a resumed run requires.

        The images are not copied; there are none before the first batch.
        """
        return {**self._images, _FILLED: torch.tensor(self._filled)}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore the `state_dict` of a pool of the same size; its images are copied.

        Raises:
            ValueError: The state is not that of such a pool.
        """
        filled = int(state[_FILLED]) if _FILLED in state else -1
        names = {_FILLED, *_IMAGES} if filled else {_FILLED}
        if not 0 <= filled <= self.size or set(state) != names:
            raise ValueError(f"state has {sorted(state)} with {filled} pairs, but must come from a pool of {self.size}")
        for name in names - {_FILLED}:
            images = state[name]
            if images.dtype != torch.uint8 or images.dim() != 4 or len(images) != self.size:
                raise ValueError(
                    f"state[{name!r}] has dtype {images.dtype} and shape {tuple(images.shape)}, but must have "
                    f"torch.uint8 and ({self.size}, 3, H, W)"
                )
        self._filled = filled
        self._images = {name: state[name].clone() for name in _IMAGES if name in state}

    def _prepare(self, arriving: dict[str, Tensor]) -> None:
        """Allocate the images at the first batch, and check the shapes of later ones."""
        for name, images in arriving.items():
            if name not in self._images:
                self._images[name] = torch.zeros(
                    (self.size, *images.shape[1:]), dtype=torch.uint8, device=images.device
                )
            kept = self._images[name]
            if kept.shape[1:] != images.shape[1:]:
                raise ValueError(
                    f"pair.{name} has shape {tuple(images.shape)}, but must be "
                    f"{(len(images), *kept.shape[1:])} as in the pool"
                )
            self._images[name] = kept.to(images.device)


def _to_bytes(images: Tensor) -> Tensor:
    return (255 * images).round().to(torch.uint8)
