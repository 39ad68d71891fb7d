# SPDX-License-Identifier: Apache-2.0
"""Widths and depths of the networks, and the MLN's adaptation."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field, field_validator, model_validator
from pydantic.dataclasses import dataclass

from mrda.config.base import Count, PositiveFloat, PositiveInt, Section
from mrda.core.checks import refuse_bool
from mrda.networks.adaptation import INNER_LR, INNER_STEPS
from mrda.networks.den import DENOptions
from mrda.networks.mln import MLNOptions
from mrda.networks.rdan import TrunkOptions


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class NetworksConfig(TrunkOptions):
    """Widths, depths and initialisation of the networks: the options of the RDAN, and with a prefix those of others."""

    mln_feat: int = MLNOptions.num_feat
    """Channels of the MLN, C' in the paper."""
    mln_body: int = MLNOptions.num_body
    """Body convolutions of the MLN."""
    den_width: int = DENOptions.width
    """Base width of both DENs; the raw IDR has four times as many elements."""
    mln_init: Literal["torch", "he"] = "torch"
    """Initialisation of the MLN: torch's default, as published, which keeps it close to bicubic interpolation for some
    thousand steps; or He's rule with a last convolution of zeros, which learns from the first step on."""
    den_init: Literal["torch", "he"] = "torch"
    """Initialisation of the DENs: torch's default, as published, whose eight layers attenuate the differences between
    images so much that thousands of steps learn without any IDR; or He's rule, for shorter trainings."""

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
    per: Literal["batch", "image"] = "batch"
    """One set of adapted weights per batch, on its mean loss, or one per image, on its own loss."""
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
