"""The meta-learned MLN in the hands of teacher and student: adapted to every batch (Algorithm 2)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from mrda.config import AdaptationConfig
from mrda.networks import MLN, adaptation

Mean = Callable[[Sequence[Tensor]], list[Tensor]]
"""Means of tensors over all processes."""


class Adapter:
    """The meta-learned MLN as stages 2 and 3 use it: adapted to every batch (Algorithm 2).

    By default each adaptation starts from the same weights. With `adaptation.reset_mln: false` it starts from where
    the last step's ended, the mean over the micro-batches of that step.

    Args:
        mln: the MLN, frozen.
        options: how it is adapted.
        freeze_upscaler: whether its upscaler stays as it is.
    """

    def __init__(self, mln: MLN, options: AdaptationConfig, *, freeze_upscaler: bool) -> None:
        self.mln = mln
        self.options = options
        self.freeze_upscaler = freeze_upscaler
        self._ended: list[adaptation.Weights] = []

    def features(self, lr: Tensor, lr_up: Tensor, hr: Tensor, mean: Mean | None = None) -> Tensor:
        """D'_T (B, C', H, W) in float32, detached: the features of the MLN adapted to this very batch."""
        per_image, some = self.options.per == "image", slice(self.options.images)
        weights = adaptation.adapt(
            self.mln,
            lr[some],
            lr_up[some],
            hr[some],
            inner_lr=self.options.inner_lr,
            steps=self.options.inner_steps,
            freeze_upscaler=self.freeze_upscaler,
            per_image=per_image,
            sync=mean,
        )
        if not self.options.reset_mln:
            self._ended.append(weights)
        with torch.no_grad():
            return adaptation.features(self.mln, weights, lr, per_image=per_image).float()

    def finish_step(self, mean: Mean) -> None:
        """Let the MLN drift to where the step's adaptations ended, if it is to drift."""
        if not self._ended:
            return
        names = list(self._ended[0])
        own = [torch.stack([weights[name] for weights in self._ended]).mean(dim=0) for name in names]
        self._ended.clear()
        parameters = dict(self.mln.named_parameters())
        with torch.no_grad():
            for name, value in zip(names, mean(own), strict=True):
                parameters[name].copy_(value)

    def discard_step(self) -> None:
        """Forget where a step's adaptations ended, for the step is skipped."""
        self._ended.clear()

    def carried(self) -> dict[str, Tensor]:
        """The drifting MLN's weights; nothing where it is reset."""
        return {} if self.options.reset_mln else self.mln.state_dict()

    def restore_carried(self, state: Mapping[str, Tensor]) -> None:
        """Take up what `carried` gave."""
        if not self.options.reset_mln:
            self.mln.load_state_dict(state)
