"""DEN, the degradation extraction network (paper, section III-C), and the oracle that takes its place in Table V."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from mrda.core.checks import check_image, check_int, check_like, check_odd, check_tensor
from mrda.core.tiling import strips
from mrda.networks.layers import NEGATIVE_SLOPE, conv3x3, initialize_he

STRIDE = 4
"""Input pixels per pixel of what a DEN averages."""
REACH = 12
"""Input pixels around which one of those sees, at most; a multiple of the stride."""


class DEN(nn.Module):
    """Six convolutions, two of stride 2, a global average and a two-layer MLP: an image to its raw IDR.

    LeakyReLU follows every layer but the last.

    Args:
        in_channels: 3 for the student, which reads LR; the MLN's width for the teacher, which reads its
            features.
        width: Channels of the first two convolutions; the next two have 2*width, the last two and the MLP
            4*width.

    Raises:
        ValueError: A size is below 1.
    """

    def __init__(self, *, in_channels: int = 3, width: int = 64) -> None:
        super().__init__()
        check_int("in_channels", in_channels)
        check_int("width", width)
        self.in_channels = in_channels
        self.width = width
        layers: list[nn.Module] = []
        channels = in_channels
        for out_channels, stride in (
            (width, 1),
            (width, 1),
            (2 * width, 2),
            (2 * width, 1),
            (4 * width, 2),
            (4 * width, 1),
        ):
            layers += [conv3x3(channels, out_channels, stride), nn.LeakyReLU(NEGATIVE_SLOPE)]
            channels = out_channels
        self.convs = nn.Sequential(*layers)
        self.mlp = nn.Sequential(
            nn.Linear(channels, channels), nn.LeakyReLU(NEGATIVE_SLOPE), nn.Linear(channels, channels)
        )

    def initialize_he(self) -> DEN:
        """Draw the weights anew by He's rule, for signals that stay of one size through all layers; returns itself."""
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d | nn.Linear):
                initialize_he(layer)
        return self

    @property
    def hyperparameters(self) -> dict[str, Any]:
        """The keyword arguments, fit for JSON, that build this network again."""
        return {"in_channels": self.in_channels, "width": self.width}

    def forward(self, x: Tensor) -> Tensor:
        """Return the raw IDR (B, 4*width) of ``x`` (B, in_channels, H, W), of any size from 1x1 up.

        It is the output of the MLP's last layer, with no activation: the vector that is distilled.

        Raises:
            TypeError: ``x`` is not a floating point tensor of the weights' dtype.
            ValueError: ``x`` has another shape or device.
        """
        check_image("x", x, channels=self.in_channels, like=next(self.convs.parameters()))
        return self.mlp(self.convs(x).mean(dim=(2, 3)))

    def in_strips(self, x: Tensor, rows: int) -> Tensor:
        """Return what :meth:`forward` returns, up to rounding, in memory for about ``rows`` rows of ``x`` at a time.

        The network is convolutions and an average: strips that overlap by its reach and start on its grid add up to
        the whole. ``x`` may lie on the host; each strip is moved to the weights' device and dtype.
        """
        weight = next(self.convs.parameters())
        check_image("x", x, channels=self.in_channels)
        total = torch.zeros(len(x), 4 * self.width, dtype=torch.float64)
        height, width = x.shape[2:]
        for own, seen in strips(height, rows, REACH, STRIDE):
            features = self.convs(x[:, :, seen].to(weight))
            first = (own.start - seen.start) // STRIDE
            last = first + -(-(own.stop - own.start) // STRIDE)
            total += features[:, :, first:last].sum(dim=(2, 3), dtype=torch.float64).cpu()
        pixels = -(-height // STRIDE) * -(-width // STRIDE)
        return self.mlp((total / pixels).to(weight))


class KernelDEN(nn.Module):
    """Five linear layers from the blur kernel itself to a raw IDR, LeakyReLU between them: the oracle of Table V.

    Args:
        blur_size: Side k of the blur kernels; odd.
        width: Each layer gives 4*width numbers; the paper names no widths.

    Raises:
        ValueError: A size is below 1, or ``blur_size`` is even.
    """

    def __init__(self, *, blur_size: int = 21, width: int = 64) -> None:
        super().__init__()
        check_odd("blur_size", blur_size)
        check_int("width", width)
        self.blur_size = blur_size
        self.width = width
        layers: list[nn.Module] = [nn.Linear(blur_size**2, 4 * width)]
        for _ in range(4):
            layers += [nn.LeakyReLU(NEGATIVE_SLOPE), nn.Linear(4 * width, 4 * width)]
        self.layers = nn.Sequential(*layers)

    @property
    def hyperparameters(self) -> dict[str, Any]:
        """The keyword arguments, fit for JSON, that build this network again."""
        return {"blur_size": self.blur_size, "width": self.width}

    def forward(self, kernel: Tensor) -> Tensor:
        """Return the raw IDR (B, 4*width) of blur kernels (B, k, k).

        Raises:
            TypeError: ``kernel`` is not a floating point tensor of the weights' dtype.
            ValueError: ``kernel`` has another shape or device.
        """
        check_tensor("kernel", kernel)
        side = self.blur_size
        if kernel.dim() != 3 or kernel.shape[1:] != (side, side):
            raise ValueError(f"kernel has shape {tuple(kernel.shape)}, but must be (B, {side}, {side})")
        check_like("kernel", kernel, next(self.layers.parameters()))
        return self.layers(kernel.flatten(1))
