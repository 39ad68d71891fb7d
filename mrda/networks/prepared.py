# SPDX-License-Identifier: Apache-2.0
"""Networks prepared for inference: everything that follows from the weights alone is computed once, ahead of calls.

A prepared network is a frozen copy. It holds plain tensors of its own, so that a call does nothing but launch
operators, and a CUDA graph of it recomputes nothing. Each half of a block is one call of the operator. Features are
channels_last, in which the kernels are fastest, whatever the layout of the image: an operator's result has its input's.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import repeat
from typing import TYPE_CHECKING, Any, NoReturn, TypeGuard, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from mrda.core.checks import check_image, check_like, check_tensor
from mrda.networks.layers import NEGATIVE_SLOPE, without_autocast
from mrda.networks.rda_conv import RDAConv, SteeredConv
from mrda.networks.upscaler import CollapsedUpscaler
from mrda_kernels import conv3x3, pack_conv3x3, rda_conv3x3
from mrda_kernels.call import holds

if TYPE_CHECKING:
    from mrda.networks.den import DEN
    from mrda.networks.mrda import MRDAStudent
    from mrda.networks.rdan import RDAB, RDAN


class _Frozen:
    """Base class of prepared networks, which are no modules: there is nothing to load, to train or to move."""

    def __getattr__(self, name: str) -> NoReturn:
        reason = (
            ": a prepared network is a frozen copy. Change the network itself, then prepare it again with prepare()"
            if hasattr(nn.Module, name)
            else ""
        )
        raise AttributeError(f"{type(self).__name__} has no attribute {name!r}{reason}", name=name, obj=self)


class PreparedRDAN(_Frozen):
    """An RDAN for inference; see :meth:`mrda.networks.rdan.RDAN.prepare`, which makes it.

    Attributes:
        dtype: Dtype of the features.
    """

    def __init__(self, rdan: RDAN, dtype: torch.dtype | None) -> None:
        with torch.inference_mode(False), torch.no_grad(), _evaluating(rdan):
            _check_hooks(rdan)
            _recompute_weights(rdan)
            self.compress, _ = _weights(rdan.compress, nn.Linear)
            self.dtype = self.compress.dtype if dtype is None else dtype
            self.mean = rdan.mean.clone()
            self.head = _Conv3x3(rdan.head, self.dtype)
            blocks = [block.halves() for block in cast("list[RDAB]", rdan.blocks)]
            fused = [steered for halves in blocks for steered, _ in halves if _is_fused(steered)]
            self.predict = _Predictor(fused) if fused else None
            self.blocks = [[_half(*half, self.dtype) for half in halves] for halves in blocks]
            self.body_tail = _Conv3x3(rdan.body_tail, self.dtype)
            for layer in (*rdan.upscaler.expand, rdan.upscaler.last):
                _check_layer(layer, nn.PixelShuffle if isinstance(layer, nn.PixelShuffle) else nn.Conv2d)
            self.upscaler = CollapsedUpscaler(rdan.upscaler)
            if self.mean.is_cuda:  # streams of other threads must not start before it is complete
                torch.cuda.current_stream(self.mean.device).synchronize()

    @torch.no_grad()
    def __call__(self, lr: Tensor, degradation: Tensor) -> Tensor:
        """Return SR (B, 3, scale*H, scale*W), not clamped, without recording gradients; autocast has no effect.

        Arguments and errors are those of :meth:`mrda.networks.rdan.RDAN.forward`.
        """
        self.check(lr, degradation)
        with without_autocast(lr.device):
            shallow = self.head((lr - self.mean).to(self.dtype, memory_format=torch.channels_last))
            idr = F.leaky_relu(F.linear(degradation.to(self.compress.dtype), self.compress), NEGATIVE_SLOPE)
            kernels: Iterator[Tensor | None] = repeat(None)
            if self.predict is not None:
                kernels = iter(self.predict(idr, self.dtype))
            deep = shallow
            for first, second in self.blocks:
                out = first(deep, idr, next(kernels), output_negative_slope=NEGATIVE_SLOPE)
                deep = second(out, idr, next(kernels), skip=deep)
            return self.upscaler(self.body_tail(deep, skip=shallow)) + self.mean

    def check(self, lr: Tensor, degradation: Tensor) -> None:
        """Raise what a call raises for these arguments."""
        check_inputs(lr, degradation, idr_dim=self.compress.shape[1], like=self.compress)


class PreparedStudent(_Frozen):
    """A student for inference; see :meth:`mrda.networks.mrda.MRDAStudent.prepare`, which makes it.

    Attributes:
        rdan: The prepared trunk.
    """

    def __init__(self, student: MRDAStudent, dtype: torch.dtype | None) -> None:
        with torch.inference_mode(False), torch.no_grad(), _evaluating(student):
            _check_hooks(student, but=student.den)
            self._den = prepared_den(student.den)
        self.rdan = student.rdan.prepare(dtype)

    @torch.no_grad()
    def __call__(self, lr: Tensor, degradation: Tensor | None = None) -> Tensor:
        """Return SR (B, 3, scale*H, scale*W), not clamped, without recording gradients.

        Arguments and errors are those of :meth:`mrda.networks.mrda.MRDAStudent.forward`.
        """
        return self.rdan(lr, self._den(lr) if degradation is None else degradation)


def prepared_den(den: DEN) -> DEN:
    """Return a frozen copy of a DEN for inference. Its convolutions have packed weights if all are as they were built.

    Otherwise, with hooks or replaced layers, the copy calls its layers as the DEN does.
    """
    with torch.inference_mode(False), torch.no_grad(), _evaluating(den):
        _recompute_weights(den)  # those that pruning has left with a graph can't be copied
        copied = copy.deepcopy(den).requires_grad_(False).eval()
        kinds = [nn.LeakyReLU if place % 2 else nn.Conv2d for place in range(len(den.convs))]
        unchanged = all(
            _is_one(layer, kind) and _is_as_built(layer) for layer, kind in zip(den.convs, kinds, strict=True)
        )
        if unchanged and not any(_has_hooks(module) for module in den.convs.modules()):
            copied.convs = _PackedConvs(list(den.convs)[::2])  # type: ignore[assignment]
    return copied


class _PackedConvs(nn.Module):
    """The convolutions of a DEN, each with its LeakyReLU."""

    def __init__(self, convs: Iterable[nn.Module]) -> None:
        super().__init__()
        self.steps: list[_Conv3x3 | _StridedConv] = []
        for conv in cast("Iterable[nn.Conv2d]", convs):
            self.steps.append((_Conv3x3 if conv.stride == (1, 1) else _StridedConv)(conv, conv.weight.dtype))
        self.register_buffer("like", conv.weight.new_empty(0), persistent=False)  # the weights' device and dtype

    def forward(self, x: Tensor) -> Tensor:
        """Return the features of ``x``."""
        x = x.contiguous(memory_format=torch.channels_last)
        for step in self.steps:
            x = step(x, output_negative_slope=NEGATIVE_SLOPE)
        return x


class _StridedConv:
    """A 3x3 convolution of stride 2, zero padding 1."""

    def __init__(self, conv: nn.Conv2d, dtype: torch.dtype) -> None:
        self.weight, self.bias = _weights(conv, nn.Conv2d, dtype)

    def __call__(self, features: Tensor, *, output_negative_slope: float) -> Tensor:
        out = F.conv2d(features, self.weight, self.bias, stride=2, padding=1)
        return F.leaky_relu_(out, output_negative_slope)


def check_inputs(lr: Tensor, degradation: Tensor, *, idr_dim: int, like: Tensor) -> None:
    """Raise what :meth:`mrda.networks.rdan.RDAN.forward` raises; ``like`` has the device and dtype of the weights."""
    check_image("lr", lr, like=like)
    check_tensor("degradation", degradation)
    shape = tuple(degradation.shape)
    if len(shape) != 2 or not holds(shape[0] == lr.shape[0]) or shape[1] != idr_dim:
        raise ValueError(f"degradation has shape {shape}, but must be {(lr.shape[0], idr_dim)}")
    check_like("degradation", degradation, like)


class _FusedHalf:
    """An RDA conv, its LeakyReLU and a 3x3 convolution: half of an RDA block as one call of the operator."""

    def __init__(self, steered: RDAConv, conv: nn.Conv2d, dtype: torch.dtype) -> None:
        self.mask_weight, self.mask_bias = _weights(steered.mask, nn.Conv2d, dtype)
        self.negative_slope = steered.dynamic_slope
        self.backend = steered.backend
        self.conv = _Conv3x3(conv, dtype)

    def __call__(
        self,
        features: Tensor,
        idr: Tensor,
        kernels: Tensor | None,
        *,
        skip: Tensor | None = None,
        output_negative_slope: float | None = None,
    ) -> Tensor:
        assert kernels is not None
        return rda_conv3x3(
            features,
            kernels,
            self.mask_weight,
            self.mask_bias,
            self.conv.weight,
            self.conv.bias,
            skip=skip,
            negative_slope=self.negative_slope,
            inner_negative_slope=NEGATIVE_SLOPE,
            output_negative_slope=output_negative_slope,
            backend=self.backend,
        )


class _Half:
    """A steered convolution of the ablations with its LeakyReLU, then a 3x3 convolution."""

    def __init__(self, steered: SteeredConv, conv: nn.Conv2d, dtype: torch.dtype) -> None:
        self.steered = _FrozenConv(steered, dtype)
        self.conv = _Conv3x3(conv, dtype)

    def __call__(self, features: Tensor, idr: Tensor, kernels: Tensor | None, **options: Any) -> Tensor:
        return self.conv(self.steered(features, idr), **options)


class _FrozenConv:
    """A steered convolution of the ablations: a copy of the module, which predicts its own kernels."""

    def __init__(self, conv: SteeredConv, dtype: torch.dtype) -> None:
        self.conv = copy.deepcopy(conv).requires_grad_(False)
        for name, part in self.conv.named_children():
            if name != "kernel":
                part.to(dtype)

    def __call__(self, features: Tensor, idr: Tensor) -> Tensor:
        return self.conv(features, idr, output_negative_slope=NEGATIVE_SLOPE)


class _Conv3x3:
    """A 3x3 convolution, zero padding 1, whose weights are packed once."""

    def __init__(self, conv: nn.Conv2d, dtype: torch.dtype) -> None:
        weight, self.bias = _weights(conv, nn.Conv2d, dtype)
        self.weight = pack_conv3x3(weight.contiguous(memory_format=torch.channels_last))

    def __call__(self, features: Tensor, **options: Any) -> Tensor:
        return conv3x3(features, self.weight, self.bias, **options)


class _Predictor:
    """Predicts the kernels of N RDA convs by two batched products, because 2 N small ones cost as many launches."""

    def __init__(self, convs: list[RDAConv]) -> None:
        for conv in convs:
            _check_layer(conv.kernel[1], nn.LeakyReLU)
        weights = ([_weights(conv.kernel[index], nn.Linear)[0] for index in (0, 2)] for conv in convs)
        self.squeeze, self.expand = (torch.stack(layers).mT for layers in zip(*weights, strict=True))
        self.size = convs[0].kernel_size

    def __call__(self, idr: Tensor, dtype: torch.dtype) -> tuple[Tensor, ...]:
        """Return the kernels (B, C, K, K) of each conv, in ``dtype``, for compressed IDRs (B, C)."""
        kernels = F.leaky_relu(idr @ self.squeeze, NEGATIVE_SLOPE) @ self.expand
        return kernels.reshape(*kernels.shape[:2], idr.shape[1], self.size, self.size).to(dtype).unbind()


def _half(steered: SteeredConv, conv: nn.Conv2d, dtype: torch.dtype) -> _FusedHalf | _Half:
    return _FusedHalf(steered, conv, dtype) if _is_fused(steered) else _Half(steered, conv, dtype)


def _is_fused(conv: SteeredConv) -> TypeGuard[RDAConv]:
    """Return True for a convolution that the operator computes in one call."""
    return isinstance(conv, RDAConv) and conv.mask_input == "F"


# ---- reading the weights of layers ---------------------------------------------------------------------------------

_COMPUTING = (BasePruningMethod, WeightNorm, SpectralNorm)
"""Hooks that compute a layer's weight from its parameters, before each call."""


