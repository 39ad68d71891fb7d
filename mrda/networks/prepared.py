# SPDX-License-Identifier: Apache-2.0
"""Networks prepared for inference: everything that follows from the weights alone is computed once, ahead of calls.

A prepared network is a frozen copy. It holds plain tensors of its own, so that a call does nothing but launch
operators, and a CUDA graph of it recomputes nothing. Each half of a block is one call of the operator. Features are
channels_last, in which the kernels are fastest, whatever the layout of the image: an operator's result has its input's.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import pairwise, repeat
from typing import TYPE_CHECKING, Any, NoReturn, TypeGuard, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from mrda.core.checks import check_image, check_like, check_tensor
from mrda.networks.layers import NEGATIVE_SLOPE, FrozenBatchNorm, ResidualBlock, is_as_built, without_autocast
from mrda.networks.rda_conv import DASRConv, KDSRConv, PredictingConv, RDAConv, SteeredConv
from mrda.networks.upscaler import CollapsedUpscaler, PixelShuffleUpscaler
from mrda_kernels import (
    conv3x3,
    conv5x5_shuffle,
    dynamic_depthwise_conv2d,
    pack_conv3x3,
    pack_conv5x5,
    rda_conv3x3,
)
from mrda_kernels.call import accumulation_dtype, holds

if TYPE_CHECKING:
    from mrda.networks.blind import BlindNetwork
    from mrda.networks.den import Encoder
    from mrda.networks.trunk import Trunk


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
    """A trunk for inference; see :meth:`mrda.networks.trunk.Trunk.prepare`, which makes it.

    Attributes:
        dtype: Dtype of the features.
    """

    def __init__(self, rdan: Trunk, dtype: torch.dtype | None) -> None:
        with torch.inference_mode(False), torch.no_grad(), _evaluating(rdan):
            _check_hooks(rdan)
            _recompute_weights(rdan)
            self.compress, self.compress_bias = _weights(rdan.compress, nn.Linear)
            self.dtype = self.compress.dtype if dtype is None else dtype
            self.mean, self.image_range = rdan.mean.clone(), rdan.image_range
            self.head = _Conv3x3(rdan.head, self.dtype)
            blocks = [block.halves() for group, _ in rdan.groups() for block in group]
            predicting = [steered for halves in blocks for steered, _ in halves if _is_predicted(steered)]
            attending = [conv for conv in predicting if isinstance(conv, DASRConv)]
            self.predict = _Predictor(predicting) if predicting else None
            self.predict_attention = _Attention(attending) if attending else None
            self.blocks = [[_half(*half, self.dtype) for half in halves] for halves in blocks]
            self.group_tails: dict[int, _Conv3x3] = {}
            last = -1
            for group, tail in rdan.groups():
                last += len(group)
                if tail is not None:
                    self.group_tails[last] = _Conv3x3(tail, self.dtype)
            self.body_tail = _Conv3x3(rdan.body_tail, self.dtype)
            for layer in (*rdan.upscaler.expand, rdan.upscaler.last):
                _check_layer(layer, nn.PixelShuffle if isinstance(layer, nn.PixelShuffle) else nn.Conv2d)
            self.upscaler = _Upscaler(rdan.upscaler, self.mean, self.image_range, self.dtype)
            if self.mean.is_cuda:  # streams of other threads must not start before it is complete
                torch.cuda.current_stream(self.mean.device).synchronize()

    @torch.no_grad()
    def __call__(self, lr: Tensor, degradation: Tensor, *, progress: Callable[[float], None] | None = None) -> Tensor:
        """Return SR (B, 3, scale*H, scale*W), not clamped, without recording gradients; autocast has no effect.

        Other arguments and errors are those of :meth:`mrda.networks.rdan.RDAN.forward`.

        Args:
            lr: As there.
            degradation: As there.
            progress: Called after each half of a block with the share of the work that is done, below 1.
        """
        self.check(lr, degradation)
        tell = progress or _ignore
        with without_autocast(lr.device):
            colours = lr - self.mean if self.image_range == 1 else self.image_range * (lr - self.mean)
            shallow = self.head(colours.to(self.dtype, memory_format=torch.channels_last))
            idr = F.linear(degradation.to(self.compress.dtype), self.compress, self.compress_bias)
            steering = self._steering(F.leaky_relu(idr, NEGATIVE_SLOPE))
            deep = group = shallow
            parts, done = sum(map(len, self.blocks)) + 1, 0
            for number, (*first, last) in enumerate(self.blocks):
                out = deep
                for half in first:
                    out = half(out, *next(steering), output_negative_slope=NEGATIVE_SLOPE)
                    done += 1
                    tell(done / parts)
                deep = last(out, *next(steering), skip=deep)
                done += 1
                tell(done / parts)
                if number in self.group_tails:
                    deep = group = self.group_tails[number](deep, skip=group)
            return self.upscaler(self.body_tail(deep, skip=shallow))

    def _steering(self, idr: Tensor) -> Iterator[tuple[Tensor, ...]]:
        """Yield what each half's convolution is steered by, for a compressed IDR (B, C)."""
        if self.predict is None:
            return repeat((idr,))
        kernels = self.predict(idr, self.dtype)
        if self.predict_attention is None:
            return zip(kernels, strict=True)
        return zip(kernels, self.predict_attention(idr, self.dtype), strict=True)

    def check(self, lr: Tensor, degradation: Tensor) -> None:
        """Raise what a call raises for these arguments."""
        check_inputs(lr, degradation, idr_dim=self.compress.shape[1], like=self.compress)


