# SPDX-License-Identifier: Apache-2.0
"""DEN, the degradation extraction network (paper, section III-C), and the oracle that replaces it in Table V."""

from __future__ import annotations

import copy
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from mrda.core.checks import check_image, check_like, check_tensor
from mrda.core.tiling import strips
from mrda.networks.layers import NEGATIVE_SLOPE, any_tensor, conv3x3, initialize_he, run_chain
from mrda.networks.options import Configured
from mrda.options.networks import DENOptions, KernelDENOptions

STRIDE = 4
"""Input pixels per pixel of the map that a DEN averages."""
REACH = 12
"""Bound of the receptive field's radius in input pixels; a multiple of the stride."""


class Encoder(Configured):
    """A network that reads a degradation representation: convolutions, a mean over all pixels, and a head.

    Attributes:
        in_channels: Channels of the input.
        convs: What comes before the mean.
        stride: Input pixels per pixel of the map that is averaged.
        reach: Bound of the receptive field's radius in input pixels; a multiple of the stride.
        wide: By how much the maps of the input's size are wider than a DEN's; they take that much more memory.
        image_range: Factor from the input to the range that the weights are for.
    """

    stride: int = STRIDE
    reach: int = REACH
    wide: ClassVar[int] = 1
    image_range: ClassVar[float] = 1.0
    in_channels: int
    convs: nn.Module

    def features(self, x: Tensor) -> Tensor:
        """Return the map that is averaged."""
        return run_chain(self.convs, x if self.image_range == 1 else self.image_range * x)

    def head(self, pooled: Tensor) -> Tensor:
        """Return the representation of mean features (B, N)."""
        return pooled

    def forward(self, x: Tensor) -> Tensor:
        """Return the raw IDR (B, D) of ``x`` (B, in_channels, H, W), of any size from 1x1 up.

        It is the vector that is distilled: of a DEN the output of the MLP's last layer, (B, 4*width), without
        activation.

        Raises:
            TypeError: ``x`` is not a floating point tensor of the weights' dtype.
            ValueError: ``x`` has another shape or device.
        """
        check_image("x", x, channels=self.in_channels, like=any_tensor(self.convs))
        return self.head(self.features(x).mean(dim=(2, 3), dtype=x.dtype))  # whatever the features' dtype

    def in_strips(self, x: Tensor, rows: int) -> Tensor:
        """Return the result of :meth:`forward`, up to rounding, in memory for about ``rows`` rows of ``x`` at a time.

        The network is convolutions and an average: strips that overlap by its reach and start on its grid add up to
        the whole. ``x`` may be on the host; each strip is moved to the weights' device and dtype.
        """
        weight = any_tensor(self.convs)
        check_image("x", x, channels=self.in_channels)
        total = torch.zeros((), dtype=torch.float64)
        height, width = x.shape[2:]
        for own, seen in strips(height, rows, self.reach, self.stride):
            features = self.features(x[:, :, seen].to(weight))
            first = (own.start - seen.start) // self.stride
            last = first + -(-(own.stop - own.start) // self.stride)
            total = total + features[:, :, first:last].sum(dim=(2, 3), dtype=torch.float64).cpu()
        pixels = -(-height // self.stride) * -(-width // self.stride)
        return self.head((total / pixels).to(weight))


class DEN(Encoder):
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

    def initialize_he(self, *, edges: bool = False) -> DEN:
        """Draw the weights anew by He's rule, so that signals keep their size through all layers; returns itself.

        Args:
            edges: make each filter of the first convolution sum to zero. An image's colours, which say nothing of
                its degradation, then do not drown its details, and the DEN learns from the first step on.
        """
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d | nn.Linear):
                initialize_he(layer)
        if edges:
            first = next(self.convs.children())
            assert isinstance(first, nn.Conv2d)
            with torch.no_grad():
                first.weight.sub_(first.weight.mean(dim=(2, 3), keepdim=True))
        return self

    def head(self, pooled: Tensor) -> Tensor:
        """Return what the MLP makes of the mean features."""
        return self.mlp(pooled)

    def normalized(self, norm: nn.BatchNorm1d) -> DEN:
        """Return a copy whose raw IDRs are those of this DEN after ``norm``, by its running statistics.

        The scale and the shift go into the last layer. ``norm`` has none of its own (``affine=False``).
        """
        den = copy.deepcopy(self)
        last = den.mlp[-1]
        assert isinstance(last, nn.Linear)
        assert norm.running_mean is not None
        assert norm.running_var is not None
        factor = (norm.running_var + norm.eps).rsqrt()
        with torch.no_grad():
            last.weight.mul_(factor[:, None])
            last.bias.sub_(norm.running_mean).mul_(factor)
        return den


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
