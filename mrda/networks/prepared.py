# SPDX-License-Identifier: Apache-2.0
"""Networks prepared for inference: everything that follows from the weights alone is computed once, ahead of calls.

A prepared network holds plain tensors, its own copies, so that a call does nothing but launch operators, and a CUDA
graph of it recomputes nothing. Each half of a block is a step of its own, `_HalfBlock`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from itertools import repeat
from typing import TYPE_CHECKING, TypeGuard, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mrda.core.checks import check_image, check_like, check_tensor
from mrda.networks.layers import NEGATIVE_SLOPE, without_autocast
from mrda.networks.rda_conv import RDAConv, SteeredConv
from mrda.networks.upscaler import CollapsedUpscaler
from mrda_kernels import rda_conv2d

if TYPE_CHECKING:
    from mrda.networks.mrda import MRDAStudent
    from mrda.networks.rdan import RDAB, RDAN

_Steered = Callable[[Tensor, Tensor, Tensor | None], Tensor]
"""Features (B, C, H, W), compressed IDR (B, C) and predicted kernels -> features after the LeakyReLU."""


class PreparedRDAN:
    """An RDAN for inference; see :meth:`mrda.networks.rdan.RDAN.prepare`, which makes it.

    Attributes:
        dtype: Dtype of the features.
    """

    def __init__(self, rdan: RDAN, dtype: torch.dtype | None) -> None:
        own = rdan.compress.weight
        self.dtype = own.dtype if dtype is None else dtype
        with torch.inference_mode(False), torch.no_grad():
            self.mean = rdan.mean.clone()
            self.compress = own.clone()
            self.head = _Conv3x3(rdan.head, self.dtype)
            blocks = [block.halves() for block in cast("list[RDAB]", rdan.blocks)]
            fused = [steered for halves in blocks for steered, _ in halves if _is_fused(steered)]
            self.predict = _Predictor(fused) if fused else None
            self.blocks = [[_HalfBlock(*half, self.dtype) for half in halves] for halves in blocks]
            self.body_tail = _Conv3x3(rdan.body_tail, self.dtype)
            self.upscaler = CollapsedUpscaler(rdan.upscaler)
            if own.is_cuda:  # streams of other threads must not start before it is complete
                torch.cuda.current_stream(own.device).synchronize()

    @torch.no_grad()
    def __call__(self, lr: Tensor, degradation: Tensor) -> Tensor:
        """Return SR (B, 3, scale*H, scale*W), not clamped, without recording gradients; autocast has no effect.

        Arguments and errors are those of :meth:`mrda.networks.rdan.RDAN.forward`.
        """
        self.check(lr, degradation)
        with without_autocast(lr.device):
            shallow = self.head((lr - self.mean).to(self.dtype))
            idr = F.leaky_relu(F.linear(degradation.to(self.compress.dtype), self.compress), NEGATIVE_SLOPE)
            kernels: Iterator[Tensor | None] = repeat(None)
            if self.predict is not None:
                kernels = iter(self.predict(idr, self.dtype))
            deep = shallow
            for first, second in self.blocks:
                out = F.leaky_relu_(first(deep, idr, next(kernels)), NEGATIVE_SLOPE)
                deep = second(out, idr, next(kernels)) + deep
            return self.upscaler(self.body_tail(deep) + shallow) + self.mean

    def check(self, lr: Tensor, degradation: Tensor) -> None:
        """Raise what a call raises for these arguments."""
        check_inputs(lr, degradation, like=self.compress)


class PreparedStudent:
    """A student for inference; see :meth:`mrda.networks.mrda.MRDAStudent.prepare`, which makes it.

    Attributes:
        rdan: The prepared trunk.
    """

    def __init__(self, student: MRDAStudent, dtype: torch.dtype | None) -> None:
        with torch.inference_mode(False):
            self._den = copy.deepcopy(student.den).requires_grad_(False).eval()
        self.rdan = student.rdan.prepare(dtype)

    @torch.no_grad()
    def __call__(self, lr: Tensor, degradation: Tensor | None = None) -> Tensor:
        """Return SR (B, 3, scale*H, scale*W), not clamped, without recording gradients.

        Arguments and errors are those of :meth:`mrda.networks.mrda.MRDAStudent.forward`.
        """
        return self.rdan(lr, self._den(lr) if degradation is None else degradation)


def check_inputs(lr: Tensor, degradation: Tensor, *, like: Tensor) -> None:
    """Raise what :meth:`mrda.networks.rdan.RDAN.forward` raises; ``like`` is the weight (C, D) that compresses IDRs."""
    check_image("lr", lr, like=like)
    check_tensor("degradation", degradation)
    expected = (lr.shape[0], like.shape[1])
    if degradation.shape != expected:
        raise ValueError(f"degradation has shape {tuple(degradation.shape)}, but must be {expected}")
    check_like("degradation", degradation, like)


class _HalfBlock:
    """A steered convolution with its LeakyReLU, then a 3x3 convolution: half of an RDA block."""

    def __init__(self, steered: SteeredConv, conv: nn.Conv2d, dtype: torch.dtype) -> None:
        self.steered: _Steered = _FusedRDAConv(steered, dtype) if _is_fused(steered) else _FrozenConv(steered, dtype)
        self.conv = _Conv3x3(conv, dtype)

    def __call__(self, features: Tensor, idr: Tensor, kernels: Tensor | None) -> Tensor:
        return self.conv(self.steered(features, idr, kernels))


class _FusedRDAConv:
    """An RDA conv as one call of the operator."""

    def __init__(self, conv: RDAConv, dtype: torch.dtype) -> None:
        self.mask_weight = _copied(conv.mask.weight, dtype)
        self.mask_bias = None if conv.mask.bias is None else _copied(conv.mask.bias, dtype)
        self.negative_slope = conv.dynamic_slope
        self.backend = conv.backend

    def __call__(self, features: Tensor, idr: Tensor, kernels: Tensor | None) -> Tensor:
        assert kernels is not None
        return rda_conv2d(
            features,
            kernels,
            self.mask_weight,
            self.mask_bias,
            negative_slope=self.negative_slope,
            output_negative_slope=NEGATIVE_SLOPE,
            backend=self.backend,
        )


class _FrozenConv:
    """A steered convolution of the ablations: a copy of the module, which predicts its own kernels."""

    def __init__(self, conv: SteeredConv, dtype: torch.dtype) -> None:
        self.conv = copy.deepcopy(conv).requires_grad_(False)
        for name, part in self.conv.named_children():
            if name != "kernel":
                part.to(dtype)

    def __call__(self, features: Tensor, idr: Tensor, kernels: Tensor | None) -> Tensor:
        return self.conv(features, idr, output_negative_slope=NEGATIVE_SLOPE)


class _Conv3x3:
    """A 3x3 convolution, zero padding 1."""

    def __init__(self, conv: nn.Conv2d, dtype: torch.dtype) -> None:
        self.weight = _copied(conv.weight, dtype)
        self.bias = None if conv.bias is None else _copied(conv.bias, dtype)

    def __call__(self, features: Tensor) -> Tensor:
        return F.conv2d(features, self.weight, self.bias, padding=1)


class _Predictor:
    """Predicts the kernels of N RDA convs by two batched products, because 2 N small ones cost as many launches."""

    def __init__(self, convs: list[RDAConv]) -> None:
        weights = ([layer.weight for layer in conv.kernel if isinstance(layer, nn.Linear)] for conv in convs)
        self.squeeze, self.expand = (torch.stack(layers).mT for layers in zip(*weights, strict=True))
        self.size = convs[0].kernel_size

    def __call__(self, idr: Tensor, dtype: torch.dtype) -> tuple[Tensor, ...]:
        """Return the kernels (B, C, K, K) of each conv, in ``dtype``, for compressed IDRs (B, C)."""
        kernels = F.leaky_relu(idr @ self.squeeze, NEGATIVE_SLOPE) @ self.expand
        return kernels.reshape(*kernels.shape[:2], idr.shape[1], self.size, self.size).to(dtype).unbind()


def _is_fused(conv: SteeredConv) -> TypeGuard[RDAConv]:
    """Return True for a convolution that the operator computes in one call."""
    return isinstance(conv, RDAConv) and conv.mask_input == "F"


def _copied(weight: Tensor, dtype: torch.dtype) -> Tensor:
    return weight.detach().to(dtype, copy=True)
