# SPDX-License-Identifier: Apache-2.0
"""The SR networks: teacher MRDA_T and student MRDA_S (paper, section III-A), and the oracle of Table V."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from mrda.core.checks import check_image
from mrda.networks.blind import BlindNetwork
from mrda.networks.den import DEN, KernelDEN
from mrda.networks.options import Configured
from mrda.networks.rdan import RDAN
from mrda.options.networks import MRDAOptions, OracleOptions, RDANOptions, TeacherOptions


class _MRDA(Configured):
    """An RDAN, steered by the raw IDR (B, 4*den_width) that a ``den`` finds."""

    options: MRDAOptions

    def __init__(self, options: MRDAOptions, backend: str | None) -> None:
        super().__init__()
        self.options = options
        self.rdan = RDAN(options.part(RDANOptions), idr_dim=4 * options.den_width, backend=backend)

    @property
    def scale(self) -> int:
        """The enlargement, 2, 3 or 4."""
        return self.rdan.scale


class MRDATeacher(_MRDA):
    """MRDA_T: RDAN steered by the features of an adapted MLN, which needs HR; without an MLN the teacher of KDSR.

    Built from :class:`TeacherOptions`, see :class:`~mrda.networks.options.Configured`; ``backend`` is that of
    :class:`~mrda.networks.rdan.RDAN`.
    """

    options: TeacherOptions

    def __init__(self, options: TeacherOptions | None = None, *, backend: str | None = None, **changes: Any) -> None:
        super().__init__(TeacherOptions.chosen(options, changes), backend)
        self.den = DEN(in_channels=self.options.den_channels, width=self.options.den_width)

    def degradation(self, seen: Tensor) -> Tensor:
        """Return the raw IDR (B, 4*den_width) of what the DEN reads (B, C, H, W)."""
        return self.den(seen)

    def forward(self, lr: Tensor, seen: Tensor) -> Tensor:
        """Return SR (B, 3, scale*H, scale*W), not clamped.

        Args:
            lr: (B, 3, H, W) in [0, 1].
            seen: (B, C, H, W), from :meth:`mrda.networks.mln.MLN.features` after adaptation, or from
                :func:`lr_with_hr`.

        Raises:
            TypeError: An argument is not a floating point tensor of the weights' dtype.
            ValueError: An argument has another shape or device.
        """
        return self.rdan(lr, self.degradation(seen))


def lr_with_hr(lr: Tensor, hr: Tensor) -> Tensor:
    """Return (B, 3 + 3*scale^2, H, W): LR (B, 3, H, W), then the HR pixels of each LR pixel as channels.

    HR pixel (scale*y + i, scale*x + j) of colour c is channel 3 + c*scale^2 + scale*i + j at (y, x).
    """
    return torch.cat((lr, F.pixel_unshuffle(hr, hr.shape[-1] // lr.shape[-1])), dim=1)


class MRDAStudent(_MRDA, BlindNetwork):
    """MRDA_S, the network for inference: its DEN reads the degradation from LR alone.

    Built from :class:`MRDAOptions`, see :class:`~mrda.networks.options.Configured`; ``backend`` is that of
    :class:`~mrda.networks.rdan.RDAN`.
    """

    rdan: RDAN

    def __init__(self, options: MRDAOptions | None = None, *, backend: str | None = None, **changes: Any) -> None:
        super().__init__(MRDAOptions.chosen(options, changes), backend)
        self.den: DEN = DEN(width=self.options.den_width)


class MRDAOracle(_MRDA):
    """MRDA_T3 of Table V: RDAN steered by the true blur kernel, through five linear layers.

    Built from :class:`OracleOptions`, see :class:`~mrda.networks.options.Configured`; ``backend`` is that of
    :class:`~mrda.networks.rdan.RDAN`.
    """

    options: OracleOptions

    def __init__(self, options: OracleOptions | None = None, *, backend: str | None = None, **changes: Any) -> None:
        super().__init__(OracleOptions.chosen(options, changes), backend)
        self.den = KernelDEN(blur_size=self.options.blur_size, width=self.options.den_width)

    def degradation(self, kernel: Tensor) -> Tensor:
        """Return the raw IDR (B, 4*den_width) of blur kernels (B, k, k), each of sum 1."""
        return self.den(kernel)

    def forward(self, lr: Tensor, kernel: Tensor) -> Tensor:
        """Return SR (B, 3, scale*H, scale*W), not clamped.

        Args:
            lr: (B, 3, H, W) in [0, 1].
            kernel: The blur kernels (B, k, k), or (1, k, k): one for all images of the batch.

        Raises:
            TypeError: An argument is not a floating point tensor of the weights' dtype.
            ValueError: An argument has another shape or device.
        """
        idr = self.degradation(kernel)
        check_image("lr", lr)
        if kernel.shape[0] not in (1, lr.shape[0]):
            raise ValueError(f"kernel has a batch of {kernel.shape[0]}, but must have 1 or that of lr, {lr.shape[0]}")
        return self.rdan(lr, idr.expand(lr.shape[0], -1))
