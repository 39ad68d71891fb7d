"""RDAN, the SR trunk that is steered by a degradation representation (paper, section III-E, Eqs. 8-9)."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mrda.core.checks import check_image, check_int, check_like, check_number, check_positive, check_tensor
from mrda.networks import upscaler
from mrda.networks.kept import Kept
from mrda.networks.layers import NEGATIVE_SLOPE, add, conv3x3, without_autocast
from mrda.networks.rda_conv import (
    DASRConv,
    KernelWeights,
    PredictingConv,
    RDAConv,
    build_conv,
    kernel_weights,
    predict_all,
)
from mrda.networks.upscaler import PixelShuffleUpscaler
from mrda_kernels.dispatch import check_name

DIV2K_RGB_MEAN = (0.4488, 0.4371, 0.4040)


class RDAB(nn.Module):
    """Region degradation aware block: two pairs of RDA conv and 3x3 convolution, and a skip.

    Args:
        num_feat: Channels C.
        **rda_conv: Further arguments of :func:`~mrda.networks.rda_conv.build_conv`, for both of them.
    """

    def __init__(self, num_feat: int, **rda_conv: Any) -> None:
        super().__init__()
        self.rda_conv1 = build_conv(num_feat, **rda_conv)
        self.conv1 = conv3x3(num_feat, num_feat)
        self.rda_conv2 = build_conv(num_feat, **rda_conv)
        self.conv2 = conv3x3(num_feat, num_feat)

    def forward(
        self,
        features: Tensor,
        idr: Tensor,
        *,
        kernels: Sequence[Tensor | None] = (None, None),
        masks: list[Tensor] | None = None,
    ) -> Tensor:
        """Return features (B, C, H, W) for features (B, C, H, W) and compressed IDR (B, C).

        ``kernels`` are those of the two steered convolutions, where they have been predicted already. The masks of both
        RDA convs are appended to ``masks`` where it is given; convolutions of other types have none and refuse it.
        What the two 3x3 convolutions return is changed in place after a hook has seen it.
        """
        options: dict[str, Any] = {"output_negative_slope": NEGATIVE_SLOPE}
        if masks is not None:
            options["masks"] = masks
        out = self.rda_conv1(features, idr, kernels=kernels[0], **options)
        out = F.leaky_relu(self.conv1(out), NEGATIVE_SLOPE, inplace=True)
        out = self.rda_conv2(out, idr, kernels=kernels[1], **options)
        return add(self.conv2(out), features)


class RDAN(nn.Module):
    """The whole trunk: mean shift, head, RDA blocks with one long skip, upscaler.

    Args:
        scale: 2, 3 or 4.
        num_feat: Channels C of the trunk.
        num_blocks: RDA blocks.
        kernel_size: Side of the predicted kernels: 1, 3, 5 or 7.
        idr_dim: Length of the raw IDR.
        mask_channels: See :class:`~mrda.networks.rda_conv.RDAConv`.
        mask_input: See :class:`~mrda.networks.rda_conv.RDAConv`.
        dyn_act: See :class:`~mrda.networks.rda_conv.RDAConv`.
        conv_type: The convolution that the IDR steers: "rda", or for ablations "dasr_da" or "static" (rows S4 and S5 of
            Table V); see :mod:`mrda.networks.rda_conv`.
        static_groups: See :class:`~mrda.networks.rda_conv.StaticConv`.
        rgb_mean: Mean colour that is subtracted from LR and added to SR, as a fraction of ``rgb_range``.
        rgb_range: Largest value of the images.
        backend: Backend of the dynamic convolutions; None lets the operator choose.

    Raises:
        TypeError: A size is not an int, or a number is not one.
        ValueError: A size is below 1, ``rgb_mean`` is not three finite numbers, ``rgb_range`` is not positive, or an
            option is none of those listed or does not go with ``conv_type``.
    """

    mean: Tensor

    def __init__(
        self,
        *,
        scale: int = 4,
        num_feat: int = 64,
        num_blocks: int = 27,
        kernel_size: int = 3,
        idr_dim: int = 256,
        mask_channels: int = 1,
        mask_input: str = "F",
        dyn_act: str = "lrelu",
        conv_type: str = "rda",
        static_groups: str = "C",
        rgb_mean: Sequence[float] = DIV2K_RGB_MEAN,
        rgb_range: float = 1.0,
        backend: str | None = None,
    ) -> None:
        super().__init__()
        check_int("num_feat", num_feat)
        check_int("num_blocks", num_blocks)
        check_int("idr_dim", idr_dim)
        if not isinstance(rgb_mean, Sequence) or len(rgb_mean) != 3:
            raise ValueError(f"rgb_mean is {rgb_mean!r}, but must be three numbers")
        for index, value in enumerate(rgb_mean):
            check_number(f"rgb_mean[{index}]", value)
        check_positive("rgb_range", rgb_range)
        self.scale = scale
        self.idr_dim = idr_dim
        self._options: dict[str, Any] = {
            "scale": scale,
            "num_feat": num_feat,
            "num_blocks": num_blocks,
            "kernel_size": kernel_size,
            "idr_dim": idr_dim,
            "mask_channels": mask_channels,
            "mask_input": mask_input,
            "dyn_act": dyn_act,
            "conv_type": conv_type,
            "static_groups": static_groups,
            "rgb_mean": [float(value) for value in rgb_mean],
            "rgb_range": rgb_range,
        }
        # Not persistent: the hyperparameters carry it, and nothing trains it.
        shift = torch.tensor(rgb_mean, dtype=torch.float64) * rgb_range
        self.register_buffer("mean", shift.to(torch.get_default_dtype()).reshape(3, 1, 1), persistent=False)
        self.head = conv3x3(3, num_feat)
        self.compress = nn.Linear(idr_dim, num_feat, bias=False)
        self.blocks = nn.ModuleList(
            RDAB(
                num_feat,
                kernel_size=kernel_size,
                mask_channels=mask_channels,
                mask_input=mask_input,
                dyn_act=dyn_act,
                conv_type=conv_type,
                static_groups=static_groups,
                backend=backend,
            )
            for _ in range(num_blocks)
        )
        self.body_tail = conv3x3(num_feat, num_feat)
        self.upscaler = PixelShuffleUpscaler(num_feat, scale)
        self._kernel_weights: Kept[KernelWeights] = Kept()

    @property
    def hyperparameters(self) -> dict[str, Any]:
        """The keyword arguments, fit for JSON, that build this network again (without ``backend``)."""
        return dict(self._options)

    @property
    def reach(self) -> int:
        """LR pixels around it that a pixel of SR sees: the radius of the receptive field (112 as published)."""
        per_block = 2 * (self._options["kernel_size"] // 2 + 1)
        return 1 + len(self.blocks) * per_block + 1 + upscaler.REACH

    def set_backend(self, backend: str | None) -> None:
        """Let every dynamic convolution run on ``backend`` of mrda_kernels; None lets the operator choose."""
        check_name(backend)
        for module in self.modules():
            if isinstance(module, RDAConv | DASRConv):
                module.backend = backend

    def with_features_in(self, dtype: torch.dtype) -> RDAN:
        """Return a frozen copy for inference whose features, and all that makes them, are in half precision.

        What they depend on most stays as it is: the IDR, the prediction of the kernels, and the last convolution.

        Args:
            dtype: bfloat16 or float16.
        """
        copied = copy.deepcopy(self).requires_grad_(False)
        predictors = {layer for conv in copied._predicting_convs() for layer in conv.kernel}
        for part in (copied.head, copied.blocks, copied.body_tail):
            for module in part.modules():
                if isinstance(module, nn.Conv2d | nn.Linear) and module not in predictors:
                    module.to(dtype)
        return copied

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
        return self.upscaler(add(self.body_tail(deep), shallow)) + self.mean

    def check(self, lr: Tensor, degradation: Tensor) -> None:
        """Raise what :meth:`forward` raises for these arguments."""
        check_image("lr", lr, like=self.compress.weight)
        check_tensor("degradation", degradation)
        if degradation.shape != (lr.shape[0], self.idr_dim):
            raise ValueError(
                f"degradation has shape {tuple(degradation.shape)}, but must be {(lr.shape[0], self.idr_dim)}"
            )
        check_like("degradation", degradation, self.compress.weight)

    @torch.no_grad()
    def modulation_map(self, lr: Tensor, degradation: Tensor) -> Tensor:
        """Return (B, 1, H, W) in (0, 1): the mean of the masks of all RDA convs, as drawn in Fig. 10.

        No gradient is recorded. Arguments and errors are those of :meth:`forward`, and a ValueError where ``conv_type``
        is not "rda".
        """
        conv_type = self._options["conv_type"]
        if conv_type != "rda":
            raise ValueError(f"the network has conv_type {conv_type!r}, but only 'rda' has masks to draw a map of")
        masks: list[Tensor] = []
        self._trunk(lr, degradation, masks)
        return torch.stack([mask.mean(dim=1, keepdim=True) for mask in masks]).mean(dim=0)

    def _trunk(self, lr: Tensor, degradation: Tensor, masks: list[Tensor] | None = None) -> tuple[Tensor, Tensor]:
        """Return the head's features and those after the last block."""
        self.check(lr, degradation)
        shallow = self.head((lr - self.mean).to(self.head.weight.dtype))
        # A few numbers that all features depend on: in the weights' own precision, whatever the features are in.
        with without_autocast(lr.device):
            idr = F.leaky_relu(self.compress(degradation.to(self.compress.weight.dtype)), NEGATIVE_SLOPE)
            kernels = self._predict_kernels(idr, shallow.dtype)
        idr = idr.to(shallow.dtype)
        deep = shallow
        for block, pair in zip(self.blocks, kernels, strict=True):
            deep = block(deep, idr, kernels=pair, masks=masks)
        return shallow, deep

    def _predict_kernels(self, idr: Tensor, dtype: torch.dtype) -> list[tuple[Tensor | None, Tensor | None]]:
        """The kernels of each block's two convolutions, all in one go; None where a convolution predicts none."""
        predicting = self._predicting_convs()
        if not predicting:
            return [(None, None)] * len(self.blocks)
        weights = [weight for conv in predicting for weight in kernel_weights(conv)]
        kernels = predict_all(self._kernel_weights(weights, lambda: KernelWeights.of(predicting)), idr)
        of_each = kernels.to(dtype).unbind()
        return list(zip(of_each[::2], of_each[1::2], strict=True))

    def _predicting_convs(self) -> list[PredictingConv]:
        """The convolutions whose kernels are predicted, from first to last: two in each block, or none."""
        convs = [conv for block in self.blocks for conv in (block.rda_conv1, block.rda_conv2)]
        return [conv for conv in convs if isinstance(conv, PredictingConv)]
