"""The SR networks: teacher MRDA_T and student MRDA_S (paper, section III-A), and the oracle of Table V."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypedDict, Unpack

import torch
from torch import Tensor, nn

from mrda.core.checks import check_image, check_int
from mrda.networks.den import DEN, KernelDEN
from mrda.networks.prepared import PreparedStudent
from mrda.networks.rdan import RDAN


class RDANOptions(TypedDict, total=False):
    """What these networks pass on to :class:`~mrda.networks.rdan.RDAN`, with its defaults."""

    scale: int
    num_feat: int
    num_blocks: int
    kernel_size: int
    mask_channels: int
    mask_input: str
    dyn_act: str
    conv_type: str
    static_groups: str
    rgb_mean: Sequence[float]
    rgb_range: float
    backend: str | None


class _MRDA(nn.Module):
    """An RDAN, and what finds the raw IDR (B, 4*den_width) that steers it."""

    def __init__(self, den_width: int, rdan_options: RDANOptions) -> None:
        super().__init__()
        check_int("den_width", den_width)
        self.rdan = RDAN(idr_dim=4 * den_width, **rdan_options)

    @property
    def scale(self) -> int:
        """The enlargement, 2, 3 or 4."""
        return self.rdan.scale

    @property
    def hyperparameters(self) -> dict[str, Any]:
        """The keyword arguments, fit for JSON, that build this network again."""
        options = self.rdan.hyperparameters
        del options["idr_dim"]
        return {**options, "den_width": self.rdan.idr_dim // 4}


class MRDATeacher(_MRDA):
    """MRDA_T: RDAN steered by the features of an adapted MLN, hence in need of HR.

    Args:
        den_width: Width of the DEN; the raw IDR has 4*den_width elements.
        mln_feat: Width C' of the MLN.
        **rdan_options: See :class:`RDANOptions`.

    Raises:
        ValueError: An option is out of its range.
    """

    def __init__(self, *, den_width: int = 64, mln_feat: int = 128, **rdan_options: Unpack[RDANOptions]) -> None:
        check_int("mln_feat", mln_feat)
        super().__init__(den_width, rdan_options)
        self.den = DEN(in_channels=mln_feat, width=den_width)

    @property
    def hyperparameters(self) -> dict[str, Any]:
        """The keyword arguments, fit for JSON, that build this network again."""
        return {**super().hyperparameters, "mln_feat": self.den.in_channels}

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

    Args:
        den_width: Width of the DEN; the raw IDR has 4*den_width elements.
        **rdan_options: See :class:`RDANOptions`.

    Raises:
        ValueError: An option is out of its range.
    """

    def __init__(self, *, den_width: int = 64, **rdan_options: Unpack[RDANOptions]) -> None:
        super().__init__(den_width, rdan_options)
        self.den = DEN(in_channels=3, width=den_width)

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
            degradation: Raw IDR (B, 4*den_width) computed before, e.g. on the whole image that ``lr`` is a
                tile of; None computes it from ``lr``.

        Raises:
            TypeError: An argument is not a floating point tensor of the weights' dtype.
            ValueError: An argument has another shape or device.
        """
        return self.rdan(lr, self.degradation(lr) if degradation is None else degradation)


class MRDAOracle(_MRDA):
    """MRDA_T3 of Table V: RDAN steered by the true blur kernel, through five linear layers.

    Args:
        blur_size: Side k of the blur kernels; odd.
        den_width: The raw IDR has 4*den_width elements, as have the layers before it.
        **rdan_options: See :class:`RDANOptions`.

    Raises:
        ValueError: An option is out of its range.
    """

    def __init__(self, *, blur_size: int = 21, den_width: int = 64, **rdan_options: Unpack[RDANOptions]) -> None:
        super().__init__(den_width, rdan_options)
        self.den = KernelDEN(blur_size=blur_size, width=den_width)

    @property
    def hyperparameters(self) -> dict[str, Any]:
        """The keyword arguments, fit for JSON, that build this network again."""
        return {**super().hyperparameters, "blur_size": self.den.blur_size}

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
