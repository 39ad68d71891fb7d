# SPDX-License-Identifier: Apache-2.0
"""NIQE of upscaled photographs: means, tables and files."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import TypedDict

from mrda.core.files import write_csv
from mrda.core.markdown import table
from mrda.evaluation.unpaired import UnpairedRecord


class NiqeSummary(TypedDict):
    """NIQE of one method, None where it was not measured."""

    niqe: float | None
    """Mean over images."""
    per_image: dict[str, float | None]


def summarise_unpaired(records: Iterable[UnpairedRecord]) -> dict[str, NiqeSummary]:
    """Average the records of one data set, by method in the order they came."""
    images: dict[str, dict[str, float | None]] = {}
    for record in records:
        images.setdefault(record.method, {})[record.image] = record.niqe
    return {method: {"niqe": _mean(per_image.values()), "per_image": per_image} for method, per_image in images.items()}


def markdown_unpaired(
    datasets: Mapping[str, Mapping[str, NiqeSummary]], *, photos: Mapping[str, tuple[int, int]] | None = None
) -> str:
    """The results as Markdown: a row per data set and method, then, where NIQE was measured, a table of all photos.

    Args:
        datasets: data set's name -> method -> summary.
        photos: data set's name -> photos upscaled, and how many it has; where they differ, a line says so.
    """
    rows = [
        [name, method, str(len(summary["per_image"])), _niqe(summary["niqe"])]
        for name, methods in datasets.items()
        for method, summary in methods.items()
    ]
    parts = [table(["Data set", "Method", "Photos", "NIQE"], rows, left=2)]
    for name, methods in datasets.items():
        if any(summary["niqe"] is not None for summary in methods.values()):
            parts.append(f"NIQE of each photo of {name}:\n\n{_by_photo(methods)}")
    for name, (done, present) in (photos or {}).items():
        if done != present:
            parts.append(f"{name}: {done} of {present} photos.\n")
    return "\n".join(parts)


def write_scores_unpaired(path: str | Path, datasets: Mapping[str, Iterable[UnpairedRecord]]) -> None:
    """Write one line per data set, image and method, with NIQE unrounded; the file appears whole or not at all."""
    rows = ((dataset, *record) for dataset, records in datasets.items() for record in records)
    write_csv(path, ["dataset", *UnpairedRecord._fields], rows)


def _by_photo(methods: Mapping[str, NiqeSummary]) -> str:
    names: Sequence[str] = list(dict.fromkeys(name for summary in methods.values() for name in summary["per_image"]))
    rows = [[name, *(_niqe(summary["per_image"].get(name)) for summary in methods.values())] for name in names]
    return table(["Photo", *methods], rows, left=1)


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


def _niqe(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
