# SPDX-License-Identifier: Apache-2.0
"""The steered convolutions of an RDA block: the method's own, and the two that its ablations use instead.

All take features and the compressed IDR, and return features of the same shape. The block's LeakyReLU on them is an
argument of the call, because the operator fuses it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mrda.core.checks import check_choice, check_int
from mrda.networks.layers import NEGATIVE_SLOPE, is_untouched, without_autocast
from mrda.networks.options import Options
from mrda_kernels import dynamic_depthwise_conv2d, rda_conv2d
from mrda_kernels.call import holds
from mrda_kernels.dispatch import check_name

ATTENTION_REDUCTION = 8  # the width of the channel attention's middle is C // 8


@dataclass(frozen=True, kw_only=True)
class ConvOptions(Options):
    """Options of the steered convolutions; the defaults are the published model's."""

    kernel_size: Literal[1, 3, 5, 7] = 3
    """Side of the dynamic depthwise kernels."""
    mask_channels: int | str = 1
    """Channels of the modulation mask: 1 as published, or C as Eq. 9 reads: as many as the features have."""
    mask_input: Literal["F", "F1"] = "F"
    """Input of the mask: F, that of the RDA conv (Eq. 9), or F1, the output of the dynamic convolution."""
    dyn_act: Literal["lrelu", "none"] = "lrelu"
    """Activation on the output of the dynamic convolution; `none` is Eq. 8 as printed."""
    conv_type: Literal["rda", "dasr_da", "static"] = "rda"
    """The steered convolution: the RDA conv, DASR's DA conv (row S4 of Table V), or a static conv with the DA conv's
    channel attention (S5)."""
    static_groups: Literal["C", "dense"] = "C"
    """Groups of the static conv of `conv_type: static`: C, depthwise, or dense."""

    def __post_init__(self) -> None:
        super().__post_init__()
        foreign = () if self.conv_type == "rda" else ("mask_channels", "mask_input")
        for name in (*foreign, *(() if self.conv_type == "static" else ("static_groups",))):
            value, default = getattr(self, name), getattr(ConvOptions, name)
            if value != default:
                raise ValueError(f"{name} is {value!r}, but must be {default!r} where conv_type is {self.conv_type!r}")

    def mask_channels_of(self, num_feat: int) -> int:
        """Return the number of mask channels for features of ``num_feat`` channels.

        Raises:
            ValueError: ``mask_channels`` is none of 1, ``num_feat`` and "C".
        """
        check_choice("mask_channels", self.mask_channels, (1, num_feat, "C"))
        return num_feat if self.mask_channels == "C" else int(self.mask_channels)


class SteeredConv(nn.Module):
    """Base class of the convolutions that the IDR steers.

    Args:
        num_feat: Channels C of the feature map and length of the compressed IDR.
        options: The options, whose `conv_type` is replaced by that of the class; None takes the defaults. The kernels'
            zero padding is ``kernel_size // 2``.
        backend: Backend of the operator; None lets it choose.
        **changes: Options by name, which replace those of ``options``.

    Raises:
        TypeError: An option is unknown, or a size is not an int.
        ValueError: An option is out of its range, or belongs to another `conv_type`.
    """

    conv_type: ClassVar[str]

    def __init__(
        self, num_feat: int, options: ConvOptions | None = None, *, backend: str | None = None, **changes: Any
    ) -> None:
        super().__init__()
        check_int("num_feat", num_feat)
        self.options = ConvOptions.chosen(options, {**changes, "conv_type": self.conv_type})
        self.num_feat = num_feat
        self.kernel_size: int = self.options.kernel_size
        self.dynamic_slope = NEGATIVE_SLOPE if self.options.dyn_act == "lrelu" else 1.0
        self.backend = check_name(backend)


class PredictingConv(SteeredConv):
    """Base class of those whose depthwise kernels, one per sample and channel, are predicted from the IDR."""

    kernel: nn.Sequential

    def _predictor(self) -> nn.Sequential:
        """Build the layers from compressed IDRs (B, C) to kernels (B, C*K*K): those of a channel together, by rows."""
        return nn.Sequential(
            nn.Linear(self.num_feat, self.num_feat, bias=False),
            nn.LeakyReLU(NEGATIVE_SLOPE),
            nn.Linear(self.num_feat, self.num_feat * self.kernel_size**2, bias=False),
        )

    def predict_kernels(self, idr: Tensor) -> Tensor:
        """Return the depthwise kernels (B, C, K, K) for compressed IDRs (B, C).

        Autocast has no effect: kernels are few numbers that all features depend on.
        """
        with without_autocast(idr.device):
            return self.kernel(idr).reshape(-1, self.num_feat, self.kernel_size, self.kernel_size)


