# SPDX-License-Identifier: Apache-2.0
"""The MLN's adaptation to one batch: a few steps of plain SGD on its L1 loss (paper, Algorithms 1 and 2)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from mrda.networks import MLN
from mrda.networks.layers import is_for_cpu_kernels
from mrda.options.networks import INNER_LR, INNER_STEPS

Weights = dict[str, Tensor]
"""Weights by parameter name; in an adaptation per image each has a leading batch dimension."""

LOSS_SCALE = 2.0**14
"""Factor on the inner loss, by which its gradient is divided again.

Autocast computes gradients in the networks' dtype. In float16 the gradient of a mean over a batch's pixels (2^-22 per
value for 16 patches of 256 x 256 px) would underflow to zero. A power of two adds no rounding; gradients of weights may
reach 4 before float16 overflows.
"""


def adapt(
    mln: MLN,
    lr: Tensor,
    lr_up: Tensor,
    hr: Tensor,
    *,
    inner_lr: Sequence[float] = INNER_LR,
    steps: int = INNER_STEPS,
    freeze_upscaler: bool = True,
    clip: float | None = None,
    per_image: bool = False,
    second_order: bool = False,
    sync: Callable[[list[Tensor]], list[Tensor]] | None = None,
    watch: Callable[[int, Weights], None] | None = None,
) -> Weights:
    """Adapt the MLN to one batch.

    The module's own parameters are never touched, whatever the gradient mode around the call.

    Args:
        mln: the network to start from.
        lr: (B, 3, H, W) LR batch in [0, 1].
        lr_up: (B, 3, sH, sW) LR batch enlarged by bicubic.
        hr: (B, 3, sH, sW) HR batch in [0, 1].
        inner_lr: learning rate of each step; the last one serves all further steps.
        steps: number of steps; 0 returns copies.
        freeze_upscaler: leave the upscaler out.
        clip: largest 2-norm of a step's gradient, over all weights of a set, to which a larger one is scaled; None: no
            limit.
        per_image: adapt separate weights to each image, on its own L1 loss, instead of one set on the mean loss.
        second_order: keep the graph, so that the result is differentiable, once, with respect to the module's
            parameters through all steps (MAML's second order); otherwise the result is detached.
        sync: maps the gradients of a step to those to apply, e.g. their means over processes.
        watch: called with (number of steps done, weights) before the first step and after each.

    Returns:
        The adapted ("fast") weights: what `restore` and `features` take.
    """
    fast: Weights = dict(mln.adaptable_parameters(freeze_upscaler).items())
    if per_image:
        fast = {name: value.expand(len(lr), *value.shape) for name, value in fast.items()}
    if not second_order:
        fast = {name: value.detach().clone() for name, value in fast.items()}

    def loss(weights: Weights) -> Tensor:
        # Each image has its own weights, so that the gradients of a sum over images do not mix.
        error = (restore(mln, weights, lr, lr_up, per_image=per_image) - hr).abs()
        return LOSS_SCALE * (error.mean(dim=(1, 2, 3)).sum() if per_image else error.mean())

    if watch is not None:
        watch(0, fast)
    for step in range(steps):
        rate = inner_lr[min(step, len(inner_lr) - 1)]
        with torch.enable_grad():
            gradients = _second_order(loss, fast) if second_order else _first_order(loss, fast)
            if sync is not None:
                gradients = dict(zip(gradients, sync(list(gradients.values())), strict=True))
            if clip is not None:
                gradients = _clipped(gradients, clip, per_image)
            fast = {name: value - rate * gradients[name] for name, value in fast.items()}
        if not second_order:
            fast = {name: value.detach() for name, value in fast.items()}
        if watch is not None:
            watch(step + 1, fast)
    return fast


def restore(mln: MLN, weights: Weights, lr: Tensor, lr_up: Tensor, *, per_image: bool = False) -> Tensor:
    """Return SR (B, 3, sH, sW), not clamped, of the MLN with `weights` instead of its own."""
    if not per_image:
        return functional_call(mln, weights, (lr, lr_up))

    def one(weights: Weights, lr: Tensor, lr_up: Tensor) -> Tensor:
        return functional_call(mln, weights, (lr[None], lr_up[None]))[0]

    return _each(one, weights, lr, lr_up)


def features(mln: MLN, weights: Weights, lr: Tensor, *, per_image: bool = False) -> Tensor:
    """Return D'_T (B, C', H, W): the tap of the MLN with `weights` instead of its own; the upscaler does not run."""
    weights = {f"mln.{name}": value for name, value in weights.items()}
    if not per_image:
        return functional_call(_Tap(mln), weights, (lr,))
    return _each(lambda weights, lr: functional_call(_Tap(mln), weights, (lr[None],))[0], weights, lr)


def _each(one: Callable[..., Tensor], weights: Weights, *images: Tensor) -> Tensor:
    """Apply a function to the weights and the images of each image of a batch.

    On a CPU one after the other unless they are small: the kernels for 3x3 convolutions are faster there than the
    grouped convolutions that torch.func makes of many sets of weights.
    """
    if not is_for_cpu_kernels(images[0]) or images[0][0, 0].numel() < _FEWEST_PIXELS:
        return vmap(one)(weights, *images)
    sets = zip(*(value.unbind() for value in weights.values()), strict=True)
    return torch.stack(
        [
            one(dict(zip(weights, values, strict=True)), *each)
            for values, each in zip(sets, zip(*images, strict=True), strict=True)
        ]
    )


def _clipped(gradients: Weights, clip: float, per_image: bool) -> Weights:
    """Scale the gradients to a 2-norm of at most `clip`, over all weights or over those of each image."""
    keep = 1 if per_image else 0
    squares = [value.square().flatten(keep).sum(dim=-1) for value in gradients.values()]
    factor = (clip / torch.stack(squares).sum(dim=0).sqrt()).clamp(max=1.0)
    return {
        name: value * factor.reshape(*factor.shape, *[1] * (value.dim() - keep)) for name, value in gradients.items()
    }


def _first_order(loss: Callable[[Weights], Tensor], fast: Weights) -> Weights:
    """Return the gradients of the loss, unscaled, without a graph."""
    leaves = {name: value.requires_grad_() for name, value in fast.items()}
    gradients = torch.autograd.grad(loss(leaves), list(leaves.values()))
    return {name: gradient / LOSS_SCALE for name, gradient in zip(fast, gradients, strict=True)}


def _second_order(loss: Callable[[Weights], Tensor], fast: Weights) -> Weights:
    """Return the gradients of the loss, unscaled, to be differentiated once more.

    The second pass multiplies a vector v by the scaled loss's Hessian S H. Divided by S beforehand, v would underflow
    in float16 as the gradients would; so v is used as it is, and the product S H v is divided by S.
    """
    scaled = torch.func.grad(loss)({name: _divided_backward(value) for name, value in fast.items()})
    return {name: (value / LOSS_SCALE).detach() + (value - value.detach()) for name, value in scaled.items()}


def _divided_backward(value: Tensor) -> Tensor:
    """Return the same values to the bit, with gradients that are divided by the loss's scale."""
    return value.detach() + (value - value.detach()) / LOSS_SCALE


_FEWEST_PIXELS = 1024  # of an LR image, below which the kernels for CPUs leave it to torch's convolutions


class _Tap(nn.Module):
    """Wraps `MLN.features` as a ``forward``, which is all that `functional_call` calls."""

    def __init__(self, mln: MLN) -> None:
        super().__init__()
        self.mln = mln

    def forward(self, lr: Tensor) -> Tensor:
        return self.mln.features(lr)
