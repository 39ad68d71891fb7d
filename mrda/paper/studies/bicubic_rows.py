# SPDX-License-Identifier: Apache-2.0
"""The protocol behind the bicubic row of the paper's Table II: ways to resample and to compare, on real photos.

    python -m mrda.paper.studies.bicubic_rows --json benchmarks/results/bicubic_rows.json --update docs/bicubic_rows.md

The folders Set5, Set14 and B100 lie in the folder that the environment variable MRDA_DATA names; --data names others.
The rest is Gaussian8 at x4 as in `mrda evaluate`, which prints the row of "antialiased" and "Y", and with
`--downsample sfold` that of "every 4th pixel from 0" and "Y".
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from mrda.core.markdown import table
from mrda.degradations.classic import crop_to_multiple
from mrda.degradations.quantize import quantize
from mrda.degradations.resample import bicubic
from mrda.evaluation.metrics import psnr_y, ssim_y
from mrda.evaluation.paper import paper_rows
from mrda.evaluation.protocols import conditions
from mrda.paper.studies import command
from mrda.photo.images import Source, find_images, read_rgb, to_array, to_tensor

SCALE = 4
SETS = ("Set5", "Set14", "B100")
SECTION = "bicubic-rows"
WINDOW = 11

Scores = tuple[float, float]
"""PSNR in dB and SSIM."""
Sampling = Callable[[Tensor], Tensor]
"""HR (1, 3, H, W) after its blur, in [0, 1] -> the enlarged LR, of the same shape."""
Results = dict[str, Any]
"""The content of the file of results, see `study`."""


def as_pillow(x: Tensor, scale: float) -> Tensor:
    """Pillow's bicubic, of an 8-bit image."""
    height, width = (round(side * scale) for side in x.shape[2:])
    image = Image.fromarray(to_array(x)).resize((width, height), Image.Resampling.BICUBIC)
    return to_tensor(np.asarray(image))


def as_opencv(x: Tensor, scale: float) -> Tensor:
    """Bicubic with a = -0.75 and without antialiasing, as in OpenCV, and in torch by default."""
    return F.interpolate(x, scale_factor=scale, mode="bicubic")


def mirrored(x: Tensor, scale: float) -> Tensor:
    """The antialiased bicubic with MATLAB's border."""
    return bicubic(x, scale, "mirror")


def by(resample: Callable[[Tensor, float], Tensor]) -> Sampling:
    """Shrink and enlarge by one function, LR in 8 bits."""
    return lambda blurred: resample(quantize(resample(blurred, 1 / SCALE)), SCALE)


def every_fourth(phase: int) -> Sampling:
    """Take every 4th pixel both ways, from `phase` on; enlarge them as if each were its 4x4 cell's mean."""
    return lambda blurred: bicubic(quantize(blurred[..., phase::SCALE, phase::SCALE]), SCALE)


SAMPLINGS: Mapping[str, Sampling] = {
    "antialiased": by(bicubic),
    "antialiased, mirrored border": by(mirrored),
    "Pillow": by(as_pillow),
    "not antialiased, as OpenCV": by(as_opencv),
    "every 4th pixel from 0": every_fourth(0),
    "every 4th pixel from 1": every_fourth(1),
}
"""Ways to make LR of blurred HR and to enlarge it. Phases 2 and 3 mirror phases 1 and 0."""

STEPS = (
    ("antialiased", "Y"),
    ("antialiased", "gray"),
    ("antialiased", "gray, whole picture"),
    ("antialiased", "gray, whole picture, SSIM over zeros"),
    ("antialiased", "8-bit gray, whole picture, SSIM over zeros"),
    ("Pillow", "8-bit gray, whole picture, SSIM over zeros"),
)
"""From the released protocol to the printed row, by one change after the other."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure every way to resample by every way to compare."""
    parser = command.parser(__doc__)
    parser.add_argument("--data", nargs="+", type=Path, metavar="DIR", help="folders of sets that Table II has")
    parser.add_argument("--results", type=Path, metavar="FILE", help="take results from here, and measure nothing")
    options = parser.parse_args(arguments)
    measured = (lambda: load(options.results)) if options.results else (lambda: study(sets(options.data)))
    command.run(parser, options, SECTION, measured, document)