class RDAConv(PredictingConv):
    """Region degradation aware convolution: a depthwise kernel predicted per sample, and a spatial mask.

    The dynamic convolution (Eq. 8), the mask (Eq. 9) and the sum ``F1 * M + F`` (Eq. 10) run in one call of
    :func:`mrda_kernels.rda_conv2d`; if the layer ``mask`` has hooks or was replaced, it is called, and the rest of it
    are torch's operators. Arguments and errors are those of :class:`SteeredConv`.
    """

    conv_type = "rda"

    def __init__(self, num_feat: int, options: ConvOptions | None = None, **changes: Any) -> None:
        super().__init__(num_feat, options, **changes)
        self.kernel = self._predictor()
        self.mask_input = self.options.mask_input
        self.mask = nn.Conv2d(num_feat, self.options.mask_channels_of(num_feat), 1)

    def forward(
        self,
        features: Tensor,
        idr: Tensor,
        *,
        output_negative_slope: float | None = None,
        masks: list[Tensor] | None = None,
    ) -> Tensor:
        """Return the modulated features (B, C, H, W).

        Args:
            features: F (B, C, H, W).
            idr: Compressed IDR (B, C), in the dtype of the weights that predict the kernels.
            output_negative_slope: Slope of a LeakyReLU on the result, which the operator fuses; None for
                none.
            masks: A list to append the mask (B, mask_channels, H, W) to; costs one more convolution.

        Raises:
            ValueError: ``idr`` has another shape.
        """
        _check_idr(idr, features, self.num_feat)
        kernels = self.predict_kernels(idr).to(features.dtype)
        if self.mask_input == "F" and masks is None and is_untouched(self.mask, nn.Conv2d):
            return rda_conv2d(
                features,
                kernels,
                self.mask.weight,
                self.mask.bias,
                negative_slope=self.dynamic_slope,
                output_negative_slope=output_negative_slope,
                backend=self.backend,
            )
        convolved = dynamic_depthwise_conv2d(features, kernels, backend=self.backend)
        convolved = F.leaky_relu(convolved, self.dynamic_slope)
        mask = torch.sigmoid(self.mask(features if self.mask_input == "F" else convolved))
        if masks is not None:
            masks.append(mask)
        out = convolved * mask + features
        return out if output_negative_slope is None else F.leaky_relu(out, output_negative_slope)


class _ChannelAttentionConv(SteeredConv):
    """``Conv1x1(act(convolve(F))) + F * attention(d)``: what DASR's DA conv and its static twin share."""

    def _add_attention(self) -> None:
        middle = max(self.num_feat // ATTENTION_REDUCTION, 1)
        self.project = nn.Conv2d(self.num_feat, self.num_feat, 1)
        self.attention = nn.Sequential(
            nn.Linear(self.num_feat, middle, bias=False),
            nn.LeakyReLU(NEGATIVE_SLOPE),
            nn.Linear(middle, self.num_feat, bias=False),
            nn.Sigmoid(),
        )

    def convolve(self, features: Tensor, idr: Tensor) -> Tensor:
        """Apply the spatial convolution, (B, C, H, W) to the same shape."""
        raise NotImplementedError

    def forward(self, features: Tensor, idr: Tensor, *, output_negative_slope: float | None = None) -> Tensor:
        """Return the modulated features (B, C, H, W).

        Args:
            features: F (B, C, H, W).
            idr: Compressed IDR (B, C), in the dtype of the weights that predict the kernels.
            output_negative_slope: Slope of a LeakyReLU on the result; None for none.

        Raises:
            ValueError: ``idr`` has another shape.
        """
        _check_idr(idr, features, self.num_feat)
        convolved = F.leaky_relu(self.convolve(features, idr), self.dynamic_slope)
        out = self.project(convolved) + features * self.attention(idr.to(features.dtype))[:, :, None, None]
        return out if output_negative_slope is None else F.leaky_relu(out, output_negative_slope)


class DASRConv(_ChannelAttentionConv, PredictingConv):
    """The degradation aware convolution of DASR (row S4 of Table V): channel attention instead of the mask.

    ``Conv1x1(LReLU(dyn(F; d))) + F * sigmoid(W2 LReLU(W1 d))`` with the depthwise kernels predicted as in
    :class:`RDAConv`; W1 narrows to C // 8 (at least 1), and neither W has a bias. Arguments and errors are those of
    :class:`SteeredConv`.
    """

    conv_type = "dasr_da"

    def __init__(self, num_feat: int, options: ConvOptions | None = None, **changes: Any) -> None:
        super().__init__(num_feat, options, **changes)
        kernel = self._predictor()  # drawn first, but the last one of the state dict
        self._add_attention()
        self.kernel = kernel

    def convolve(self, features: Tensor, idr: Tensor) -> Tensor:
        """Convolve each channel of each sample with the kernel predicted from its IDR."""
        kernels = self.predict_kernels(idr).to(features.dtype)
        return dynamic_depthwise_conv2d(features, kernels, backend=self.backend)


class StaticConv(_ChannelAttentionConv):
    """:class:`DASRConv` with a learned convolution instead of the predicted one (row S5 of Table V).

    The IDR acts through the channel attention alone. The learned convolution has no bias, because the predicted one
    has none either: the rows S4 and S5 differ in nothing but where the kernel comes from. Arguments and errors are
    those of :class:`SteeredConv`.
    """

    conv_type = "static"

    def __init__(self, num_feat: int, options: ConvOptions | None = None, **changes: Any) -> None:
        super().__init__(num_feat, options, **changes)
        self._add_attention()
        groups = num_feat if self.options.static_groups == "C" else 1
        size = self.kernel_size
        self.conv = nn.Conv2d(num_feat, num_feat, size, padding=size // 2, groups=groups, bias=False)

    def convolve(self, features: Tensor, idr: Tensor) -> Tensor:
        """Convolve with the learned kernels; the IDR is not used."""
        return self.conv(features)


def build_conv(num_feat: int, options: ConvOptions, *, backend: str | None = None) -> SteeredConv:
    """Build the convolution of ``options.conv_type`` for features of ``num_feat`` channels.

    Raises:
        ValueError: ``mask_channels`` or ``backend`` is unknown.
    """
    kinds: dict[str, type[SteeredConv]] = {kind.conv_type: kind for kind in (RDAConv, DASRConv, StaticConv)}
    return kinds[options.conv_type](num_feat, options, backend=backend)


def _check_idr(idr: Tensor, features: Tensor, num_feat: int) -> None:
    shape = tuple(idr.shape)
    if len(shape) != 2 or not holds(shape[0] == features.shape[0]) or shape[1] != num_feat:
        raise ValueError(f"idr has shape {shape}, but must be (B, C) = {(features.shape[0], num_feat)}")
