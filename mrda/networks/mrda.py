# SPDX-License-Identifier: Apache-2.0
"""The SR networks: teacher MRDA_T and student MRDA_S (paper, section III-A), and the oracle of Table V."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mrda.core.checks import check_image, check_odd
from mrda.networks.den import DEN, DENOptions, KernelDEN, KernelDENOptions
from mrda.networks.mln import MLNOptions
from mrda.networks.options import Configured
from mrda.networks.prepared import PreparedStudent
from mrda.networks.rdan import RDAN, RDANOptions


@dataclass(frozen=True, kw_only=True)
class MRDAOptions(RDANOptions):
    """Options of the student: those of its RDAN and of its DEN."""

    den_width: int = DENOptions.width
    """Base width of the DEN; the raw IDR has four times as many elements."""


@dataclass(frozen=True, kw_only=True)
class TeacherOptions(MRDAOptions):
    """Options of the teacher: its DEN reads the features of an MLN."""

    mln_feat: int = MLNOptions.num_feat
    """Channels of the MLN, C' in the paper."""


@dataclass(frozen=True, kw_only=True)
class OracleOptions(MRDAOptions):
    """Options of the oracle: `den_width` is that of its linear layers, which read the blur kernel."""

    blur_size: int = KernelDENOptions.blur_size
    """Side k of the blur kernels; odd."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_odd("blur_size", self.blur_size)


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
    """MRDA_T: RDAN steered by the features of an adapted MLN, which needs HR.

    Built from :class:`TeacherOptions`, see :class:`~mrda.networks.options.Configured`; ``backend`` is that of
    :class:`~mrda.networks.rdan.RDAN`.
    """

    options: TeacherOptions

    def __init__(self, options: TeacherOptions | None = None, *, backend: str | None = None, **changes: Any) -> None:
        super().__init__(TeacherOptions.chosen(options, changes), backend)
        self.den = DEN(in_channels=self.options.mln_feat, width=self.options.den_width)

    def degradation(self, mln_features: Tensor) -> Tensor:
        """Return the raw IDR (B, 4*den_width) of the adapted MLN's features (B, mln_feat, H, W)."""
        return self.den(mln_features)

    def forward(self, lr: Tensor, mln_features: Tensor) -> Tensor:
        """Return SR (B, 3, scale*H, scale*W), not clamped.

        Args:
            lr: (B, 3, H, W) in [0, 1].
            mln_features: (B, mln_feat, H, W), from :meth:`mrda.networks.mln.MLN.features` after adaptation.

        Raises:
            TypeError: An argument is not a floating point tensor of the weights' dtype.
            ValueError: An argument has another shape or device.
        """
        return self.rdan(lr, self.degradation(mln_features))


class MRDAStudent(_MRDA):
    """MRDA_S, the network for inference: its DEN reads the degradation from LR alone.

    Built from :class:`MRDAOptions`, see :class:`~mrda.networks.options.Configured`; ``backend`` is that of
    :class:`~mrda.networks.rdan.RDAN`.
    """

    def __init__(self, options: MRDAOptions | None = None, *, backend: str | None = None, **changes: Any) -> None:
        super().__init__(MRDAOptions.chosen(options, changes), backend)
        self.den = DEN(width=self.options.den_width)

    def degradation(self, lr: Tensor) -> Tensor:
        """Return the raw IDR (B, 4*den_width) of LR (B, 3, H, W) in [0, 1]."""
        return self.den(lr)

    def prepare(self, dtype: torch.dtype | None = None) -> PreparedStudent:
        """Return a copy for inference; see :meth:`mrda.networks.rdan.RDAN.prepare`. The DEN keeps its dtype."""
        return PreparedStudent(self, dtype)

    def forward(self, lr: Tensor, degradation: Tensor | None = None) -> Tensor:
        """Return SR (B, 3, scale*H, scale*W), not clamped.

        Args:
            lr: (B, 3, H, W) in [0, 1].
            degradation: Raw IDR (B, 4*den_width), e.g. of the whole image that ``lr`` is a tile of; None computes it
                from ``lr``.

        Raises:
            TypeError: An argument is not a floating point tensor of the weights' dtype.
            ValueError: An argument has another shape or device.
        """
        return self.rdan(lr, self.degradation(lr) if degradation is None else degradation)


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
