# SPDX-License-Identifier: Apache-2.0
"""Widths and depths of the networks, and the MLN's adaptation."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field, field_validator, model_validator
from pydantic.dataclasses import dataclass

from mrda.config.base import Count, PositiveFloat, PositiveInt, Section
from mrda.core.checks import refuse_bool
from mrda.options.networks import INNER_LR, INNER_STEPS, DENOptions, MLNOptions, TrunkOptions


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class NetworksConfig(TrunkOptions):
    """Widths, depths and initialisation of the networks: the options of the RDAN, and with a prefix those of others."""

    mln_feat: int = MLNOptions.num_feat
    """Channels of the MLN, C' in the paper."""
    mln_body: int = MLNOptions.num_body
    """Body convolutions of the MLN."""
    den_width: int = DENOptions.width
    """Base width of both DENs; the raw IDR has four times as many elements."""
    mln_init: Literal["he", "torch"] = "he"
    """Initialisation of the MLN: He's rule with a last convolution of zeros, which learns from the first step on; or
    torch's default, as published, which keeps it close to bicubic interpolation for some thousand steps."""
    den_init: Literal["edges", "he", "torch"] = "edges"
    """Initialisation of the DENs: He's rule with first filters that sum to zero in a DEN that reads images, which
    learns to tell blurs apart within hundreds of steps; He's rule alone; or torch's default, as published, whose eight
    layers attenuate the differences between images so much that thousands of steps learn without any IDR."""
    den_norm: Literal["none", "batch"] = "none"
    """Normalisation of the raw IDRs while teacher and student are trained: none, as published, or batch normalisation
    without scale and shift, so that the RDAN heeds the differences between images from the first steps on. The weights
    that are saved have it in the DEN's last layer. An oracle's IDRs (`teacher.den_input: kernel`), and its student's,
    are not normalised. The training loss falls, but results on whole photos differ from seed to seed."""

    @field_validator("*", mode="before")
    @classmethod
    def _no_field_is_boolean(cls, value: object) -> object:
        return refuse_bool(value)


class AdaptationConfig(Section):
    """Adaptation of the MLN to one batch in the teacher and the student stage (Algorithm 2)."""

    inner_steps: Count = INNER_STEPS
    """SGD steps on the batch, n in the paper."""
    inner_lr: Annotated[list[PositiveFloat], Field(min_length=1)] = list(INNER_LR)
    """Learning rate of each inner step; the last one serves all further steps."""
    inner_clip: PositiveFloat | None = None
    """Largest 2-norm of an inner step's gradient, over all weights that adapt; a larger one is scaled to it. null: no
    limit."""
    per: Literal["batch", "image"] = "image"
    """One set of adapted weights per image, on its own loss, or one per batch, on its mean loss."""
    on: Literal["self", "other"] | None = None
    """The image whose LR and HR an image's MLN is adapted to: itself, as published, or its neighbour in the batch,
    degraded by the same parameters. Then the features tell of the degradation, and of HR nothing that LR does not
    show, so that a student can learn them. null: the other with adaptation.per=image, a classic degradation and
    batches of 2 or more, otherwise itself, because real degradations and those of pairs can't be repeated."""
    images: PositiveInt | None = None
    """Number of images to adapt to, the first of the batch, which share a degradation; features are read from all. null
    takes all. Fewer cost less, and show less of the degradation."""
    reset_mln: bool = True
    """Start every adaptation from the meta-learned MLN; false lets the MLN drift over the whole stage, as a bug in the
    released code does."""

    @model_validator(mode="after")
    def _one_set_of_weights(self) -> AdaptationConfig:
        if self.images is not None and self.per == "image":
            raise ValueError("images requires per=batch: with per=image every image adapts its own weights")
        if not self.reset_mln and self.per == "image":
            raise ValueError(
                "reset_mln=false requires per=batch: weights of single images cannot be carried over to the next step"
            )
        return self
