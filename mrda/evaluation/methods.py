# SPDX-License-Identifier: Apache-2.0
"""Methods to evaluate: bicubic interpolation, the student, and the networks that see more than LR."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypedDict, Unpack

import torch
from torch import Tensor, nn

from mrda.degradations.resample import bicubic
from mrda.evaluation.samples import Method, Sample
from mrda.networks import MLN, MRDAOracle, MRDAStudent, MRDATeacher, adaptation


class AdaptOptions(TypedDict, total=False):
    """Options of `mrda.networks.adaptation.adapt`, which has the defaults."""

    steps: int
    inner_lr: Sequence[float]
    freeze_upscaler: bool


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


def teacher_method(network: MRDATeacher, mln: MLN, **options: Unpack[AdaptOptions]) -> Method:
    """MRDA_T, for which the MLN is adapted to each sample and its HR (Algorithm 2)."""
    rdan, adapting = network.rdan.prepare(), _AdaptingMLN(mln, options)

    def upscale(sample: Sample) -> Tensor:
        sample = adapting.moved(sample)
        weights = adapting.adapt(sample)
        with torch.no_grad():
            return rdan(sample.lr, network.degradation(adaptation.features(adapting.mln, weights, sample.lr)))

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


def mln_method(mln: MLN, **options: Unpack[AdaptOptions]) -> Method:
    """The MLN itself, after `steps` steps of adaptation to each sample and its HR."""
    adapting = _AdaptingMLN(mln, options)

    def upscale(sample: Sample) -> Tensor:
        sample = adapting.moved(sample)
        return adapting.restore(sample, adapting.adapt(sample))

    return upscale


def mln_steps(mln: MLN, **options: Unpack[AdaptOptions]) -> Callable[[Sample], list[Tensor]]:
    """SR of the MLN after 0, 1, ... `steps` steps of one adaptation to a sample."""
    adapting = _AdaptingMLN(mln, options)

    def upscale(sample: Sample) -> list[Tensor]:
        sample = adapting.moved(sample)
        restored: list[Tensor] = []
        adapting.adapt(sample, watch=lambda _, weights: restored.append(adapting.restore(sample, weights)))
        return restored

    return upscale


class _AdaptingMLN:
    """An MLN that is adapted to single samples."""

    def __init__(self, mln: MLN, options: AdaptOptions) -> None:
        self.mln = mln.to_adapt(options.get("freeze_upscaler", True))
        self.options = options

    def moved(self, sample: Sample) -> Sample:
        """Return the sample with its images on the MLN's device, in its dtype."""
        lr, lr_up, hr = (_like(image, self.mln) for image in (sample.lr, sample.lr_up, sample.hr))
        return sample._replace(lr=lr, lr_up=lr_up, hr=hr)

    def adapt(
        self, sample: Sample, watch: Callable[[int, adaptation.Weights], None] | None = None
    ) -> adaptation.Weights:
        """Return the weights adapted to a moved sample."""
        return adaptation.adapt(self.mln, sample.lr, sample.lr_up, sample.hr, watch=watch, **self.options)

    def restore(self, sample: Sample, weights: adaptation.Weights) -> Tensor:
        """Return SR of a moved sample by adapted weights."""
        with torch.no_grad():
            return adaptation.restore(self.mln, weights, sample.lr, sample.lr_up)


def _like(tensor: Tensor, network: nn.Module) -> Tensor:
    return tensor.to(next(network.parameters()))
