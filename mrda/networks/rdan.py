# SPDX-License-Identifier: Apache-2.0
"""RDAN, the SR trunk that is steered by a degradation representation (paper, section III-E, Eqs. 8-10)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mrda.core.checks import check_int, check_number, check_positive
from mrda.networks import upscaler
from mrda.networks.layers import NEGATIVE_SLOPE, any_tensor, conv3x3, without_autocast
from mrda.networks.options import Configured
from mrda.networks.prepared import PreparedRDAN, check_inputs
from mrda.networks.rda_conv import ConvOptions, SteeredConv, build_conv
from mrda.networks.upscaler import PixelShuffleUpscaler
from mrda_kernels.dispatch import check_name

DIV2K_RGB_MEAN = (0.4488, 0.4371, 0.4040)


@dataclass(frozen=True, kw_only=True)
class TrunkOptions(ConvOptions):
    """Sizes and convolutions of the RDAN; the defaults are the published model's."""

    num_feat: int = 64
    """Channels of the RDAN, C in the paper."""
    num_blocks: int = 27
    """RDA blocks of the RDAN."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.mask_channels_of(self.num_feat)


@dataclass(frozen=True, kw_only=True)
class RDANOptions(TrunkOptions):
    """Options of the RDAN: those of the trunk, and of its images."""

    scale: Literal[2, 3, 4] = 4
    """Enlargement."""
    rgb_mean: Sequence[float] = DIV2K_RGB_MEAN
    """Mean colour that is subtracted from LR and added to SR, as a fraction of `rgb_range`."""
    rgb_range: float = 1.0
    """Largest value of the images."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.rgb_mean, Sequence) or len(self.rgb_mean) != 3:
            raise ValueError(f"rgb_mean is {self.rgb_mean!r}, but must be three numbers")
        for index, value in enumerate(self.rgb_mean):
            check_number(f"rgb_mean[{index}]", value)
        check_positive("rgb_range", self.rgb_range)

    def as_dict(self) -> dict[str, Any]:
        """Return the keyword arguments, fit for JSON, in the order in which weights files have always had them."""
        values = super().as_dict() | {
            "mask_channels": self.mask_channels_of(self.num_feat),
            "rgb_mean": [float(value) for value in self.rgb_mean],
        }
        return {name: values[name] for name in ("scale", "num_feat", "num_blocks", *values)}


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
        options: dict[str, Any] = {"output_negative_slope": NEGATIVE_SLOPE}
        if masks is not None:
            options["masks"] = masks
        out = self.rda_conv1(features, idr, **options)
        out = F.leaky_relu(self.conv1(out), NEGATIVE_SLOPE, inplace=True)
        out = self.rda_conv2(out, idr, **options)
        return self.conv2(out) + features


class RDAN(Configured):
    """The whole trunk: mean shift, head, RDA blocks with one long skip, upscaler.

    Args:
        options: The options; None takes the defaults.
        idr_dim: Length of the raw IDR.
        backend: Backend of the dynamic convolutions; None lets the operator choose.
        **changes: Options by name, which replace those of ``options``.

    Raises:
        TypeError: An option is unknown, or a number is of another type.
        ValueError: An option is out of its range, or does not go with `conv_type`.
    """

    mean: Tensor

    def __init__(
        self, options: RDANOptions | None = None, *, idr_dim: int = 256, backend: str | None = None, **changes: Any
    ) -> None:
        super().__init__()
        self.options: RDANOptions = RDANOptions.chosen(options, changes)
        check_int("idr_dim", idr_dim)
        num_feat, mean = self.options.num_feat, self.options.rgb_mean
        self.scale: int = self.options.scale
        self.idr_dim = idr_dim
        # Not persistent: the hyperparameters carry it, and nothing trains it.
        shift = torch.tensor(mean, dtype=torch.float64) * self.options.rgb_range
        self.register_buffer("mean", shift.to(torch.get_default_dtype()).reshape(3, 1, 1), persistent=False)
        self.head = conv3x3(3, num_feat)
        self.compress = nn.Linear(idr_dim, num_feat, bias=False)
        conv = self.options.part(ConvOptions)
        self.blocks = nn.ModuleList(RDAB(num_feat, conv, backend=backend) for _ in range(self.options.num_blocks))
        self.body_tail = conv3x3(num_feat, num_feat)
        self.upscaler = PixelShuffleUpscaler(num_feat, self.scale)

    @property
    def hyperparameters(self) -> dict[str, Any]:
        """The keyword arguments, fit for JSON, that build this network again (without ``backend``)."""
        return {**self.options.as_dict(), "idr_dim": self.idr_dim}

    @property
    def reach(self) -> int:
        """Radius of the receptive field in LR pixels (112 as published)."""
        per_block = 2 * (self.options.kernel_size // 2 + 1)
        return 1 + len(self.blocks) * per_block + 1 + upscaler.REACH

    def set_backend(self, backend: str | None) -> None:
        """Run every dynamic convolution on ``backend`` of mrda_kernels; None lets the operator choose."""
        check_name(backend)
        for module in self.modules():
            if isinstance(module, SteeredConv):
                module.backend = backend

    def prepare(self, dtype: torch.dtype | None = None) -> PreparedRDAN:
        """Return a copy for inference, in which everything that follows from the weights alone is computed already.

        The copy is frozen: later changes of this network (weights, backend, hooks, device) have no effect on it, and
        nothing tells that it is out of date. Prepare the network again after them. Pruning, weight norm and spectral
        norm are heeded.

        Args:
            dtype: Dtype of the features and of the weights that make them, e.g. bfloat16; None leaves all as it is.
                What the features depend on most keeps the network's own dtype: the compressed IDR, the prediction of
                the kernels, and the upscaler.

        Raises:
            ValueError: A layer has other hooks, or was replaced by one whose weights can't be read, such as an adapter.
        """
        return PreparedRDAN(self, dtype)

    def forward(self, lr: Tensor, degradation: Tensor) -> Tensor:
        """Return SR (B, 3, scale*H, scale*W), not clamped.

        Args:
            lr: (B, 3, H, W) in [0, rgb_range].
            degradation: Raw IDR (B, idr_dim).

        Raises:
            TypeError: An argument is not a floating point tensor of the weights' dtype.
            ValueError: An argument has another shape or device.
        """
        shallow, deep = self._trunk(lr, degradation)
        return self.upscaler(self.body_tail(deep) + shallow) + self.mean

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
        self._trunk(lr, degradation, masks)
        return torch.stack([mask.mean(dim=1, keepdim=True) for mask in masks]).mean(dim=0)

    def _trunk(self, lr: Tensor, degradation: Tensor, masks: list[Tensor] | None = None) -> tuple[Tensor, Tensor]:
        """Return the head's features and those after the last block."""
        like = any_tensor(self)
        check_inputs(lr, degradation, idr_dim=self.idr_dim, like=like)
        shallow = self.head((lr - self.mean).to(lr.dtype))
        # A few numbers that all features depend on: in the weights' own precision, also under autocast.
        with without_autocast(lr.device):
            idr = F.leaky_relu(self.compress(degradation.to(like.dtype)), NEGATIVE_SLOPE)
        deep = shallow
        for block in self.blocks:
            deep = block(deep, idr, masks=masks)
        return shallow, deep
