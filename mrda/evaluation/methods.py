# SPDX-License-Identifier: Apache-2.0
"""Methods to evaluate: bicubic interpolation, the student, and the networks that see more than LR."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypedDict, Unpack

import torch
from torch import Tensor, nn

from mrda.core.checks import check_choice
from mrda.degradations.resample import bicubic
from mrda.evaluation.samples import Condition, Method, Sample, make_sample
from mrda.networks import MLN, BlindNetwork, MRDAOracle, MRDATeacher, adaptation, lr_with_hr
from mrda.options.evaluation import IDRS


class AdaptOptions(TypedDict, total=False):
    """Options of `mrda.networks.adaptation.adapt`, which has the defaults."""

    steps: int
    inner_lr: Sequence[float]
    clip: float | None
    freeze_upscaler: bool


def bicubic_method(scale: int, border: str = "clamp") -> Method:
    """Bicubic interpolation of LR."""
    return lambda sample: bicubic(sample.lr, scale, border)


def blind_method(upscale: Callable[[Tensor], Tensor]) -> Method:
    """A blind network, from LR (1, 3, H, W) to SR (1, 3, sH, sW), such as an `mrda.upscale.upscaler.Upscaler`."""
    return lambda sample: upscale(sample.lr)


def student_method(network: BlindNetwork) -> Method:
    """MRDA_S or a sister of it, which reads the degradation from LR."""
    prepared = network.prepare()

    def upscale(sample: Sample) -> Tensor:
        with torch.no_grad():
            return prepared(_like(sample.lr, network))

    return upscale


IDR_LABEL = ", IDR "
"""Separates a method's name from the IDR that it is given in place of the photo's own."""


def replaced_idr_method(
    network: BlindNetwork, idr: str, conditions: Sequence[Condition], scale: int, **options: Any
) -> Method:
    """MRDA_S or a sister of it, told another degradation than the photo's: if that costs nothing, the IDR has no use.

    Args:
        network: the network.
        idr: "mean", the mean of the photo's IDRs under all conditions; or "other", that of the photo under the
            condition half of the list further on.
        conditions: the degradations that are measured; at least 2.
        scale: the factor between LR and HR.
        **options: those of `mrda.evaluation.samples.make_sample`, as in the measurements.

    Raises:
        ValueError: there is one condition only, or no such `idr`.
    """
    check_choice("idr", idr, IDRS[1:])
    names = [condition.name for condition in conditions]
    if len(names) < 2:
        raise ValueError(f"the {idr} IDR requires conditions to choose from, but the protocol has one only")
    prepared = network.prepare()
    last: tuple[Tensor, Tensor] | None = None  # a photo, and its IDRs under all conditions (N, D)

    @torch.no_grad()
    def upscale(sample: Sample) -> Tensor:
        nonlocal last
        if last is None or last[0] is not sample.hr:
            samples = (make_sample(sample.hr, each, scale, image=sample.image, **options) for each in conditions)
            last = sample.hr, torch.cat([prepared.den(_like(each.lr, network)) for each in samples])
        idrs = last[1]
        other = (names.index(sample.condition) + len(names) // 2) % len(names)
        chosen = idrs.mean(dim=0, keepdim=True) if idr == "mean" else idrs[other, None]
        return prepared(_like(sample.lr, network), chosen)

    return upscale


def teacher_method(network: MRDATeacher, mln: MLN | None, **options: Unpack[AdaptOptions]) -> Method:
    """MRDA_T, which reads the degradation as `teacher_representation` does."""
    rdan, represent = network.rdan.prepare(), teacher_representation(network, mln, **options)

    def upscale(sample: Sample) -> Tensor:
        idr = represent(sample)
        with torch.no_grad():
            return rdan(_like(sample.lr, network), idr)

    return upscale


def teacher_representation(
    network: MRDATeacher, mln: MLN | None, **options: Unpack[AdaptOptions]
) -> Callable[[Sample], Tensor]:
    """The teacher's raw IDR (1, 4*den_width) of a sample.

    The MLN is adapted to each sample and its HR (Algorithm 2); None if the teacher reads LR and HR themselves.
    """
    if network.options.den_input == "lr_hr":

        def read(sample: Sample) -> Tensor:
            return lr_with_hr(_like(sample.lr, network), _like(sample.hr, network))

    else:
        assert mln is not None
        adapting = _AdaptingMLN(mln, options)

        def read(sample: Sample) -> Tensor:
            sample = adapting.moved(sample)
            weights = adapting.adapt(sample)
            return adaptation.features(adapting.mln, weights, sample.lr)

    def represent(sample: Sample) -> Tensor:
        with torch.no_grad():
            return network.degradation(read(sample))

    return represent


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
