# SPDX-License-Identifier: Apache-2.0
"""MLN, the meta-learning network whose adapted features describe a degradation (paper, section III-B)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from mrda.core.checks import check_image
from mrda.networks.layers import NEGATIVE_SLOPE, any_tensor, conv3x3, initialize_he, run_chain
from mrda.networks.options import Configured
from mrda.networks.upscaler import CollapsedUpscaler, PixelShuffleUpscaler
from mrda.options.networks import MLNOptions


class MLN(Configured):
    """A small SR network that a few SGD steps on one (LR, HR) batch adapt to that batch's degradation.

    LeakyReLU follows the head and each body convolution.

    Built from :class:`MLNOptions`, see :class:`~mrda.networks.options.Configured`.
    """

    def __init__(self, options: MLNOptions | None = None, **changes: Any) -> None:
        super().__init__()
        self.options: MLNOptions = MLNOptions.chosen(options, changes)
        self.scale: int = self.options.scale
        self.num_feat = num_feat = self.options.num_feat
        self.head = nn.Sequential(conv3x3(3, num_feat), nn.LeakyReLU(NEGATIVE_SLOPE))
        body: list[nn.Module] = []
        for _ in range(self.options.num_body):
            body += [conv3x3(num_feat, num_feat), nn.LeakyReLU(NEGATIVE_SLOPE)]
        self.body = nn.Sequential(*body)
        self.upscaler: PixelShuffleUpscaler = PixelShuffleUpscaler(num_feat, self.scale)

    def initialize_he(self) -> MLN:
        """Draw the weights anew by He's rule, so that features keep their size through all layers; returns itself.

        The last convolution starts at zero, so that the network starts as bicubic interpolation.
        """
        for part, slope in ((self.head, NEGATIVE_SLOPE), (self.body, NEGATIVE_SLOPE), (self.upscaler.expand, 1.0)):
            for layer in part:
                if isinstance(layer, nn.Conv2d):
                    initialize_he(layer, slope)
        nn.init.zeros_(self.upscaler.last.weight)
        if self.upscaler.last.bias is not None:
            nn.init.zeros_(self.upscaler.last.bias)
        return self

    def features(self, lr: Tensor) -> Tensor:
        """Return the tap (B, num_feat, H, W) of LR (B, 3, H, W) in [0, 1]: the body's last activation.

        After adaptation this is D'_T, the input of the teacher's DEN.

        Raises:
            TypeError: ``lr`` is not a floating point tensor of the weights' dtype.
            ValueError: ``lr`` has another shape or device.
        """
        check_image("lr", lr, like=any_tensor(self.head))
        return run_chain(self.body, self.head(lr))

    def forward(self, lr: Tensor, lr_up: Tensor) -> Tensor:
        """Return SR (B, 3, scale*H, scale*W), not clamped.

        Args:
            lr: (B, 3, H, W) in [0, 1]; no mean is subtracted.
            lr_up: (B, 3, scale*H, scale*W): LR enlarged by bicubic interpolation, the global residual.

        Raises:
            TypeError: An image is not a floating point tensor of the weights' dtype.
            ValueError: An image has another shape or device.
        """
        weight = any_tensor(self.head)
        check_image("lr", lr, like=weight)
        check_image("lr_up", lr_up, like=weight)
        batch, _, height, width = lr.shape
        expected = (batch, 3, self.scale * height, self.scale * width)
        if lr_up.shape != expected:
            raise ValueError(f"lr_up has shape {tuple(lr_up.shape)}, but must be {expected}")
        return self.upscaler(self.features(lr)) + lr_up

    def to_adapt(self, freeze_upscaler: bool) -> MLN:
        """Return the MLN for `mrda.networks.adaptation.adapt`: this one, or a faster one if the upscaler is frozen."""
        return self.with_collapsed_upscaler() if freeze_upscaler else self

    def with_collapsed_upscaler(self) -> MLN:
        """Return an MLN whose upscaler runs as one convolution: for adaptations that leave the upscaler frozen.

        Head and body are shared with this network, so that changes of their weights take effect in both. Later changes
        of this network's upscaler do not.
        """
        with torch.device("meta"):  # draws no random numbers
            twin = MLN(self.options)
        twin.head, twin.body = self.head, self.body
        twin.upscaler = CollapsedUpscaler(self.upscaler)
        return twin.train(self.training)

    def adaptable_parameters(self, freeze_upscaler: bool) -> dict[str, nn.Parameter]:
        """Return the parameters that adaptation moves, by name: all, or all but the upscaler's.

        :func:`torch.func.functional_call` takes the dictionary instead of the module's own parameters.
        """
        return {
            name: parameter
            for name, parameter in self.named_parameters()
            if not (freeze_upscaler and name.startswith("upscaler."))
        }
