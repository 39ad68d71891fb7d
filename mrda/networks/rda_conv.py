"""The steered convolutions of an RDA block: the method's own, and the two that its ablations put in its place.

All take features and the compressed IDR, and return features of the same shape; a LeakyReLU on them is the block's.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mrda.core.checks import check_choice, check_int
from mrda.networks.layers import NEGATIVE_SLOPE, without_autocast
from mrda_kernels import dynamic_depthwise_conv2d, rda_conv2d
from mrda_kernels.dispatch import check_name

KERNEL_SIZES = (1, 3, 5, 7)  # what the operator has kernels for
CONV_TYPES = ("rda", "dasr_da", "static")
ATTENTION_REDUCTION = 8  # the width of the channel attention's middle is C // 8


class _KernelPrediction(nn.Module):
    """Predicts a depthwise kernel per sample and channel from the compressed IDR."""

    kernel: nn.Sequential
    num_feat: int
    kernel_size: int

    def predict_kernels(self, idr: Tensor) -> Tensor:
        """Return the depthwise kernels (B, C, K, K) for compressed IDRs (B, C).

        Autocast has no effect: kernels are few numbers that all features depend on.
        """
        with without_autocast(idr.device):
            return self.kernel(idr).reshape(-1, self.num_feat, self.kernel_size, self.kernel_size)


class RDAConv(_KernelPrediction):
    """Region degradation aware convolution: a depthwise kernel predicted per sample, and a spatial mask.

    The sum ``F1 * M + F`` of Eqs. 8-9 runs in one call of :func:`mrda_kernels.rda_conv2d`.

    Args:
        num_feat: Channels C of the feature map and length of the compressed IDR.
        kernel_size: Side K of the predicted kernels: 1, 3, 5 or 7.
        mask_channels: 1 (the published network) or ``num_feat`` (Eq. 9 read literally).
        mask_input: "F": the mask is computed from the input (Eq. 9); "F1": from the convolved features.
        dyn_act: Activation of the convolved features: "lrelu" (released code) or "none" (Eq. 8).
        backend: Backend of the operator; None lets it choose.

    Raises:
        ValueError: An option is none of those listed.
    """

    def __init__(
        self,
        num_feat: int,
        kernel_size: int = 3,
        *,
        mask_channels: int = 1,
        mask_input: str = "F",
        dyn_act: str = "lrelu",
        backend: str | None = None,
    ) -> None:
        super().__init__()
        self.kernel = _kernel_predictor(num_feat, kernel_size)
        check_choice("mask_channels", mask_channels, (1, num_feat))
        check_choice("mask_input", mask_input, ("F", "F1"))
        self.num_feat = num_feat
        self.kernel_size = kernel_size
        self.mask_input = mask_input
        self.dynamic_slope = _slope(dyn_act)
        self.backend = check_name(backend)
        self.mask = nn.Conv2d(num_feat, mask_channels, 1)

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
        if self.mask_input == "F" and masks is None:
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


class _ChannelAttentionConv(nn.Module):
    """``Conv1x1(act(convolve(F))) + F * attention(d)``: what DASR's DA conv and its static twin share."""

    def __init__(self, num_feat: int, dyn_act: str) -> None:
        super().__init__()
        middle = max(num_feat // ATTENTION_REDUCTION, 1)
        self.num_feat = num_feat
        self.dynamic_slope = _slope(dyn_act)
        self.project = nn.Conv2d(num_feat, num_feat, 1)
        self.attention = nn.Sequential(
            nn.Linear(num_feat, middle, bias=False),
            nn.LeakyReLU(NEGATIVE_SLOPE),
            nn.Linear(middle, num_feat, bias=False),
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


class DASRConv(_ChannelAttentionConv, _KernelPrediction):
    """The degradation aware convolution of DASR (row S4 of Table V): channel attention in place of the mask.

    ``Conv1x1(LReLU(dyn(F; d))) + F * sigmoid(W2 LReLU(W1 d))`` with the depthwise kernels predicted as in
    :class:`RDAConv`; W1 narrows to C // 8 (at least 1), and neither W has a bias.

    Args:
        num_feat: Channels C of the feature map and length of the compressed IDR.
        kernel_size: Side K of the predicted kernels: 1, 3, 5 or 7.
        dyn_act: Activation of the convolved features: "lrelu" or "none".
        backend: Backend of the dynamic convolution; None lets it choose.

    Raises:
        ValueError: An option is none of those listed.
    """

    def __init__(
        self, num_feat: int, kernel_size: int = 3, *, dyn_act: str = "lrelu", backend: str | None = None
    ) -> None:
        kernel = _kernel_predictor(num_feat, kernel_size)
        super().__init__(num_feat, dyn_act)
        self.kernel = kernel
        self.kernel_size = kernel_size
        self.backend = check_name(backend)

    def convolve(self, features: Tensor, idr: Tensor) -> Tensor:
        """Convolve each channel of each sample with the kernel predicted from its IDR."""
        kernels = self.predict_kernels(idr).to(features.dtype)
        return dynamic_depthwise_conv2d(features, kernels, backend=self.backend)


class StaticConv(_ChannelAttentionConv):
    """:class:`DASRConv` with a learned convolution in place of the predicted one (row S5 of Table V).

    The IDR acts through the channel attention alone. The learned convolution has no bias: the predicted one has
    none either, so that the rows S4 and S5 differ in nothing but where the kernel comes from.

    Args:
        num_feat: Channels C of the feature map and length of the compressed IDR.
        kernel_size: Side K of the kernels: 1, 3, 5 or 7; zero padding K // 2.
        dyn_act: Activation of the convolved features: "lrelu" or "none".
        static_groups: "C": depthwise, of the predicted kernels' size; "dense": every channel sees all.

    Raises:
        ValueError: An option is none of those listed.
    """

    def __init__(
        self, num_feat: int, kernel_size: int = 3, *, dyn_act: str = "lrelu", static_groups: str = "C"
    ) -> None:
        _check_sizes(num_feat, kernel_size)
        check_choice("static_groups", static_groups, ("C", "dense"))
        super().__init__(num_feat, dyn_act)
        groups = num_feat if static_groups == "C" else 1
        self.conv = nn.Conv2d(num_feat, num_feat, kernel_size, padding=kernel_size // 2, groups=groups, bias=False)

    def convolve(self, features: Tensor, idr: Tensor) -> Tensor:
        """Convolve with the learned kernels; the IDR is not used."""
        return self.conv(features)


SteeredConv = RDAConv | DASRConv | StaticConv


def build_conv(
    num_feat: int,
    kernel_size: int = 3,
    *,
    conv_type: str = "rda",
    mask_channels: int = 1,
    mask_input: str = "F",
    dyn_act: str = "lrelu",
    static_groups: str = "C",
    backend: str | None = None,
) -> SteeredConv:
    """Build the convolution of ``conv_type``: "rda" (the method), "dasr_da" (row S4) or "static" (row S5).

    Raises:
        ValueError: An option is none of those that its class lists, or belongs to another ``conv_type`` and is not at
            its default.
    """
    check_choice("conv_type", conv_type, CONV_TYPES)
    check_name(backend)  # for the static one too, which has no use for it
    foreign = {} if conv_type == "rda" else {"mask_channels": (mask_channels, 1), "mask_input": (mask_input, "F")}
    if conv_type != "static":
        foreign["static_groups"] = (static_groups, "C")
    for name, (value, default) in foreign.items():
        if value != default:
            raise ValueError(f"{name} is {value!r}, but must be {default!r} where conv_type is {conv_type!r}")
    if conv_type == "dasr_da":
        return DASRConv(num_feat, kernel_size, dyn_act=dyn_act, backend=backend)
    if conv_type == "static":
        return StaticConv(num_feat, kernel_size, dyn_act=dyn_act, static_groups=static_groups)
    return RDAConv(
        num_feat, kernel_size, mask_channels=mask_channels, mask_input=mask_input, dyn_act=dyn_act, backend=backend
    )


def _check_sizes(num_feat: int, kernel_size: int) -> None:
    check_int("num_feat", num_feat)
    check_int("kernel_size", kernel_size)
    check_choice("kernel_size", kernel_size, KERNEL_SIZES)


def _kernel_predictor(num_feat: int, kernel_size: int) -> nn.Sequential:
    """Compressed IDR (B, C) to depthwise kernels (B, C*K*K), those of a channel together, row by row."""
    _check_sizes(num_feat, kernel_size)
    return nn.Sequential(
        nn.Linear(num_feat, num_feat, bias=False),
        nn.LeakyReLU(NEGATIVE_SLOPE),
        nn.Linear(num_feat, num_feat * kernel_size**2, bias=False),
    )


def _slope(dyn_act: str) -> float:
    check_choice("dyn_act", dyn_act, ("lrelu", "none"))
    return NEGATIVE_SLOPE if dyn_act == "lrelu" else 1.0


def _check_idr(idr: Tensor, features: Tensor, num_feat: int) -> None:
    expected = (features.shape[0], num_feat)
    if idr.shape != expected:
        raise ValueError(f"idr has shape {tuple(idr.shape)}, but must be (B, C) = {expected}")
