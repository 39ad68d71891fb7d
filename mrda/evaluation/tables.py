"""Means over images and conditions, as JSON and as Markdown."""

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from statistics import fmean
from typing import TypedDict

from mrda.evaluation.protocols import Record
from mrda.files import atomic_write


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
        summaries[method] = {
            "psnr_y": fmean(scores["psnr_y"] for scores in per_condition.values()),
            "ssim_y": fmean(scores["ssim_y"] for scores in per_condition.values()),
            "per_condition": per_condition,
        }
    return summaries


def markdown(datasets: Mapping[str, Mapping[str, Summary]]) -> str:
    """One row per data set and method: a Markdown table, ending in a newline."""
    lines = ["| Data set | Method | PSNR-Y (dB) | SSIM-Y |", "|---|---|---:|---:|"]
    lines += [
        f"| {dataset} | {method} | {summary['psnr_y']:.2f} | {summary['ssim_y']:.4f} |"
        for dataset, methods in datasets.items()
        for method, summary in methods.items()
    ]
    return "\n".join(lines) + "\n"


def write_json(path: str | Path, content: Mapping[str, object]) -> None:
    """Write `content` as JSON; the file appears whole or not at all.

    An infinite PSNR (SR equal to HR) is written as null: strict JSON has no infinity.
    """
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(_finite(content), indent=2, allow_nan=False) + "\n", encoding="utf-8")


def _finite(value: object) -> object:
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
