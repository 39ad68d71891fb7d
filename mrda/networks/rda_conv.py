# SPDX-License-Identifier: Apache-2.0
"""The steered convolutions of an RDA block: the method's own, and the two that its ablations use instead.

All take features and the compressed IDR, and return features of the same shape. The block's LeakyReLU on them is an
argument of the call, because the operator fuses it.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mrda.core.checks import check_int
from mrda.networks.layers import NEGATIVE_SLOPE, is_for_cpu_kernels, is_untouched, without_autocast
from mrda.options.networks import ConvOptions
from mrda_kernels import dynamic_depthwise_conv2d, rda_conv2d, rda_conv3x3
from mrda_kernels.call import holds
from mrda_kernels.dispatch import check_name

ATTENTION_REDUCTION = 8  # the width of the channel attention's middle is C // 8


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
        if masks is None and self._is_one_call():
            return rda_conv2d(
                features,
                kernels,
                self.mask.weight,
                self.mask.bias,
                negative_slope=self.dynamic_slope,
                output_negative_slope=output_negative_slope,
                backend=self.backend,
            )
        convolved = dynamic_depthwise_conv2d(features, kernels, negative_slope=self.dynamic_slope, backend=self.backend)
        mask = torch.sigmoid(self.mask(features if self.mask_input == "F" else convolved))
        if masks is not None:
            masks.append(mask)
        out = convolved * mask + features
        return out if output_negative_slope is None else F.leaky_relu(out, output_negative_slope)

    def _is_one_call(self) -> bool:
        return self.mask_input == "F" and is_untouched(self.mask, nn.Conv2d)

    def joins(self, conv: nn.Conv2d, features: Tensor) -> bool:
        """Return True if a call of :meth:`with_conv` computes on features as this layer and ``conv`` do.

        That is so in channels_last, on a GPU in half precision, on a CPU in float32, which have kernels that keep what
        gradients need. Layers with hooks are called themselves.
        """
        has_kernel = features.element_size() == 2 if features.is_cuda else is_for_cpu_kernels(features)
        if not has_kernel or not features.is_contiguous(memory_format=torch.channels_last):
            return False
        return is_untouched(self, RDAConv) and is_untouched(conv, nn.Conv2d) and self._is_one_call()

    def with_conv(
        self,
        features: Tensor,
        idr: Tensor,
        conv: nn.Conv2d,
        *,
        skip: Tensor | None = None,
        output_negative_slope: float | None = None,
    ) -> Tensor:
        """Return the block's LeakyReLU of :meth:`forward`, after ``conv``, a 3x3 convolution: half a block in one call.

        Args:
            features: F (B, C, H, W).
            idr: Compressed IDR (B, C).
            conv: The convolution.
            skip: What is added to its result, (B, C, H, W); None for nothing.
            output_negative_slope: Slope of a LeakyReLU on all that; None for none.
        """
        _check_idr(idr, features, self.num_feat)
        return rda_conv3x3(
            features,
            self.predict_kernels(idr).to(features.dtype),
            self.mask.weight,
            self.mask.bias,
            conv.weight,
            conv.bias,
            skip=skip,
            negative_slope=self.dynamic_slope,
            inner_negative_slope=NEGATIVE_SLOPE,
            output_negative_slope=output_negative_slope,
            backend=self.backend,
        )


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
        """Apply the spatial convolution and its activation, (B, C, H, W) to the same shape."""
        raise NotImplementedError

    def forward(self, features: Tensor, idr: Tensor, *, output_negative_slope: float | None = None) -> Tensor:
        """Return the modulated features (B, C, H, W): the output of ``project``, changed in place.

        Args:
            features: F (B, C, H, W).
            idr: Compressed IDR (B, C), in the dtype of the weights that predict the kernels.
            output_negative_slope: Slope of a LeakyReLU on the result; None for none.

        Raises:
            ValueError: ``idr`` has another shape.
        """
        _check_idr(idr, features, self.num_feat)
        attention = self.attention(idr.to(features.dtype))[:, :, None, None]
        out = self.project(self.convolve(features, idr)).addcmul_(features, attention)
        return out if output_negative_slope is None else F.leaky_relu(out, output_negative_slope, inplace=True)


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
        return dynamic_depthwise_conv2d(features, kernels, negative_slope=self.dynamic_slope, backend=self.backend)


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
        return F.leaky_relu(self.conv(features), self.dynamic_slope)


class KDSRConv(PredictingConv):
    """The dynamic convolution of KDSR: ``LReLU(dyn(F; d))`` and nothing else.

    The 3x3 depthwise kernels are predicted as in :class:`RDAConv`.

    Args:
        num_feat: Channels C of the feature map and length of the compressed IDR.
        backend: Backend of the operator; None lets it choose.
    """

    def __init__(self, num_feat: int, *, backend: str | None = None) -> None:
        nn.Module.__init__(self)
        self.num_feat, self.kernel_size, self.dynamic_slope = num_feat, 3, NEGATIVE_SLOPE
        self.backend = check_name(backend)
        self.kernel = self._predictor()

    def forward(self, features: Tensor, idr: Tensor) -> Tensor:
        """Return the convolved features (B, C, H, W) of features (B, C, H, W) and compressed IDR (B, C).

        Raises:
            ValueError: ``idr`` has another shape.
        """
        _check_idr(idr, features, self.num_feat)
        kernels = self.predict_kernels(idr).to(features.dtype)
        return dynamic_depthwise_conv2d(features, kernels, negative_slope=self.dynamic_slope, backend=self.backend)


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