def _weights(layer: nn.Module, kind: type[nn.Module], dtype: torch.dtype | None = None) -> tuple[Tensor, Tensor | None]:
    """Return copies of a layer's weight and bias, in ``dtype`` or their own."""
    _check_layer(layer, kind)
    weight: Tensor = layer.weight  # type: ignore[assignment]
    bias: Tensor | None = layer.bias  # type: ignore[assignment]
    return (
        weight.detach().to(dtype or weight.dtype, copy=True),
        None if bias is None else bias.detach().to(dtype or bias.dtype, copy=True),
    )


def _check_layer(layer: nn.Module, kind: type[nn.Module]) -> None:
    """Raise ValueError unless a call of ``layer`` is one of ``kind`` with the settings it was built with."""
    if not _is_one(layer, kind):
        raise ValueError(
            f"a layer is a {type(layer).__module__}.{type(layer).__name__}, but prepare() can only read the weights of "
            f"a {kind.__name__}: merge adapters into the network first, or call the network itself"
        )
    if not _is_as_built(layer):
        raise ValueError(
            f"a layer is {layer}, but prepare() can only read layers with the settings that the network gave them: "
            "call the network itself"
        )


def _is_one(layer: nn.Module, kind: type[nn.Module]) -> bool:
    """Return True if a call of ``layer`` does what one of ``kind`` does, but for its hooks."""
    return type(layer).forward is kind.forward and "forward" not in vars(layer)


