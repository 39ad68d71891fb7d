# SPDX-License-Identifier: Apache-2.0
"""Options of the networks, and of the adaptation of the MLN."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from mrda.core.checks import SCALES, check_choice, check_number, check_odd, check_positive
from mrda.options.base import Options
from mrda.options.classic import KERNEL_SIZE

DIV2K_RGB_MEAN = (0.4488, 0.4371, 0.4040)
INNER_LR = (1e-2, 5e-3, 5e-3, 5e-3, 5e-3, 1e-3)
"""Learning rates of the inner steps in stages 2 and 3 of the released code."""
INNER_STEPS = 5
"""Number of inner steps, n in the paper, in all stages."""


@dataclass(frozen=True, kw_only=True)
class ConvOptions(Options):
    """Options of the steered convolutions; the defaults are the published model's."""

    kernel_size: Literal[1, 3, 5, 7] = 3
    """Side of the dynamic depthwise kernels."""
    mask_channels: int | str = 1
    """Channels of the modulation mask: 1 as published, or C as Eq. 9 reads: as many as the features have."""
    mask_input: Literal["F", "F1"] = "F"
    """Input of the mask: F, that of the RDA conv (Eq. 9), or F1, the output of the dynamic convolution."""
    dyn_act: Literal["lrelu", "none"] = "lrelu"
    """Activation on the output of the dynamic convolution; `none` is Eq. 8 as printed."""
    conv_type: Literal["rda", "dasr_da", "static"] = "rda"
    """The steered convolution: the RDA conv, DASR's DA conv (row S4 of Table V), or a static conv with the DA conv's
    channel attention (S5)."""
    static_groups: Literal["C", "dense"] = "C"
    """Groups of the static conv of `conv_type: static`: C, depthwise, or dense."""

    def __post_init__(self) -> None:
        super().__post_init__()
        foreign = () if self.conv_type == "rda" else ("mask_channels", "mask_input")
        for name in (*foreign, *(() if self.conv_type == "static" else ("static_groups",))):
            value, default = getattr(self, name), getattr(ConvOptions, name)
            if value != default:
                raise ValueError(f"{name} is {value!r}, but must be {default!r} where conv_type is {self.conv_type!r}")

    def mask_channels_of(self, num_feat: int) -> int:
        """Return the number of mask channels for features of ``num_feat`` channels.

        Raises:
            ValueError: ``mask_channels`` is none of 1, ``num_feat`` and "C".
        """
        check_choice("mask_channels", self.mask_channels, (1, num_feat, "C"))
        return num_feat if self.mask_channels == "C" else int(self.mask_channels)


@dataclass(frozen=True, kw_only=True)
class TrunkOptions(ConvOptions):
    """Sizes and convolutions of the RDAN; the defaults are the published model's."""

    num_feat: int = 64
    """Channels of the RDAN, C in the paper."""
    num_blocks: int = 27
    """RDA blocks of the RDAN."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.mask_channels_of(self.num_feat)


@dataclass(frozen=True, kw_only=True)
class RDANOptions(TrunkOptions):
    """Options of the RDAN: those of the trunk, and of its images."""

    scale: Literal[2, 3, 4] = 4
    """Enlargement."""
    rgb_mean: Sequence[float] = DIV2K_RGB_MEAN
    """Mean colour that is subtracted from LR and added to SR, as a fraction of `rgb_range`."""
    rgb_range: float = 1.0
    """Largest value of the images."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.rgb_mean, Sequence) or len(self.rgb_mean) != 3:
            raise ValueError(f"rgb_mean is {self.rgb_mean!r}, but must be three numbers")
        for index, value in enumerate(self.rgb_mean):
            check_number(f"rgb_mean[{index}]", value)
        check_positive("rgb_range", self.rgb_range)

    def as_dict(self) -> dict[str, Any]:
        """Return the keyword arguments, fit for JSON, in the order in which weights files have always had them."""
        values = super().as_dict() | {
            "mask_channels": self.mask_channels_of(self.num_feat),
            "rgb_mean": [float(value) for value in self.rgb_mean],
        }
        return {name: values[name] for name in ("scale", "num_feat", "num_blocks", *values)}


