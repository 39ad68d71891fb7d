# SPDX-License-Identifier: Apache-2.0
"""Means over images and conditions, as JSON, and every measurement, as CSV."""

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from statistics import fmean
from typing import NotRequired, TypedDict

from mrda.core.files import write_csv, write_text
from mrda.evaluation.paired import RealRecord
from mrda.evaluation.protocols import Record

AnyRecord = Record | RealRecord
"""A record of either protocol that compares with HR."""


class Scores(TypedDict):
    """Means over images: PSNR-Y in dB and SSIM-Y, and LPIPS if every record has it."""

    psnr_y: float
    ssim_y: float
    lpips: NotRequired[float]


class Summary(Scores):
    """Means over conditions of the means over images, and the latter by condition."""

    per_condition: dict[str, Scores]


def summarise(records: Iterable[AnyRecord]) -> dict[str, Summary]:
    """Average the records of one data set, by method in the order they came.

    The mean over conditions is that of the per-condition means, as the published tables have it.

    Args:
        records: records of one data set; every method measured under the same conditions.

    Returns:
        Method -> its summary.
    """
    groups: dict[str, dict[str, list[AnyRecord]]] = {}
    for record in records:
        groups.setdefault(record.method, {}).setdefault(record.condition, []).append(record)
    summaries: dict[str, Summary] = {}
    for method, by_condition in groups.items():
        per_condition = {
            condition: mean_scores(_scores(record) for record in group) for condition, group in by_condition.items()
        }
        summaries[method] = {**mean_scores(per_condition.values()), "per_condition": per_condition}
    return summaries


def mean_scores(scores: Iterable[Scores]) -> Scores:
    """The mean of some images' or conditions' scores; there must be one."""
    found = list(scores)
    mean: Scores = {"psnr_y": fmean(s["psnr_y"] for s in found), "ssim_y": fmean(s["ssim_y"] for s in found)}
    if all("lpips" in s for s in found):
        mean["lpips"] = fmean(s["lpips"] for s in found)
    return mean


def write_json(path: str | Path, content: Mapping[str, object]) -> None:
    """Write `content` as JSON; the file appears whole or not at all.

    An infinite PSNR (SR equal to HR) is written as null: strict JSON has no infinity.
    """
    write_text(path, json.dumps(_finite(content), indent=2, allow_nan=False) + "\n")


def write_scores(path: str | Path, datasets: Mapping[str, Iterable[AnyRecord]]) -> None:
    """Write one line per data set, image, condition and method; the file appears whole or not at all.

    The columns are dataset, image, condition, method, psnr_y, ssim_y, and lpips where it was measured; the numbers are
    unrounded, and an infinite PSNR is `inf`.
    """
    rows = [(dataset, *record) for dataset, records in datasets.items() for record in records]
    columns = ("dataset", *RealRecord._fields)
    write_csv(path, columns[: max(map(len, rows), default=len(columns) - 1)], rows)


def _scores(record: AnyRecord) -> Scores:
    scores: Scores = {"psnr_y": record.psnr_y, "ssim_y": record.ssim_y}
    if isinstance(record, RealRecord):
        scores["lpips"] = record.lpips
    return scores


def _finite(value: object) -> object:
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