def _ignore(share: float) -> None:
    """Take a share that nobody wants to see."""


class PreparedStudent(_Frozen):
    """A student for inference; see :meth:`mrda.networks.blind.BlindNetwork.prepare`, which makes it.

    Attributes:
        rdan: The prepared trunk.
    """

    def __init__(self, student: BlindNetwork, dtype: torch.dtype | None) -> None:
        with torch.inference_mode(False), torch.no_grad(), _evaluating(student):
            _check_hooks(student, but=student.den)
            self.den = prepared_den(student.den, dtype)
        self.rdan = student.rdan.prepare(dtype)

    @torch.no_grad()
    def __call__(
        self, lr: Tensor, degradation: Tensor | None = None, *, progress: Callable[[float], None] | None = None
    ) -> Tensor:
        """Return SR (B, 3, scale*H, scale*W), not clamped, without recording gradients.

        Other arguments and errors are those of :meth:`mrda.networks.blind.BlindNetwork.forward`.

        Args:
            lr: As there.
            degradation: As there.
            progress: As for `PreparedRDAN`.
        """
        return self.rdan(lr, self.den(lr) if degradation is None else degradation, progress=progress)

    def check(self, lr: Tensor, degradation: Tensor | None = None) -> None:
        """Raise what a call raises for these arguments."""
        if degradation is None:
            check_image("lr", lr, like=self.rdan.compress)
        else:
            self.rdan.check(lr, degradation)


def prepared_den(den: Encoder, dtype: torch.dtype | None = None) -> Encoder:
    """Return a frozen copy of a DEN or another encoder for inference.

    Its convolutions have packed weights if all are as they were built. These compute in ``dtype``, if it is given; the
    average and the linear layers always in the network's own. With hooks or replaced layers, the copy calls its layers
    as the encoder does, all in the network's own dtype.
    """
    with torch.inference_mode(False), torch.no_grad(), _evaluating(den):
        _recompute_weights(den)  # those that pruning has left with a graph can't be copied
        copied = copy.deepcopy(den).requires_grad_(False).eval()
        layers = [layer for layer in den.convs.modules() if not list(layer.children())]
        unchanged = all(any(_is_one(layer, kind) for kind in _ENCODERS) and is_as_built(layer) for layer in layers)
        if unchanged and not any(_has_hooks(module) for module in den.convs.modules()):
            copied.convs = _PackedConvs(cast("Iterable[nn.Module]", den.convs), dtype)
    return copied


_ENCODERS = (nn.Conv2d, nn.LeakyReLU, FrozenBatchNorm)
"""Layers that an encoder has before its average."""


