# SPDX-License-Identifier: Apache-2.0
"""SR trunks that a degradation representation steers: what those of MRDA, DASR and KDSR share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, ClassVar, Protocol, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mrda.networks import upscaler
from mrda.networks.layers import NEGATIVE_SLOPE, any_tensor, conv3x3, convolve, without_autocast
from mrda.networks.options import Configured
from mrda.networks.prepared import PreparedRDAN, check_inputs
from mrda.networks.rda_conv import SteeredConv
from mrda.networks.upscaler import PixelShuffleUpscaler
from mrda_kernels.dispatch import check_name


class Block(Protocol):
    """A block of a trunk: halves of a steered and a 3x3 convolution, and a skip around all."""

    def halves(self) -> Sequence[tuple[SteeredConv, nn.Conv2d]]:
        """Return the pairs of a steered and a 3x3 convolution, in order."""

    def __call__(self, features: Tensor, idr: Tensor, **options: Any) -> Tensor:
        """Return features (B, C, H, W) for features (B, C, H, W) and compressed IDR (B, C)."""


class Trunk(Configured):
    """Mean shift, head, groups of blocks with one long skip, upscaler.

    Attributes:
        scale: The enlargement, 2, 3 or 4.
        idr_dim: Length of the raw IDR.
        image_range: Factor from our images, in [0, 1] or the trunk's own range, to those that its weights are for.
    """

    image_range: ClassVar[float] = 1.0
    scale: int
    idr_dim: int
    mean: Tensor

    def _build(
        self,
        mean: Tensor,
        scale: int,
        num_feat: int,
        idr_dim: int,
        blocks: Callable[[], Iterable[nn.Module]],
        *,
        compress_bias: bool = False,
    ) -> None:
        """Make the layers, in the order in which their weights are drawn."""
        self.scale, self.idr_dim = scale, idr_dim
        # Not persistent: the hyperparameters carry it, and nothing trains it.
        self.register_buffer("mean", mean.to(torch.get_default_dtype()).reshape(3, 1, 1), persistent=False)
        self.head = conv3x3(3, num_feat)
        self.compress = nn.Linear(idr_dim, num_feat, bias=compress_bias)
        self.blocks = nn.ModuleList(blocks())
        self.body_tail = conv3x3(num_feat, num_feat)
        self.upscaler = PixelShuffleUpscaler(num_feat, scale)

    def groups(self) -> list[tuple[list[Block], nn.Conv2d | None]]:
        """Return groups of blocks, each with the 3x3 convolution that ends it before a skip around all, or None."""
        return [(cast("list[Block]", list(self.blocks)), None)]

    @property
    def reach(self) -> int:
        """Radius of the receptive field in LR pixels (112 as published for MRDA)."""
        groups = self.groups()
        halves = [half for blocks, _ in groups for block in blocks for half in block.halves()]
        tails = sum(tail is not None for _, tail in groups)
        return 2 + sum(steered.kernel_size // 2 + 1 for steered, _ in halves) + tails + upscaler.REACH

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
            lr: (B, 3, H, W) in [0, 1], or in the trunk's own range.
            degradation: Raw IDR (B, idr_dim).

        Raises:
            TypeError: An argument is not a floating point tensor of the weights' dtype.
            ValueError: An argument has another shape or device.
        """
        shallow, deep = self._trunk(lr, degradation)
        image = self.upscaler(convolve(self.body_tail, deep, skip=shallow))
        return (image if self.image_range == 1 else image / self.image_range) + self.mean

    def _trunk(self, lr: Tensor, degradation: Tensor, **options: Any) -> tuple[Tensor, Tensor]:
        """Return the head's features and those after the last group; ``options`` are the blocks'."""
        like = any_tensor(self)
        check_inputs(lr, degradation, idr_dim=self.idr_dim, like=like)
        colours = lr - self.mean if self.image_range == 1 else self.image_range * (lr - self.mean)
        shallow = self.head(colours.to(lr.dtype))
        # A few numbers that all features depend on: in the weights' own precision, also under autocast.
        with without_autocast(lr.device):
            idr = F.leaky_relu(self.compress(degradation.to(like.dtype)), NEGATIVE_SLOPE)
        deep = shallow
        for blocks, tail in self.groups():
            group = deep
            for block in blocks:
                deep = block(deep, idr, **options)
            if tail is not None:
                deep = convolve(tail, deep, skip=group)
        return shallow, deep
