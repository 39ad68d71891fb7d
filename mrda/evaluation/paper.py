# SPDX-License-Identifier: Apache-2.0
"""The numbers that the paper prints, typed: Tables II to VI, from `paper.yaml` beside this file."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from statistics import fmean
from typing import NamedTuple

import yaml
from pydantic import BaseModel, ConfigDict


class Score(NamedTuple):
    """PSNR in dB and SSIM, both on Y."""

    psnr_y: float
    ssim_y: float


class RealScore(NamedTuple):
    """LPIPS, PSNR in dB and SSIM."""

    lpips: float
    psnr_y: float
    ssim_y: float


Nine = tuple[float, float, float, float, float, float, float, float, float]
"""One number for each of the kernels 1 to 9."""


class _Row(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ClassicRow(_Row):
    """A row of Table II: x4, Gaussian8, means over the eight blurs."""

    method: str
    params_m: float | None
    """Parameters in millions."""
    mult_adds_g: float | None
    """In 1e9, at LR 180x320."""
    time_ms: float | None
    scores: dict[str, Score]
    """By data set."""


class NoisyRow(_Row):
    """A method of Table III: x4, Set14, nine anisotropic blurs that are printed as thumbnails only."""

    method: str
    params: str
    time_ms: float
    psnr_y: dict[float, Nine]
    """By noise level: standard deviation in units of 1/255."""


class RealRow(_Row):
    """A row of Table IV: x4, real-world degradations."""

    method: str
    params_m: float
    mult_adds_g: float
    time_ms: float
    scores: dict[str, RealScore]
    """By data set."""


class AblationRow(_Row):
    """A row of Table V: x4, Urban100, Gaussian8; None where the paper prints a dash."""

    method: str
    time_ms: float
    psnr_y: float
    meta: bool
    oracle: bool
    kl: bool | None
    abs: bool | None
    rdam: bool
    dynamic_conv: bool


class UpscalerRow(_Row):
    """A row of Table VI: x4, Urban100, MRDA_T."""

    fixed_upscaler: bool
    psnr_y: dict[float, float]
    """By the blur's standard deviation in HR pixels."""


class Paper(_Row):
    """The tables, rows as printed."""

    table_ii: list[ClassicRow]
    table_iii: list[NoisyRow]
    table_iv: list[RealRow]
    table_v: list[AblationRow]
    table_vi: list[UpscalerRow]


class PaperRow(NamedTuple):
    """A row of the paper's tables for a data set under a protocol."""

    method: str
    psnr_y: float
    ssim_y: float | None
    """None where the paper prints PSNR only."""
    noise_level: float | None = None
    """Standard deviation in units of 1/255; None in tables without noise."""
    by_kernel: tuple[float, ...] = ()
    """PSNR of each kernel, where printed; `psnr_y` is then their mean, which is not printed."""
    source: str = "paper"
    """The paper that prints the row: "paper" for MRDA's."""


@cache
def paper() -> Paper:
    """Tables II to VI."""
    text = files("mrda.evaluation").joinpath("paper.yaml").read_text(encoding="utf-8")
    return Paper.model_validate(yaml.safe_load(text))


SETS = {
    "set5": "Set5",
    "set14": "Set14",
    "b100": "BSD100",
    "bsd100": "BSD100",
    "bsds100": "BSD100",
    "urban100": "Urban100",
    "manga109": "Manga109",
    "realsrset": "RealSRSet",
    "ntire2020t1": "NTIRE2020-T1",
    "ntire2020track1": "NTIRE2020-T1",
    "div2krk": "DIV2KRK",
    "div2krkpublic": "DIV2KRK",
}
"""Names of the paper's data sets by folder name, in lower case with letters and digits only."""


def paper_rows(folder: str, protocol: str, scale: int) -> list[PaperRow]:
    """The paper's rows to compare with: Table II for gaussian8, III for mrda9 on Set14, IV for real; all at x4.

    Args:
        folder: the data set's name, in upper or lower case: Set5, Set14, B100 (also BSD100, BSDS100), Urban100,
            Manga109, RealSRSet, NTIRE2020-T1. The set is recognised by this name alone.
        protocol: as in `mrda.evaluation.protocols.PROTOCOLS`, or "real".
        scale: the factor between LR and HR.

    Returns:
        Rows in the order of the table; empty if the paper has no number.
    """
    name = SETS.get("".join(filter(str.isalnum, folder)).lower())
    if name is None or scale != 4:
        return []
    tables = paper()
    if protocol == "gaussian8":
        return [PaperRow(row.method, *row.scores[name]) for row in tables.table_ii if name in row.scores]
    if protocol == "mrda9" and name == "Set14":
        return [
            PaperRow(row.method, fmean(kernels), None, level, kernels)
            for row in tables.table_iii
            for level, kernels in row.psnr_y.items()
        ]
    if protocol == "real":
        found = [(row.method, row.scores[name]) for row in tables.table_iv if name in row.scores]
        return [PaperRow(method, score.psnr_y, score.ssim_y) for method, score in found]
    return []