def load(path: Path) -> Results:
    """Read a file of results.

    Raises:
        ValueError: it is another file.
    """
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        results = None
    if not isinstance(results, dict) or set(results) != {"photos", "printed", "rows"}:
        raise ValueError(f"--results is {path}, but must be a file that --json has written")
    return results


def sets(folders: Sequence[Path] | None) -> dict[str, list[Source]]:
    """The photos of each set, by its folder's name.

    Raises:
        ValueError: the folders are not known, or one is missing or has no photos.
    """
    folders = command.photo_sets(folders, SETS)
    for folder in folders:
        if not folder.is_dir():
            raise ValueError(f"--data is {folder}, but must be a folder of photos")
    return {folder.resolve().name: find_images([folder]) for folder in folders}


def study(photos: Mapping[str, Sequence[Source]]) -> Results:
    """Measure all photos.

    Args:
        photos: by set.

    Returns:
        ``photos``, their number by set; ``printed``, the scores of Table II by set; ``rows``, each with its
        ``sampling``, its ``comparison``, and its ``scores`` by set: means over blurs and photos.

    Raises:
        ValueError: Table II has no bicubic row for a set, or a photo can't be read.
    """
    printed = {name: printed_scores(name) for name in photos}
    found: dict[tuple[str, str], dict[str, list[Scores]]] = {}
    sources = [(name, source) for name, of_set in photos.items() for source in of_set]
    for name, source in command.track(sources, "photos"):
        for row, scores in measure(to_tensor(read_rgb(source))).items():
            found.setdefault(row, {}).setdefault(name, []).append(scores)
    rows = [
        {
            "sampling": sampling,
            "comparison": comparison,
            "scores": {name: mean(scores) for name, scores in by_set.items()},
        }
        for (sampling, comparison), by_set in found.items()
    ]
    return {"photos": {name: len(of_set) for name, of_set in photos.items()}, "printed": printed, "rows": rows}


def printed_scores(name: str) -> Scores:
    """The PSNR and SSIM that Table II prints for bicubic on the set of that name.

    Raises:
        ValueError: it has none.
    """
    for row in paper_rows(name, "gaussian8", SCALE):
        if row.method == "Bicubic" and row.ssim_y is not None:
            return row.psnr_y, row.ssim_y
    raise ValueError(f"--data has the folder {name}, but Table II has no bicubic row for a set of that name")


def measure(image: Tensor, samplings: Mapping[str, Sampling] = SAMPLINGS) -> dict[tuple[str, str], Scores]:
    """Mean scores over Gaussian8's blurs of one photo (1, 3, H, W) in [0, 1], by sampling and comparison."""
    hr = crop_to_multiple(image, SCALE)
    found: dict[tuple[str, str], list[Scores]] = {}
    for condition in conditions("gaussian8", SCALE):
        assert condition.kernel is not None
        blurred = blur(hr, condition.kernel)
        for sampling, resample in samplings.items():
            for comparison, scores in compare(resample(blurred), hr).items():
                found.setdefault((sampling, comparison), []).append(scores)
    return {row: mean(scores) for row, scores in found.items()}