def _is_as_built(layer: nn.Module) -> bool:
    """Return False for a convolution or an activation whose settings somebody has changed."""
    if isinstance(layer, nn.Conv2d):
        same = tuple(size // 2 for size in layer.kernel_size)
        return (layer.padding_mode, layer.padding, layer.dilation, layer.groups) == ("zeros", same, (1, 1), 1)
    return not isinstance(layer, nn.LeakyReLU) or layer.negative_slope == NEGATIVE_SLOPE


def _has_hooks(module: nn.Module) -> bool:
    """Return True if a module has hooks other than those that compute weights."""
    before = [hook for hook in module._forward_pre_hooks.values() if not isinstance(hook, _COMPUTING)]
    return bool(before or module._forward_hooks)


def _check_hooks(network: nn.Module, *, but: nn.Module | None = None) -> None:
    """Raise ValueError if modules outside of ``but`` have hooks, other than those that compute weights."""
    called = set() if but is None else set(but.modules())
    for name, module in network.named_modules():
        if module not in called and _has_hooks(module):
            raise ValueError(
                f"{name or 'the network'} has hooks, which a prepared network would not run: "
                "remove them before prepare(), or call the network itself"
            )


def _recompute_weights(network: nn.Module) -> None:
    """Bring the weights that hooks compute up to date."""
    for module in network.modules():
        for hook in module._forward_pre_hooks.values():
            if isinstance(hook, _COMPUTING):
                hook(module, ())


@contextmanager
def _evaluating(network: nn.Module) -> Iterator[None]:
    """Put a network into evaluation mode for a while, so that reading the weights of spectral norms changes nothing."""
    training = [module for module in network.modules() if module.training]
    network.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True