class _PackedConvs(nn.Module):
    """The convolutions of an encoder, each with its LeakyReLU, and its residual blocks."""

    def __init__(self, layers: Iterable[nn.Module], dtype: torch.dtype | None) -> None:
        super().__init__()
        self.steps: list[_Conv3x3 | _StridedConv | _PackedBlock] = []
        first, *others = layers
        self.dtype: torch.dtype = cast("nn.Conv2d", first).weight.dtype if dtype is None else dtype
        for layer, after in pairwise([first, *others, None]):
            if isinstance(layer, ResidualBlock):
                self.steps.append(_PackedBlock(layer, self.dtype))
            elif isinstance(layer, nn.Conv2d):
                conv = _normalised(layer, after) if isinstance(after, FrozenBatchNorm) else layer
                self.steps.append((_Conv3x3 if conv.stride == (1, 1) else _StridedConv)(conv, self.dtype))
        self.register_buffer("like", conv.weight.new_empty(0), persistent=False)  # the network's device and dtype

    def forward(self, x: Tensor) -> Tensor:
        """Return the features of ``x``."""
        x = x.to(self.dtype, memory_format=torch.channels_last)
        for step in self.steps:
            x = step(x, output_negative_slope=NEGATIVE_SLOPE)
        return x


class _PackedBlock:
    """A residual block."""

    def __init__(self, block: ResidualBlock, dtype: torch.dtype) -> None:
        first, _, second = cast("Iterable[nn.Conv2d]", block.body)
        self.first, self.second = _Conv3x3(first, dtype), _Conv3x3(second, dtype)

    def __call__(self, features: Tensor, *, output_negative_slope: float) -> Tensor:
        return self.second(self.first(features, output_negative_slope=output_negative_slope), skip=features)


def _normalised(conv: nn.Conv2d, norm: FrozenBatchNorm) -> nn.Conv2d:
    """Fold the BatchNorm after a convolution into a copy of it."""
    folded, gain = copy.deepcopy(conv), norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
    assert conv.bias is not None
    folded.weight.copy_(gain[:, None, None, None] * conv.weight.double())
    folded.bias = nn.Parameter(
        (gain * (conv.bias.double() - norm.running_mean.double()) + norm.bias.double()).to(conv.bias.dtype)
    )
    return folded


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
    """An RDA conv, its LeakyReLU and a 3x3 convolution: half of an RDA block, or one of KDSR, as one call."""

    def __init__(self, steered: RDAConv | KDSRConv, conv: nn.Conv2d, dtype: torch.dtype) -> None:
        self.mask_weight: Tensor | None = None
        self.mask_bias: Tensor | None = None
        if isinstance(steered, RDAConv):
            self.mask_weight, self.mask_bias = _weights(steered.mask, nn.Conv2d, dtype)
        self.negative_slope = steered.dynamic_slope
        self.backend = steered.backend
        self.conv = _Conv3x3(conv, dtype)

    def __call__(
        self,
        features: Tensor,
        kernels: Tensor,
        *,
        skip: Tensor | None = None,
        output_negative_slope: float | None = None,
    ) -> Tensor:
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


class _AttentionHalf:
    """A convolution of DASR with its LeakyReLU, then a 3x3 convolution."""

    def __init__(self, steered: DASRConv, conv: nn.Conv2d, dtype: torch.dtype) -> None:
        self.weight, self.bias = _weights(steered.project, nn.Conv2d, dtype)
        self.negative_slope, self.backend = steered.dynamic_slope, steered.backend
        self.conv = _Conv3x3(conv, dtype)

    def __call__(self, features: Tensor, kernels: Tensor, attention: Tensor, **options: Any) -> Tensor:
        out = dynamic_depthwise_conv2d(features, kernels, negative_slope=self.negative_slope, backend=self.backend)
        out = F.conv2d(out, self.weight, self.bias).addcmul_(features, attention)
        return self.conv(F.leaky_relu_(out, NEGATIVE_SLOPE), **options)


class _Half:
    """A steered convolution of the ablations with its LeakyReLU, then a 3x3 convolution."""

    def __init__(self, steered: SteeredConv, conv: nn.Conv2d, dtype: torch.dtype) -> None:
        self.steered = _FrozenConv(steered, dtype)
        self.conv = _Conv3x3(conv, dtype)

    def __call__(self, features: Tensor, idr: Tensor, **options: Any) -> Tensor:
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


