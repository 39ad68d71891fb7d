"""Widths and depths of the networks, and how the MLN is adapted."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from mrda.config.base import Count, NoBool, PositiveFloat, PositiveInt, Section


class NetworksConfig(Section):
    """Widths and depths of the networks; the defaults are the published classic model."""

    mln_feat: PositiveInt = 128
    """Channels of the MLN, C' in the paper."""
    mln_body: PositiveInt = 6
    """Body convolutions of the MLN."""
    num_feat: PositiveInt = 64
    """Channels of the RDAN, C in the paper."""
    num_blocks: PositiveInt = 27
    """RDA blocks of the RDAN."""
    kernel_size: Annotated[Literal[1, 3, 5, 7], NoBool] = 3
    """Side of the dynamic depthwise kernels."""
    den_width: PositiveInt = 64
    """Base width of both DENs; the raw IDR has four times as many elements."""
    mln_init: Literal["torch", "he"] = "torch"
    """How the MLN starts: by torch's default, as published, which leaves it next to bicubic interpolation for some
    thousand steps; or by He's rule and with a last convolution of zeros, which learns from the first step on."""
    den_init: Literal["torch", "he"] = "torch"
    """How DENs start: by torch's default, as published, whose eight layers leave so little of what distinguishes two
    images that thousands of steps learn without any IDR; or by He's rule, for shorter trainings."""
    mask_channels: Annotated[Literal[1, "C"], NoBool] = 1
    """Channels of the modulation mask: 1 as published, or C as Eq. 9 reads."""
    mask_input: Literal["F", "F1"] = "F"
    """What the mask is computed from: the RDA conv's input (Eq. 9) or the dynamic conv's output."""
    dyn_act: Literal["lrelu", "none"] = "lrelu"
    """Activation on the dynamic conv's output; `none` is Eq. 8 as printed."""
    conv_type: Literal["rda", "dasr_da", "static"] = "rda"
    """What stands at the place of the RDA conv: itself, DASR's DA conv (row S4 of Table V), or a static conv with
    the DA conv's channel attention (S5)."""
    static_groups: Literal["C", "dense"] = "C"
    """Whether the static conv of `conv_type: static` is depthwise or dense."""

    @model_validator(mode="after")
    def _options_of_the_conv(self) -> NetworksConfig:
        if self.conv_type != "rda" and (self.mask_channels, self.mask_input) != (1, "F"):
            raise ValueError(f"mask_channels and mask_input are the RDA conv's, but conv_type is {self.conv_type}")
        if self.conv_type != "static" and self.static_groups != "C":
            raise ValueError(f"static_groups is the static conv's, but conv_type is {self.conv_type}")
        return self


class AdaptationConfig(Section):
    """How the MLN is adapted to one batch in the teacher and the student stage (Algorithm 2)."""

    inner_steps: Count = 5
    """SGD steps on the batch, n in the paper."""
    inner_lr: Annotated[list[PositiveFloat], Field(min_length=1)] = [1e-2, 5e-3, 5e-3, 5e-3, 5e-3, 1e-3]
    """Learning rate of each inner step; the last one serves all further steps."""
    per: Literal["batch", "image"] = "batch"
    """One set of adapted weights per batch, on its mean loss, or one per image, on its own loss."""
    images: PositiveInt | None = None
    """Adapt to the first so many images of the batch, which share a degradation, and read the features of all; null
    takes all. Fewer cost less, and tell less of the degradation."""
    reset_mln: bool = True
    """Start every adaptation from the meta-learned MLN; false lets the MLN drift over the whole stage, as a fault of
    the released code does."""

    @model_validator(mode="after")
    def _one_set_of_weights(self) -> AdaptationConfig:
        if self.images is not None and self.per == "image":
            raise ValueError("images needs per: batch, for otherwise each image adapts weights of its own")
        if not self.reset_mln and self.per == "image":
            raise ValueError("reset_mln: false needs per: batch, for weights of each image can't be carried on")
        return self
