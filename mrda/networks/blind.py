# SPDX-License-Identifier: Apache-2.0
"""Networks that make SR of LR alone: MRDA's student, and its sisters DASR and KDSR."""

from __future__ import annotations

import torch
from torch import Tensor

from mrda.networks.den import Encoder
from mrda.networks.options import Configured
from mrda.networks.prepared import PreparedStudent
from mrda.networks.trunk import Trunk


class BlindNetwork(Configured):
    """A network that reads the degradation from LR; all have the parts of MRDA's student, by its names.

    Attributes:
        den: The encoder, from LR to the raw IDR.
        rdan: The trunk, from LR and the raw IDR to SR.
    """

    den: Encoder
    rdan: Trunk

    @property
    def scale(self) -> int:
        """The enlargement, 2, 3 or 4."""
        return self.rdan.scale

    def degradation(self, lr: Tensor) -> Tensor:
        """Return the raw IDR (B, D) of LR (B, 3, H, W) in [0, 1]."""
        return self.den(lr)

    def prepare(self, dtype: torch.dtype | None = None) -> PreparedStudent:
        """Return a copy for inference; see :meth:`mrda.networks.trunk.Trunk.prepare`.

        The encoder's convolutions are in ``dtype`` too; its average and its linear layers keep the network's own.
        """
        return PreparedStudent(self, dtype)

    def forward(self, lr: Tensor, degradation: Tensor | None = None) -> Tensor:
        """Return SR (B, 3, scale*H, scale*W), not clamped.

        Args:
            lr: (B, 3, H, W) in [0, 1].
            degradation: Raw IDR (B, D), e.g. of the whole image that ``lr`` is a tile of; None computes it from ``lr``.

        Raises:
            TypeError: An argument is not a floating point tensor of the weights' dtype.
            ValueError: An argument has another shape or device.
        """
        return self.rdan(lr, self.degradation(lr) if degradation is None else degradation)
