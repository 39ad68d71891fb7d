# SPDX-License-Identifier: Apache-2.0
"""RDAN, the SR trunk that is steered by a degradation representation (paper, section III-E, Eqs. 8-10)."""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mrda.core.checks import check_int
from mrda.networks.layers import NEGATIVE_SLOPE, conv3x3
from mrda.networks.rda_conv import RDAConv, SteeredConv, build_conv
from mrda.networks.trunk import Trunk
from mrda.options.networks import ConvOptions, RDANOptions


class RDAB(nn.Module):
    """Region degradation aware block: two pairs of a steered and a 3x3 convolution, and a skip.

    Args:
        num_feat: Channels C.
        options: Options of both steered convolutions; None takes the defaults.
        backend: Backend of the dynamic convolutions; None lets the operator choose.
        **changes: Options by name, which replace those of ``options``.
    """

    def __init__(
        self, num_feat: int, options: ConvOptions | None = None, *, backend: str | None = None, **changes: Any
    ) -> None:
        super().__init__()
        chosen = ConvOptions.chosen(options, changes)
        self.rda_conv1 = build_conv(num_feat, chosen, backend=backend)
        self.conv1 = conv3x3(num_feat, num_feat)
        self.rda_conv2 = build_conv(num_feat, chosen, backend=backend)
        self.conv2 = conv3x3(num_feat, num_feat)

    def halves(self) -> tuple[tuple[SteeredConv, nn.Conv2d], tuple[SteeredConv, nn.Conv2d]]:
        """Return the two pairs of a steered and a 3x3 convolution, in order."""
        return (self.rda_conv1, self.conv1), (self.rda_conv2, self.conv2)

    def forward(self, features: Tensor, idr: Tensor, *, masks: list[Tensor] | None = None) -> Tensor:
        """Return features (B, C, H, W) for features (B, C, H, W) and compressed IDR (B, C).

        The masks of both RDA convs are appended to ``masks`` if it is given; convolutions of other types have none and
        refuse it. The output of the first 3x3 convolution is changed in place after its hooks have seen it.
        """
        if masks is None and all(isinstance(a, RDAConv) and a.joins(b, features) for a, b in self.halves()):
            first, second = cast("tuple[tuple[RDAConv, nn.Conv2d], ...]", self.halves())
            out = first[0].with_conv(features, idr, first[1], output_negative_slope=NEGATIVE_SLOPE)
            return second[0].with_conv(out, idr, second[1], skip=features)
        options: dict[str, Any] = {"output_negative_slope": NEGATIVE_SLOPE}
        if masks is not None:
            options["masks"] = masks
        out = self.rda_conv1(features, idr, **options)
        out = F.leaky_relu(self.conv1(out), NEGATIVE_SLOPE, inplace=True)
        out = self.rda_conv2(out, idr, **options)
        return self.conv2(out) + features


class RDAN(Trunk):
    """The whole trunk: mean shift, head, RDA blocks with one long skip, upscaler.

    Images are in [0, rgb_range].

    Args:
        options: The options; None takes the defaults.
        idr_dim: Length of the raw IDR.
        backend: Backend of the dynamic convolutions; None lets the operator choose.
        **changes: Options by name, which replace those of ``options``.

    Raises:
        TypeError: An option is unknown, or a number is of another type.
        ValueError: An option is out of its range, or does not go with `conv_type`.
    """

    def __init__(
        self, options: RDANOptions | None = None, *, idr_dim: int = 256, backend: str | None = None, **changes: Any
    ) -> None:
        super().__init__()
        self.options: RDANOptions = RDANOptions.chosen(options, changes)
        check_int("idr_dim", idr_dim)
        num_feat, conv = self.options.num_feat, self.options.part(ConvOptions)
        mean = torch.tensor(self.options.rgb_mean, dtype=torch.float64) * self.options.rgb_range
        self._build(
            mean,
            self.options.scale,
            num_feat,
            idr_dim,
            lambda: (RDAB(num_feat, conv, backend=backend) for _ in range(self.options.num_blocks)),
        )

    @property
    def hyperparameters(self) -> dict[str, Any]:
        """The keyword arguments, fit for JSON, that build this network again (without ``backend``)."""
        return {**self.options.as_dict(), "idr_dim": self.idr_dim}

    @torch.no_grad()
    def modulation_map(self, lr: Tensor, degradation: Tensor) -> Tensor:
        """Return (B, 1, H, W) in (0, 1): the mean of the masks of all RDA convs, as drawn in Fig. 10.

        No gradient is recorded. Arguments and errors are those of :meth:`forward`; besides, a ValueError if `conv_type`
        is not "rda".
        """
        conv_type = self.options.conv_type
        if conv_type != "rda":
            raise ValueError(f"the network has conv_type {conv_type!r}, but only 'rda' has masks to draw a map of")
        masks: list[Tensor] = []
        self._trunk(lr, degradation, masks=masks)
        return torch.stack([mask.mean(dim=1, keepdim=True) for mask in masks]).mean(dim=0)
