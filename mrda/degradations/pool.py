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
    """Exchanges batches of pairs for pairs of earlier batches.

    The images of a batch share the draws that `RealDegradation(per="image")` makes once per batch; out of the pool
    comes a mixture. Where one degradation per batch is wanted (``per="batch"``) a pool would defeat that. While it is
    filled, batches are returned as they come. From then on as many pairs as the batch has leave it, chosen at random,
    and the batch takes their places.

    Images are kept in 8 bits, on the device of the first batch.

    Args:
        size: Number of pairs (``queue_size`` in Real-ESRGAN's option files, 180); a multiple of the batch.

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
            pair: A degraded batch, of the same shape each time. Its HR has 8-bit values, as image files do; other
                values are rounded.
            generator: Chooses the pairs that leave, on the device of ``pair``.

        Returns:
            As many pairs, without the kernel and the noise level. Sharpened HR, where ``pair`` has it, is made from
            HR anew, as Real-ESRGAN does, so that it may differ close to the borders of a patch.

        Raises:
            TypeError: ``generator`` is not a torch.Generator.
            ValueError: The size is no multiple of the batch, the images have other shapes than those in the pool, or
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
        """What a resumed run needs: the images (size, 3, H, W) in uint8, and how many there are so far.

        The images are those of the pool, not copies; there are none before the first batch.
        """
        return {**self._images, _FILLED: torch.tensor(self._filled)}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Go on from a `state_dict` of a pool of the same size; its images are copied.

        Raises:
            ValueError: The state is not one of such a pool.
        """
        filled = int(state[_FILLED]) if _FILLED in state else -1
        names = {_FILLED, *_IMAGES} if filled else {_FILLED}
        if not 0 <= filled <= self.size or set(state) != names:
            raise ValueError(
                f"state has {sorted(state)} with {filled} pairs, but must be that of a pool of {self.size}"
            )
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
        """Make room at the first batch, and see that later ones fit in."""
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
