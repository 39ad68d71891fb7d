# SPDX-License-Identifier: Apache-2.0
"""Methods to evaluate: bicubic interpolation, the student, and the networks that see more than LR."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from mrda.degradations.resample import bicubic
from mrda.evaluation.samples import Method, Sample
from mrda.networks import MLN, MRDAOracle, MRDAStudent, MRDATeacher, adaptation


def bicubic_method(scale: int, border: str = "clamp") -> Method:
    """Bicubic interpolation of LR."""
    return lambda sample: bicubic(sample.lr, scale, border)


def blind_method(upscale: Callable[[Tensor], Tensor]) -> Method:
    """A blind network, from LR (1, 3, H, W) to SR (1, 3, sH, sW), such as an `mrda.upscale.upscaler.Upscaler`."""
    return lambda sample: upscale(sample.lr)


def student_method(network: MRDAStudent) -> Method:
    """MRDA_S, which reads the degradation from LR."""
    prepared = network.prepare()

    def upscale(sample: Sample) -> Tensor:
        with torch.no_grad():
            return prepared(_like(sample.lr, network))

    return upscale


def teacher_method(
    network: MRDATeacher,
    mln: MLN,
    *,
    steps: int = adaptation.INNER_STEPS,
    inner_lr: Sequence[float] = adaptation.INNER_LR,
    freeze_upscaler: bool = True,
) -> Method:
    """MRDA_T, for which the MLN is adapted to each sample and its HR (Algorithm 2)."""
    rdan = network.rdan.prepare()
    mln = mln.with_collapsed_upscaler() if freeze_upscaler else mln

    def upscale(sample: Sample) -> Tensor:
        lr, _, weights = _adapted(mln, sample, steps, inner_lr, freeze_upscaler)
        with torch.no_grad():
            return rdan(lr, network.degradation(adaptation.features(mln, weights, lr)))

    return upscale


def oracle_method(network: MRDAOracle) -> Method:
    """MRDA_T3, which gets the true blur kernel; a delta if there is no blur."""

    def upscale(sample: Sample) -> Tensor:
        kernel = sample.kernel
        if kernel is None:
            size = network.den.blur_size
            kernel = torch.zeros(size, size)
            kernel[size // 2, size // 2] = 1
        with torch.no_grad():
            return network(_like(sample.lr, network), _like(kernel[None], network))

    return upscale


def mln_method(
    mln: MLN,
    *,
    steps: int = adaptation.INNER_STEPS,
    inner_lr: Sequence[float] = adaptation.INNER_LR,
    freeze_upscaler: bool = True,
) -> Method:
    """The MLN itself, after `steps` steps of adaptation to each sample and its HR."""
    mln = mln.with_collapsed_upscaler() if freeze_upscaler else mln

    def upscale(sample: Sample) -> Tensor:
        lr, lr_up, weights = _adapted(mln, sample, steps, inner_lr, freeze_upscaler)
        with torch.no_grad():
            return adaptation.restore(mln, weights, lr, lr_up)

    return upscale


def mln_steps(
    mln: MLN,
    *,
    steps: int = adaptation.INNER_STEPS,
    inner_lr: Sequence[float] = adaptation.INNER_LR,
    freeze_upscaler: bool = True,
) -> Callable[[Sample], list[Tensor]]:
    """SR of the MLN after 0, 1, ... `steps` steps of one adaptation to a sample."""
    mln = mln.with_collapsed_upscaler() if freeze_upscaler else mln

    def upscale(sample: Sample) -> list[Tensor]:
        lr, lr_up, hr = (_like(image, mln) for image in (sample.lr, sample.lr_up, sample.hr))
        restored: list[Tensor] = []

        def watch(_: int, weights: adaptation.Weights) -> None:
            with torch.no_grad():
                restored.append(adaptation.restore(mln, weights, lr, lr_up))

        adaptation.adapt(
            mln, lr, lr_up, hr, steps=steps, inner_lr=inner_lr, freeze_upscaler=freeze_upscaler, watch=watch
        )
        return restored

    return upscale


def _adapted(
    mln: MLN, sample: Sample, steps: int, inner_lr: Sequence[float], freeze_upscaler: bool
) -> tuple[Tensor, Tensor, adaptation.Weights]:
    """LR, its enlargement and the adapted weights, on the MLN's device."""
    lr, lr_up, hr = (_like(image, mln) for image in (sample.lr, sample.lr_up, sample.hr))
    return (
        lr,
        lr_up,
        adaptation.adapt(mln, lr, lr_up, hr, steps=steps, inner_lr=inner_lr, freeze_upscaler=freeze_upscaler),
    )


def _like(tensor: Tensor, network: nn.Module) -> Tensor:
    return tensor.to(next(network.parameters()))
