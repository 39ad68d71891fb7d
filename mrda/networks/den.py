# SPDX-License-Identifier: Apache-2.0
"""DEN, the degradation extraction network (paper, section III-C), and the oracle that replaces it in Table V."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mrda.core.checks import check_image, check_like, check_odd, check_tensor
from mrda.core.tiling import strips
from mrda.degradations.kernels import KERNEL_SIZE
from mrda.networks.layers import NEGATIVE_SLOPE, any_tensor, conv3x3, initialize_he
from mrda.networks.options import Configured, Options

STRIDE = 4
"""Input pixels per pixel of the map that a DEN averages."""
REACH = 12
"""Bound of the receptive field's radius in input pixels; a multiple of the stride."""


@dataclass(frozen=True, kw_only=True)
class DENOptions(Options):
    """Options of a DEN; the defaults are the published student's."""

    in_channels: int = 3
    """Channels of the input: 3 for the student, which reads LR; the MLN's for the teacher, which reads features."""
    width: int = 64
    """Channels of the first two convolutions; the next two have 2*width, the last two and the MLP 4*width."""


class DEN(Configured):
    """Six convolutions, two of stride 2, a global average and a two-layer MLP: an image to its raw IDR.

    LeakyReLU follows every layer but the last.

    Built from :class:`DENOptions`, see :class:`~mrda.networks.options.Configured`.
    """

    def __init__(self, options: DENOptions | None = None, **changes: Any) -> None:
        super().__init__()
        self.options: DENOptions = DENOptions.chosen(options, changes)
        self.in_channels, self.width = self.options.in_channels, self.options.width
        layers: list[nn.Module] = []
        channels, width = self.in_channels, self.width
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
        """Draw the weights anew by He's rule, so that signals keep their size through all layers; returns itself."""
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d | nn.Linear):
                initialize_he(layer)
        return self

    def forward(self, x: Tensor) -> Tensor:
        """Return the raw IDR (B, 4*width) of ``x`` (B, in_channels, H, W), of any size from 1x1 up.

        It is the output of the MLP's last layer, without activation: the vector that is distilled.

        Raises:
            TypeError: ``x`` is not a floating point tensor of the weights' dtype.
            ValueError: ``x`` has another shape or device.
        """
        check_image("x", x, channels=self.in_channels, like=any_tensor(self.convs))
        return self.mlp(self.convs(x).mean(dim=(2, 3)))

    def in_strips(self, x: Tensor, rows: int) -> Tensor:
        """Return the result of :meth:`forward`, up to rounding, in memory for about ``rows`` rows of ``x`` at a time.

        The network is convolutions and an average: strips that overlap by its reach and start on its grid add up to
        the whole. ``x`` may be on the host; each strip is moved to the weights' device and dtype.
        """
        weight = any_tensor(self.convs)
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


@dataclass(frozen=True, kw_only=True)
class KernelDENOptions(Options):
    """Options of the oracle's :class:`KernelDEN`."""

    blur_size: int = KERNEL_SIZE
    """Side k of the blur kernels; odd."""
    width: int = 64
    """Each layer has 4*width outputs; the paper gives no widths."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_odd("blur_size", self.blur_size)


class KernelDEN(Configured):
    """Five linear layers from the blur kernel itself to a raw IDR, LeakyReLU between them: the oracle of Table V.

    Built from :class:`KernelDENOptions`, see :class:`~mrda.networks.options.Configured`.
    """

    def __init__(self, options: KernelDENOptions | None = None, **changes: Any) -> None:
        super().__init__()
        self.options: KernelDENOptions = KernelDENOptions.chosen(options, changes)
        self.blur_size, width = self.options.blur_size, self.options.width
        layers: list[nn.Module] = [nn.Linear(self.blur_size**2, 4 * width)]
        for _ in range(4):
            layers += [nn.LeakyReLU(NEGATIVE_SLOPE), nn.Linear(4 * width, 4 * width)]
        self.layers = nn.Sequential(*layers)

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
        check_like("kernel", kernel, any_tensor(self.layers))
        return self.layers(kernel.flatten(1))
