"""RDAN, the SR trunk that is steered by a degradation representation (paper, section III-E, Eqs. 8-9)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mrda.core.checks import check_int, check_number, check_positive
from mrda.networks import upscaler
from mrda.networks.layers import NEGATIVE_SLOPE, conv3x3, without_autocast
from mrda.networks.prepared import PreparedRDAN, check_inputs
from mrda.networks.rda_conv import DASRConv, RDAConv, SteeredConv, build_conv
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

    def prepare(self, dtype: torch.dtype | None = None) -> PreparedRDAN:
        """Return a copy for inference, in which everything that follows from the weights alone is computed already.

        Later changes of this network (weights, backend, hooks, device) have no effect on it: prepare it again.

        Args:
            dtype: Dtype of the features and of the weights that make them, e.g. bfloat16; None leaves all as it is.
                What the features depend on most keeps the network's own dtype: the compressed IDR, the prediction of
                the kernels, and the upscaler.
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
        check_inputs(lr, degradation, like=self.compress.weight)
        shallow = self.head(lr - self.mean)
        # A few numbers that all features depend on: in the weights' own precision, also under autocast.
        with without_autocast(lr.device):
            idr = F.leaky_relu(self.compress(degradation.to(self.compress.weight.dtype)), NEGATIVE_SLOPE)
        deep = shallow
        for block in self.blocks:
            deep = block(deep, idr, masks=masks)
        return shallow, deep
