"""Means over images and conditions, as JSON, and every measurement, as CSV."""

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from statistics import fmean
from typing import TypedDict

from mrda import files
from mrda.evaluation.protocols import Record
from mrda.files import write_text


class Scores(TypedDict):
    """Means over images: PSNR-Y in dB and SSIM-Y."""

    psnr_y: float
    ssim_y: float


class Summary(Scores):
    """Means over conditions of the means over images, and the latter by condition."""

    per_condition: dict[str, Scores]


def summarise(records: Iterable[Record]) -> dict[str, Summary]:
    """Average the records of one data set, by method in the order they came.

    The mean over conditions is that of the per-condition means, as the published tables have it.

    Args:
        records: of one data set; every method measured under the same conditions.

    Returns:
        Method -> its summary.
    """
    groups: dict[str, dict[str, list[Record]]] = {}
    for record in records:
        groups.setdefault(record.method, {}).setdefault(record.condition, []).append(record)
    summaries: dict[str, Summary] = {}
    for method, by_condition in groups.items():
        per_condition: dict[str, Scores] = {
            condition: {"psnr_y": fmean(r.psnr_y for r in group), "ssim_y": fmean(r.ssim_y for r in group)}
            for condition, group in by_condition.items()
        }
        summaries[method] = {**mean_scores(per_condition.values()), "per_condition": per_condition}
    return summaries


def mean_scores(scores: Iterable[Scores]) -> Scores:
    """The mean of some conditions' scores; there must be one."""
    found = list(scores)
    return {"psnr_y": fmean(s["psnr_y"] for s in found), "ssim_y": fmean(s["ssim_y"] for s in found)}


def write_json(path: str | Path, content: Mapping[str, object]) -> None:
    """Write `content` as JSON; the file appears whole or not at all.

    An infinite PSNR (SR equal to HR) is written as null: strict JSON has no infinity.
    """
    write_text(path, json.dumps(_finite(content), indent=2, allow_nan=False) + "\n")


def write_csv(path: str | Path, datasets: Mapping[str, Iterable[Record]]) -> None:
    """Write one line per data set, image, condition and method; the file appears whole or not at all.

    The columns are dataset, image, condition, method, psnr_y, ssim_y; the numbers are unrounded, and an infinite PSNR
    is `inf`.
    """
    rows = ((dataset, *record) for dataset, records in datasets.items() for record in records)
    files.write_csv(path, ["dataset", *Record._fields], rows)


def _finite(value: object) -> object:
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
