# SPDX-License-Identifier: Apache-2.0
"""The numbers that other papers print for sister methods, typed, from `published.yaml` beside this file."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from statistics import fmean
from typing import Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field

from mrda.evaluation.paper import SETS, Nine, PaperRow, Score, paper_rows

Four = tuple[float, float, float, float]
"""PSNR in dB for each of the four widths of `dasr-iso`."""


class _Row(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    method: str
    printed_by: str
    """The method whose paper prints the row."""


class ScoreRow(_Row):
    """A method's mean scores."""

    scale: Literal[2, 3, 4]
    scores: dict[str, Score]
    """By data set."""


class WidthRow(_Row):
    """A method's PSNR under four isotropic blurs."""

    scale: Literal[2, 3, 4]
    scores: dict[str, Four]
    """By data set."""


class NineRow(_Row):
    """A method's PSNR on Set14 at x4, under nine anisotropic blurs."""

    psnr_y: dict[float, Nine]
    """By noise level: standard deviation in units of 1/255."""


class Published(BaseModel):
    """The tables by protocol, rows as printed."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    gaussian8: list[ScoreRow]
    dasr_iso: list[WidthRow] = Field(alias="dasr-iso")
    dasr9: list[NineRow]
    mrda9: list[NineRow]
    div2krk: list[ScoreRow]


@cache
def published() -> Published:
    """All tables."""
    text = files("mrda.evaluation").joinpath("published.yaml").read_text(encoding="utf-8")
    return Published.model_validate(yaml.safe_load(text))


def published_rows(folder: str, protocol: str, scale: int) -> list[PaperRow]:
    """The rows to compare with: those of MRDA's paper, then those that others print for its sisters.

    Args:
        folder: the data set's name, recognised as in `mrda.evaluation.paper.paper_rows`; also DIV2KRK.
        protocol: the protocol's name.
        scale: the factor between LR and HR.

    Returns:
        Rows in the order of the tables; empty if nobody prints a number.
    """
    rows = paper_rows(folder, protocol, scale)
    name = SETS.get("".join(filter(str.isalnum, folder)).lower())
    if name is None:
        return rows
    tables = published()
    for row in {"gaussian8": tables.gaussian8, "div2krk": tables.div2krk}.get(protocol, []):
        if row.scale == scale and name in row.scores:
            rows.append(PaperRow(row.method, *row.scores[name], source=_source(row)))
    for widths in tables.dasr_iso if protocol == "dasr-iso" else []:
        if widths.scale == scale and name in widths.scores:
            values = widths.scores[name]
            rows.append(PaperRow(widths.method, fmean(values), None, None, values, _source(widths)))
    nines = {"dasr9": tables.dasr9, "mrda9": tables.mrda9} if (name, scale) == ("Set14", 4) else {}
    for nine in nines.get(protocol, []):
        rows += [
            PaperRow(nine.method, fmean(kernels), None, level, kernels, _source(nine))
            for level, kernels in nine.psnr_y.items()
        ]
    return rows


def _source(row: _Row) -> str:
    return f"{row.printed_by}'s paper"