class _Upscaler:
    """The upscaler as one convolution, whose weights are packed once, and the mean colour."""

    def __init__(self, upscaler: PixelShuffleUpscaler, mean: Tensor, image_range: float, features: torch.dtype) -> None:
        self.collapsed, self.mean, self.image_range = CollapsedUpscaler(upscaler), mean, image_range
        dtype = accumulation_dtype(mean.dtype)  # of a network in half precision too
        self.weight = pack_conv5x5(self.collapsed.weight.to(dtype) / image_range, features)
        self.bias, self.shift = self.collapsed.bias.to(dtype) / image_range, mean.flatten().to(dtype)

    def __call__(self, features: Tensor) -> Tensor:
        if min(features.shape[2:]) < 2:
            return torch.add(self.mean, self.collapsed(features), alpha=1 / self.image_range)
        if self.bias.dtype == torch.float64:
            features = features.double()
        image = conv5x5_shuffle(features, self.weight, self.bias, self.shift, scale=self.collapsed.scale)
        return image.to(self.mean.dtype)


class _Predictor:
    """Predicts the kernels of N steered convs by two batched products: 2 N small ones cost as many launches."""

    def __init__(self, convs: list[PredictingConv]) -> None:
        self.squeeze, self.expand = _stacked([conv.kernel for conv in convs])
        self.size = convs[0].kernel_size

    def __call__(self, idr: Tensor, dtype: torch.dtype) -> tuple[Tensor, ...]:
        """Return the kernels (B, C, K, K) of each conv, in ``dtype``, for compressed IDRs (B, C)."""
        kernels = F.leaky_relu(idr @ self.squeeze, NEGATIVE_SLOPE) @ self.expand
        return kernels.reshape(*kernels.shape[:2], idr.shape[1], self.size, self.size).to(dtype).unbind()


class _Attention:
    """Computes the channel attention of N convolutions of DASR by two batched products."""

    def __init__(self, convs: list[DASRConv]) -> None:
        self.squeeze, self.expand = _stacked([conv.attention for conv in convs])

    def __call__(self, idr: Tensor, dtype: torch.dtype) -> tuple[Tensor, ...]:
        """Return the attention (B, C, 1, 1) of each conv, in ``dtype``, for compressed IDRs (B, C)."""
        attention = torch.sigmoid(F.leaky_relu(idr @ self.squeeze, NEGATIVE_SLOPE) @ self.expand)
        return attention[..., None, None].to(dtype).unbind()


def _stacked(predictors: list[nn.Sequential]) -> tuple[Tensor, Tensor]:
    """Stack the two linear layers of predictors, which have a LeakyReLU between them: (N, in, out) each."""
    for predictor in predictors:
        _check_layer(predictor[1], nn.LeakyReLU)
    weights = ([_weights(predictor[place], nn.Linear)[0] for place in (0, 2)] for predictor in predictors)
    squeeze, expand = (torch.stack(layers).mT for layers in zip(*weights, strict=True))
    return squeeze, expand


def _half(steered: SteeredConv, conv: nn.Conv2d, dtype: torch.dtype) -> _FusedHalf | _AttentionHalf | _Half:
    if isinstance(steered, DASRConv):
        return _AttentionHalf(steered, conv, dtype)
    return _FusedHalf(steered, conv, dtype) if _is_fused(steered) else _Half(steered, conv, dtype)


def _is_fused(conv: SteeredConv) -> TypeGuard[RDAConv | KDSRConv]:
    """Return True for a convolution that the operator computes in one call."""
    return isinstance(conv, KDSRConv) or (isinstance(conv, RDAConv) and conv.mask_input == "F")


def _is_predicted(conv: SteeredConv) -> TypeGuard[PredictingConv]:
    """Return True for a convolution whose kernels are predicted with those of all others."""
    return isinstance(conv, DASRConv) or _is_fused(conv)


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
    if not is_as_built(layer):
        raise ValueError(
            f"a layer is {layer}, but prepare() can only read layers with the settings that the network gave them: "
            "call the network itself"
        )


def _is_one(layer: nn.Module, kind: type[nn.Module]) -> bool:
    """Return True if a call of ``layer`` does what one of ``kind`` does, but for its hooks."""
    return type(layer).forward is kind.forward and "forward" not in vars(layer)


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