@dataclass(frozen=True, kw_only=True)
class MLNOptions(Options):
    """Options of the MLN; the defaults are the published model's."""

    scale: Literal[2, 3, 4] = 4
    """Enlargement."""
    num_feat: int = 128
    """Channels of the MLN, C' in the paper."""
    num_body: int = 6
    """Body convolutions, between the head and the tap."""


@dataclass(frozen=True, kw_only=True)
class DENOptions(Options):
    """Options of a DEN; the defaults are the published student's."""

    in_channels: int = 3
    """Channels of the input: 3 for the student, which reads LR; the MLN's for the teacher, which reads features."""
    width: int = 64
    """Channels of the first two convolutions; the next two have 2*width, the last two and the MLP 4*width."""


@dataclass(frozen=True, kw_only=True)
class KernelDENOptions(Options):
    """Options of the oracle's :class:`KernelDEN`."""

    blur_size: int = KERNEL_SIZE
    """Side k of the blur kernels; odd."""
    width: int = 64
    """Each layer has 4*width outputs; the paper gives no widths."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_odd("blur_size", self.blur_size)


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
    den_input: Literal["features", "lr_hr"] = "features"
    """Input of the DEN: the features of an adapted MLN, or what `mrda.networks.lr_with_hr` returns, as in KDSR."""

    @property
    def den_channels(self) -> int:
        """Channels that the DEN reads."""
        return self.mln_feat if self.den_input == "features" else 3 + 3 * self.scale**2


@dataclass(frozen=True, kw_only=True)
class OracleOptions(MRDAOptions):
    """Options of the oracle: `den_width` is that of its linear layers, which read the blur kernel."""

    blur_size: int = KernelDENOptions.blur_size
    """Side k of the blur kernels; odd."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_odd("blur_size", self.blur_size)


@dataclass(frozen=True, kw_only=True)
class DiscriminatorOptions(Options):
    """Options of the discriminator."""

    num_feat: int = 64
    """Channels at full resolution; 2, 4 and 8 times as many at a half, a quarter and an eighth."""
    in_channels: int = 3
    """Channels of the images."""


@dataclass(frozen=True, kw_only=True)
class DASROptions(Options):
    """Sizes of DASR; the defaults are the published network's."""

    scale: Literal[2, 3, 4] = 4
    """Enlargement."""
    num_feat: int = 64
    """Channels of the SR part."""
    num_groups: int = 5
    """Groups of blocks."""
    num_blocks: int = 5
    """Blocks of each group."""
    den_width: int = 64
    """Base width of the encoder; its output has four times as many elements."""


@dataclass(frozen=True, kw_only=True)
class KDSROptions(Options):
    """Sizes of KDSR_S; the defaults are those of size M."""

    scale: Literal[2, 3, 4] = 4
    """Enlargement."""
    num_feat: int = 64
    """Channels C of the SR part and of the encoder's first map; the raw IDR has 4*C elements."""
    num_blocks: int = 53
    """Blocks of the SR part."""
    den_blocks: int = 9
    """Residual blocks of the encoder."""


# Table IV's sizes are not printed: these alone give its 19.59 M parameters and 572.96 G mult-adds.
_GAN: dict[str, Any] = {"scale": 4, "num_feat": 128, "num_blocks": 21, "den_width": 128}

_KDSR_SIZES: dict[str, dict[str, int]] = {"m": {}, "l": {"num_feat": 128, "num_blocks": 28, "den_blocks": 5}}

MODELS: dict[str, MRDAOptions | MLNOptions | DASROptions | KDSROptions] = {
    **{f"mrda-x{scale}": MRDAOptions(scale=scale) for scale in SCALES},
    **{f"mrda-teacher-x{scale}": TeacherOptions(scale=scale) for scale in SCALES},
    **{f"mln-x{scale}": MLNOptions(scale=scale) for scale in SCALES},
    **{f"dasr-x{scale}": DASROptions(scale=scale) for scale in SCALES},
    **{
        f"kdsr-{size}-x{scale}": KDSROptions(scale=scale, **sizes)
        for size, sizes in _KDSR_SIZES.items()
        for scale in SCALES
    },
    "mrda-gan-x4": MRDAOptions(**_GAN),
    "mrda-gan-teacher-x4": TeacherOptions(**_GAN),
}
"""The published networks by name."""
