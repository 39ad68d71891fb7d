# SPDX-License-Identifier: Apache-2.0
"""Options that the classic degradation and that of real photos share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from mrda.core.checks import check_choice
from mrda.degradations.resample import BORDERS, Border

Per = Literal["batch", "image"]
LrUpFrom = Literal["raw", "quantised"]
LR_UP_FROM: tuple[LrUpFrom, ...] = get_args(LrUpFrom)


@dataclass(frozen=True)
class CommonOptions:
    """Options that every degradation has.

    Raises:
        ValueError: An option is not one of its choices.
    """

    per: Per = "batch"
    """Draw one degradation per batch, as adapting the MLN to a batch requires, or one per image."""
    border: Border = "clamp"
    """Border rule of bicubic resampling: repeat the edge, or reflect the image, edge included, as MATLAB does."""
    lr_up_from: LrUpFrom = "raw"
    """Image that is enlarged for the MLN: LR before it is rounded to 8 bits (released code), or after."""

    def __post_init__(self) -> None:
        check_choice("per", self.per, get_args(Per))
        check_choice("border", self.border, BORDERS)
        check_choice("lr_up_from", self.lr_up_from, LR_UP_FROM)
