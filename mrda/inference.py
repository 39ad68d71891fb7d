"""Upscaling a photograph with a trained student: an image in, an image of the same kind out."""

import os
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from PIL import Image

from mrda.degradations.resample import bicubic
from mrda.images import canonical, to_array, to_tensor
from mrda.networks import MRDAStudent, Network, load_network, load_official
from mrda.networks.layers import to_channels_last

ImageT = TypeVar("ImageT", Image.Image, np.ndarray, torch.Tensor)


def load_weights(path: str | Path) -> Network:
    """Load a network of the method, whichever it is.

    Args:
        path: our safetensors, or a state dict of the authors (.pth or .pt).

    Raises:
        ValueError: there is no such file, or it does not hold such weights.
    """
    path = Path(path)
    if not os.path.isfile(path):
        raise ValueError(f"there is no weights file {path}")
    return load_official(path) if path.suffix in (".pth", ".pt") else load_network(path)


def default_device() -> str:
    """CUDA where there is such a device."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that there was not enough memory, of whatever device."""
    # torch has a class of its own for CUDA's; its CPU allocator raises a bare RuntimeError.
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)
    )


class Upscaler:
    """Blind super-resolution of photographs by MRDA_S: no HR, no kernel and no adaptation is needed.

    Args:
        network: the student; it is set to evaluation mode and, where `device` is given, moved there.
        device: where to compute; None leaves the network where it is.

    Raises:
        TypeError: `network` is not an MRDAStudent (the teacher and the MLN need the HR image).

    Example:
        >>> upscaler = Upscaler.from_pretrained("runs/demo/student/weights.safetensors")
        >>> upscaler(Image.open("photo.png")).save("photo_x4.png")
    """

    def __init__(self, network: MRDAStudent, *, device: torch.device | str | None = None) -> None:
        if not isinstance(network, MRDAStudent):
            raise TypeError(f"network is {type(network).__name__}, but must be an MRDAStudent")
        self.network = to_channels_last(network.eval().to(device))

    @classmethod
    def from_pretrained(cls, path: str | Path, *, device: torch.device | str | None = None) -> "Upscaler":
        """Load a student.

        Args:
            path: as for `load_weights`.
            device: where to compute; None chooses CUDA where there is such a device.

        Raises:
            ValueError: there is no such file, it does not hold weights, or those of another network.
        """
        network = load_weights(path)
        if not isinstance(network, MRDAStudent):
            raise ValueError(
                f"{path} holds the network {type(network).__name__}, but upscaling needs an MRDAStudent, "
                "the only one that does without the HR image"
            )
        return cls(network, device=device or default_device())

    @property
    def scale(self) -> int:
        """The factor by which height and width grow."""
        return self.network.scale

    def __call__(self, image: ImageT) -> ImageT:
        """Upscale an image.

        Gray images go through the network as three equal channels, whose results are averaged; alpha is
        enlarged by bicubic interpolation.

        Args:
            image: a Pillow image in any mode but 32-bit ones; a numpy array (H, W) or (H, W, C), uint8,
                uint16 or floating point in [0, 1]; or a floating-point tensor (C, H, W) or (B, C, H, W) in
                [0, 1].
                C is 1 (gray), 2 (gray, alpha), 3 (RGB) or 4 (RGB, alpha).

        Returns:
            The image `scale` times as high and wide: the same kind, dtype and channels (and device, of a
            tensor); values clipped to the range. Pillow's palette, CMYK and like modes come back as RGB.

        Raises:
            TypeError: another kind of image or dtype.
            ValueError: another shape, or a Pillow image whose value range is unknown.
        """
        if isinstance(image, Image.Image):
            return Image.fromarray(self._upscale_array(np.asarray(canonical(image))))
        if isinstance(image, np.ndarray):
            return self._upscale_array(image)
        if not isinstance(image, torch.Tensor):
            raise TypeError(f"image is {type(image).__name__}, but must be a Pillow image, array or tensor")
        if not image.is_floating_point():
            raise TypeError(f"image has dtype {image.dtype}, but must be a floating point tensor")
        if image.ndim not in (3, 4):
            raise ValueError(f"image has shape {tuple(image.shape)}, but must be (C, H, W) or (B, C, H, W)")
        sr = self._upscale(image if image.ndim == 4 else image[None]).to(image.device, image.dtype)
        return sr if image.ndim == 4 else sr[0]

    def _upscale_array(self, array: np.ndarray) -> np.ndarray:
        sr = to_array(self._upscale(to_tensor(array)), array.dtype)
        return sr if array.ndim == 3 else sr[..., 0]

    @torch.no_grad()  # not inference_mode, whose tensors the caller could not use in training
    def _upscale(self, image: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) -> (B, C, scale H, scale W), clipped to [0, 1]."""
        channels = image.shape[1]
        if channels not in (1, 2, 3, 4):
            raise ValueError(f"image has {channels} channels, but must have 1, 2, 3 or 4")
        parameter = next(self.network.parameters())
        image = image.to(parameter.device, parameter.dtype)
        colour, alpha = image.tensor_split([1 if channels < 3 else 3], dim=1)
        sr = self.network(colour.expand(-1, 3, -1, -1))
        if channels < 3:
            sr = sr.mean(dim=1, keepdim=True)
        if alpha.shape[1]:
            sr = torch.cat([sr, bicubic(alpha, self.scale)], dim=1)
        return sr.clamp(0, 1)