def blur(hr: Tensor, kernel: Tensor) -> Tensor:
    """Correlate (1, 3, H, W) with a kernel (k, k), as `mrda.degradations` does: the border reflected, not rounded."""
    planes = F.pad(hr, (kernel.shape[-1] // 2,) * 4, mode="reflect")
    return F.conv2d(planes, kernel.to(hr).expand(3, 1, -1, -1), groups=3)


def compare(sr: Tensor, hr: Tensor) -> dict[str, Scores]:
    """Scores of SR (1, 3, H, W), rounded to 8 bits, by every way to compare.

    "Y" is as in `mrda evaluate`: luma that spans 16 to 235, 4 px of border left out, SSIM's window where it fits.
    "gray" is 0.299 R + 0.587 G + 0.114 B, and spans 0 to 255. "SSIM over zeros" has a window around every pixel, and
    zeros around the picture.
    """
    sr = quantize(sr)
    found: dict[str, Scores] = {}
    for name, border in (("Y", SCALE), ("Y, whole picture", 0)):
        found[name] = float(psnr_y(sr, hr, border)), float(ssim_y(sr, hr, border))
    for name, rounded in (("gray", False), ("8-bit gray", True)):
        x, y = (gray(image, rounded) for image in (sr, hr))
        similarity = ssim_map(x, y)
        found[name] = psnr(inside(x, SCALE), inside(y, SCALE)), mean_inside(similarity, SCALE + WINDOW // 2)
        found[f"{name}, whole picture"] = psnr(x, y), mean_inside(similarity, WINDOW // 2)
        found[f"{name}, whole picture, SSIM over zeros"] = psnr(x, y), mean_inside(similarity, 0)
    return found


def gray(image: Tensor, rounded: bool) -> Tensor:
    """Gray (1, 1, H, W) from 0 to 255 in float64, or rounded to 8 bits."""
    weights = torch.tensor((0.299, 0.587, 0.114), dtype=torch.float64)
    plane = torch.einsum("bchw,c->bhw", 255 * image.double(), weights)[:, None]
    return plane.round() if rounded else plane


def psnr(x: Tensor, y: Tensor) -> float:
    """PSNR in dB of planes from 0 to 255."""
    return float(-10 * torch.log10((x - y).square().mean() / 255**2))


def ssim_map(x: Tensor, y: Tensor) -> Tensor:
    """SSIM around every pixel of planes (1, 1, H, W) from 0 to 255, zeros around them: 11x11 Gaussian, sigma 1.5."""
    offsets = torch.arange(WINDOW, dtype=x.dtype) - WINDOW // 2
    window = torch.exp(-0.5 * (offsets / 1.5) ** 2)
    window = window / window.sum()
    moments = torch.cat([x, y, x * x, y * y, x * y])
    moments = F.conv2d(moments, window.reshape(1, 1, -1, 1), padding=(WINDOW // 2, 0))
    mean_x, mean_y, xx, yy, xy = F.conv2d(moments, window.reshape(1, 1, 1, -1), padding=(0, WINDOW // 2))
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    rest = (2 * (xy - mean_x * mean_y) + c2) / (xx - mean_x**2 + yy - mean_y**2 + c2)
    return luminance * rest


def inside(plane: Tensor, border: int) -> Tensor:
    """A plane without its border."""
    height, width = plane.shape[-2:]
    return plane[..., border : height - border, border : width - border]


def mean_inside(plane: Tensor, border: int) -> float:
    """The mean of a plane without its border."""
    return float(inside(plane, border).mean())


def mean(scores: Iterable[Scores]) -> Scores:
    """Mean PSNR and mean SSIM."""
    psnrs, ssims = zip(*scores, strict=True)
    return fmean(psnrs), fmean(ssims)


def document(results: Results) -> str:
    """The tables as Markdown, ending in a newline."""
    rows = {(row["sampling"], row["comparison"]): row["scores"] for row in results["rows"]}
    printed = results["printed"]

    def line(label: str, scores: Mapping[str, Scores], gap: str) -> list[str]:
        return [label, *(f"{scores[name][0]:.2f} / {scores[name][1]:.4f}" for name in printed), gap]

    def measured(label: str, row: tuple[str, str]) -> list[str]:
        return line(label, rows[row], largest_gap(rows[row], printed))

    steps = [measured(": ".join(STEPS[0]), STEPS[0])]
    for before, after in pairwise(STEPS):
        steps.append(measured(after[1] if before[0] == after[0] else ": ".join(after), after))
    found = {"one change after the other": [*steps, line("**printed in Table II**", printed, "")]}
    for _, comparison in (STEPS[0], STEPS[-1]):
        found[comparison] = [measured(sampling, (sampling, comparison)) for sampling in SAMPLINGS]
    tables = [table([title, *printed, "largest gap"], lines, left=1) for title, lines in found.items()]
    counts = ", ".join(f"{name} {count}" for name, count in results["photos"].items())
    return "\n".join([*tables, f"PSNR in dB / SSIM: means over the eight blurs and over the photos ({counts}).\n"])


def largest_gap(scores: Mapping[str, Scores], printed: Mapping[str, Scores]) -> str:
    """The largest differences of PSNR and of SSIM from the printed ones."""
    gaps = [[abs(a - b) for a, b in zip(scores[name], printed[name], strict=True)] for name in printed]
    psnrs, ssims = zip(*gaps, strict=True)
    return f"{max(psnrs):.3f} / {max(ssims):.4f}"


if __name__ == "__main__":
    main()
