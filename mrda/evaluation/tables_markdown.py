# SPDX-License-Identifier: Apache-2.0
"""Means as Markdown tables, beside the published rows."""

from collections.abc import Iterable, Mapping, Sequence

from mrda.core.markdown import table
from mrda.evaluation.methods import IDR_LABEL
from mrda.evaluation.paper import SETS, PaperRow, paper
from mrda.evaluation.protocols import BLURS, DASR_ISO, NOISE_LEVELS, noisy_name
from mrda.evaluation.published import published_rows
from mrda.evaluation.tables import Scores, Summary, mean_scores

Datasets = Mapping[str, Mapping[str, Summary]]

_INFERRED = "The kernels k1 to k9 are inferred from the paper's thumbnails, not published."


def markdown(
    datasets: Datasets,
    protocol: str | None = None,
    scale: int = 4,
    *,
    photos: Mapping[str, tuple[int, int]] | None = None,
    width: int | None = None,
) -> str:
    """The results as Markdown, with the rows of MRDA's and other papers for the data sets that they know.

    Args:
        datasets: data set's name -> method -> summary.
        protocol: protocol of the measurements; None leaves published rows out. `mrda9`, `dasr9` and `wide` get a row
            per noise level, and a second table with the PSNR of each blur; `dasr-iso` the PSNR of each width.
        scale: the factor between LR and HR.
        photos: data set's name -> photos measured, and how many it has; where they differ, a line says so.
        width: characters in a line of the terminal; a wider table of kernels is left out.

    Returns:
        One table or two, then remarks. Published rows follow those measured, their methods marked "(paper)", or with
        the name of another paper. What a replaced IDR costs is a remark.
    """
    published = _published(datasets, protocol, scale)
    if protocol in NOISE_LEVELS:
        kernels = _by_kernel(datasets, published, protocol)
        if width is not None and max(map(len, kernels.splitlines())) > width:
            kernels = "The PSNR of each kernel needs a wider terminal, or --markdown FILE.\n"
        parts = [by_noise(datasets, protocol, scale), kernels]
        if protocol == "mrda9" and any(published.values()):
            parts.append(f"{_INFERRED}\n")
    elif protocol == DASR_ISO:
        parts = [_by_width(datasets, published)]
    else:
        parts = [_plain(datasets, published)]
    for name, (measured, present) in (photos or {}).items():
        if measured != present:
            whole = ", the paper's over all" if published.get(name) else ""
            parts.append(f"{name}: means over {measured} of {present} photos{whole}.\n")
    for name, methods in datasets.items():
        for method, summary in methods.items():
            whose, replaced, idr = method.partition(IDR_LABEL)
            if replaced:
                cost = methods[whose]["psnr_y"] - summary["psnr_y"]
                parts.append(f"{name}: with the {idr} IDR in place of each photo's own, {whose} loses {cost:.2f} dB.\n")
    return "\n".join(parts)


def _published(datasets: Datasets, protocol: str | None, scale: int) -> dict[str, list[PaperRow]]:
    return {name: published_rows(name, protocol, scale) if protocol else [] for name in datasets}


def _plain(datasets: Datasets, published: Mapping[str, Sequence[PaperRow]]) -> str:
    rows, header = [], ["Data set", "Method", "PSNR-Y (dB)", "SSIM-Y"]
    with_lpips = any("lpips" in summary for methods in datasets.values() for summary in methods.values())
    for name, methods in datasets.items():
        lpips = [summary.get("lpips") for summary in methods.values()] + _published_lpips(name, published[name])
        measured = [[name, method, *_cells(summary)] for method, summary in methods.items()]
        measured += [[name, _label(row), f"{row.psnr_y:.2f}", _ssim(row.ssim_y)] for row in published[name]]
        rows += [[*row, _ssim(value)] if with_lpips else row for row, value in zip(measured, lpips, strict=True)]
    return table([*header, "LPIPS"] if with_lpips else header, rows, left=2)


def _by_width(datasets: Datasets, published: Mapping[str, Sequence[PaperRow]]) -> str:
    rows, widths = [], [""]
    for name, methods in datasets.items():
        for method, summary in methods.items():
            widths = list(summary["per_condition"])
            psnr = [f"{scores['psnr_y']:.2f}" for scores in summary["per_condition"].values()]
            rows.append([name, method, *psnr])
        rows += [[name, _label(row), *(f"{psnr:.2f}" for psnr in row.by_kernel)] for row in published[name]]
    return "PSNR-Y (dB) of each width:\n\n" + table(["Data set", "Method", *widths], rows, left=2)


def _published_lpips(folder: str, rows: Sequence[PaperRow]) -> list[float | None]:
    """LPIPS of the paper's rows: Table IV alone prints it."""
    name = SETS.get("".join(filter(str.isalnum, folder)).lower(), "")
    printed = {row.method: row.scores[name].lpips for row in paper().table_iv if name in row.scores}
    return [printed.get(row.method) for row in rows]


def by_noise(datasets: Datasets, protocol: str, scale: int = 4) -> str:
    """The first table of `markdown` for protocols with noise levels: a row for each."""
    published = _published(datasets, protocol, scale)
    rows = []
    for name, methods in datasets.items():
        levels = _levels(methods, protocol)
        for level in levels:
            for method, summary in methods.items():
                scores = mean_scores(summary["per_condition"][key] for key in _names(level, protocol))
                rows.append([name, method, f"{level:g}", *_cells(scores)])
            for row in _at(level, published[name]):
                rows.append([name, _label(row), f"{level:g}", f"{row.psnr_y:.2f}", _ssim(row.ssim_y)])
        if len(levels) > 1:
            rows += [[name, method, "all", *_cells(summary)] for method, summary in methods.items()]
    return table(["Data set", "Method", "Noise", "PSNR-Y (dB)", "SSIM-Y"], rows, left=2)


def _by_kernel(datasets: Datasets, published: Mapping[str, Sequence[PaperRow]], protocol: str) -> str:
    rows = []
    for name, methods in datasets.items():
        for level in _levels(methods, protocol):
            for method, summary in methods.items():
                scores = [summary["per_condition"][key]["psnr_y"] for key in _names(level, protocol)]
                rows.append([name, method, f"{level:g}", *(f"{psnr:.2f}" for psnr in scores)])
            for row in _at(level, published[name]):
                rows.append([name, _label(row), f"{level:g}", *(f"{psnr:.2f}" for psnr in row.by_kernel)])
    return "PSNR-Y (dB) of each kernel:\n\n" + table(["Data set", "Method", "Noise", *BLURS[protocol]], rows, left=2)


def _levels(methods: Mapping[str, Summary], protocol: str) -> list[float]:
    """The noise levels that were measured."""
    measured = {name for summary in methods.values() for name in summary["per_condition"]}
    return [level for level in NOISE_LEVELS[protocol] if noisy_name(BLURS[protocol][0], level) in measured]


def _names(level: float, protocol: str) -> list[str]:
    return [noisy_name(blur, level) for blur in BLURS[protocol]]


def _at(level: float, rows: Iterable[PaperRow]) -> list[PaperRow]:
    return [row for row in rows if row.noise_level == level]


def _label(row: PaperRow) -> str:
    return f"{row.method} ({row.source})"


def _cells(scores: Scores) -> list[str]:
    return [f"{scores['psnr_y']:.2f}", _ssim(scores["ssim_y"])]


def _ssim(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
