# SPDX-License-Identifier: Apache-2.0
"""The discriminator of Real-ESRGAN (Wang et al., ICCVW 2021): a U-Net with spectral norm, a logit for each pixel."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mrda.core.checks import check_image
from mrda.networks.layers import any_tensor, conv3x3
from mrda.networks.options import Configured
from mrda.options.networks import DiscriminatorOptions

_NEGATIVE_SLOPE = 0.2
_SMALLEST = 8  # pixels: three convolutions of stride 2
_FIRST_ITERATIONS = 15  # from random vectors, as torch's own spectral norm does
_EPS = 1e-12


class SpectralConv2d(nn.Module):
    """A convolution without bias whose weight is divided by an estimate of its largest singular value.

    The estimate is u^T W v, with u and v from power iterations: one before each pass in training mode, none in
    evaluation mode, and one for each call of :meth:`iterate`. No gradient flows through u and v. The keys are those of
    ``torch.nn.utils.spectral_norm``, and hence of published discriminators: ``weight_orig``, ``weight_u``,
    ``weight_v``. Unlike there, the division is in the weight's dtype also under autocast.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        kernel_size: 3, or 4 with stride 2, which halves height and width, rounding down; zero padding 1.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int) -> None:
        super().__init__()
        self.stride = 2 if kernel_size == 4 else 1
        self.weight_orig = nn.Parameter(torch.empty(out_channels, in_channels, kernel_size, kernel_size))
        nn.init.kaiming_uniform_(self.weight_orig, a=math.sqrt(5))  # what nn.Conv2d does
        self.weight_u: Tensor
        self.weight_v: Tensor
        self.register_buffer("weight_u", F.normalize(torch.randn(out_channels), dim=0, eps=_EPS))
        self.register_buffer("weight_v", F.normalize(torch.randn(self.weight_orig[0].numel()), dim=0, eps=_EPS))
        for _ in range(_FIRST_ITERATIONS):
            self.iterate()

    @torch.no_grad()
    def iterate(self) -> None:
        """Do one power iteration: v becomes W^T u, u becomes W v, both of length 1."""
        with _no_autocast(self.weight_orig):
            matrix = self.weight_orig.flatten(1)
            v = F.normalize(matrix.T @ self.weight_u, dim=0, eps=_EPS)
            self.weight_v.copy_(v)
            self.weight_u.copy_(F.normalize(matrix @ v, dim=0, eps=_EPS))

    def weight(self) -> Tensor:
        """Return the weight in use: ``weight_orig`` over its estimated largest singular value."""
        with _no_autocast(self.weight_orig):
            # copies, so that the next iteration leaves this pass's gradient alone
            u, v = self.weight_u.clone(), self.weight_v.clone()
            return self.weight_orig / torch.dot(u, self.weight_orig.flatten(1) @ v)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, out_channels, H, W), or of half the height and width, of ``x`` (B, in_channels, H, W)."""
        if self.training:
            self.iterate()
        return F.conv2d(x, self.weight(), stride=self.stride, padding=1)


class UNetDiscriminator(Configured):
    """Three halvings, then three bilinear doublings with skips; LeakyReLU(0.2) after each layer but the last.

    Built from :class:`DiscriminatorOptions`, see :class:`~mrda.networks.options.Configured`.
    """

    def __init__(self, options: DiscriminatorOptions | None = None, **changes: Any) -> None:
        super().__init__()
        self.options: DiscriminatorOptions = DiscriminatorOptions.chosen(options, changes)
        num_feat, in_channels = self.options.num_feat, self.options.in_channels
        self.conv0 = conv3x3(in_channels, num_feat)
        self.conv1 = SpectralConv2d(num_feat, 2 * num_feat, 4)
        self.conv2 = SpectralConv2d(2 * num_feat, 4 * num_feat, 4)
        self.conv3 = SpectralConv2d(4 * num_feat, 8 * num_feat, 4)
        self.conv4 = SpectralConv2d(8 * num_feat, 4 * num_feat, 3)
        self.conv5 = SpectralConv2d(4 * num_feat, 2 * num_feat, 3)
        self.conv6 = SpectralConv2d(2 * num_feat, num_feat, 3)
        self.conv7 = SpectralConv2d(num_feat, num_feat, 3)
        self.conv8 = SpectralConv2d(num_feat, num_feat, 3)
        self.conv9 = conv3x3(num_feat, 1)

    def iterate_spectral_norms(self) -> None:
        """Do one power iteration of every spectral norm, for steps whose passes all run in evaluation mode."""
        for module in self.modules():
            if isinstance(module, SpectralConv2d):
                module.iterate()

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (B, 1, H, W): above 0 where images ``x`` (B, in_channels, H, W) in [0, 1] look real.

        H and W are at least 8; if they are not multiples of 8, doubled maps are resized to their skips.

        Raises:
            TypeError: ``x`` is not a floating point tensor of the weights' dtype.
            ValueError: ``x`` has another shape or device, or is too small.
        """
        check_image("x", x, channels=self.options.in_channels, like=any_tensor(self))
        if min(x.shape[2:]) < _SMALLEST:
            raise ValueError(f"x has shape {tuple(x.shape)}, but must be at least {_SMALLEST} pixels high and wide")
        full = _activated(self.conv0(x))
        half = _activated(self.conv1(full))
        quarter = _activated(self.conv2(half))
        eighth = _activated(self.conv3(quarter))
        y = _activated(self.conv4(_enlarged(eighth, quarter))) + quarter
        y = _activated(self.conv5(_enlarged(y, half))) + half
        y = _activated(self.conv6(_enlarged(y, full))) + full
        return self.conv9(_activated(self.conv8(_activated(self.conv7(y)))))


def _no_autocast(like: Tensor) -> AbstractContextManager[None]:
    device = like.device.type
    return torch.autocast(device, enabled=False) if torch.amp.is_autocast_available(device) else nullcontext()


def _activated(x: Tensor) -> Tensor:
    return F.leaky_relu(x, _NEGATIVE_SLOPE)


def _enlarged(x: Tensor, like: Tensor) -> Tensor:
    """Resize to height and width of ``like`` by bilinear interpolation."""
    return F.interpolate(x, size=like.shape[2:], mode="bilinear", align_corners=False)
