# SPDX-License-Identifier: Apache-2.0
"""Fig. 9: PSNR of the MLN after each step of its adaptation, and of networks by the number of steps."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import torch

from mrda.core.files import write_csv
from mrda.degradations.resample import bicubic
from mrda.evaluation.methods import mln_steps, student_method, teacher_method
from mrda.evaluation.methods_loading import METHOD_NAMES, Adaptation, recorded_adaptation
from mrda.evaluation.metrics import psnr_y
from mrda.evaluation.samples import Condition, Method, Sample, make_sample
from mrda.networks import MLN, MRDAStudent, MRDATeacher, Network
from mrda.networks.layers import freeze, to_channels_last
from mrda.paper.figures.canvas import COLOURS, MARKERS, Cell, csv_beside, new_figure, plain, save_figure
from mrda.paper.figures.photos import LARGEST_SIDE, read_centre
from mrda.photo.images import Source
from mrda.upscale.upscaler import load_weights

if TYPE_CHECKING:
    from matplotlib.axes import Axes

NetworkT = TypeVar("NetworkT", MLN, MRDATeacher, MRDAStudent)

BASELINE = "bicubic interpolation"
TEACHER, STUDENT = METHOD_NAMES[MRDATeacher], METHOD_NAMES[MRDAStudent]
HEADER = ("panel", "series", "steps", "image", "condition", "psnr_y", "inner_lr", "freeze_upscaler")
_LABELS = {TEACHER: "MRDA$_T$", STUDENT: "MRDA$_S$"}
MEAN = "(mean)"
"""Image and condition in the CSV's rows of means, which are drawn."""


class AdaptingMLN(NamedTuple):
    """A curve of Fig. 9a."""

    network: MLN
    adaptation: Adaptation
    """Settings of the adaptation; `steps` is the length of the curve."""


class SweptMethod(NamedTuple):
    """A point of Fig. 9b: a network trained with a given number of inner steps."""

    method: Method
    scale: int
    adaptation: Adaptation | None = None
    """Settings of its MLN's adaptation; None for students."""


class AdaptationScore(NamedTuple):
    """One measurement."""

    panel: str
    """\"a\": an MLN after `steps` of adaptation; "b": a network trained with `steps`."""
    series: str
    steps: int | None
    """None for bicubic interpolation."""
    image: str
    condition: str
    psnr_y: float
    """In dB."""
    adaptation: Adaptation | None


def load_curves(
    paths: Mapping[str, Path],
    *,
    steps: int,
    inner_lr: Sequence[float] | None = None,
    device: torch.device | str = "cpu",
) -> dict[str, AdaptingMLN]:
    """Load the MLNs of Fig. 9a.

    Args:
        paths: their weights, by the curves' names.
        steps: number of adaptation steps.
        inner_lr: learning rates of the steps; None takes those of each network's training, if its file records them
            (`mrda.evaluation.methods_loading.recorded_adaptation`).
        device: device to compute on.

    Raises:
        ValueError: a file is missing or holds no MLN.
    """
    curves = {}
    for name, path in paths.items():
        network = _load(path, MLN, device)
        curves[name] = AdaptingMLN(network, _adaptation(path, network, steps, inner_lr))
    return curves


def load_sweep(
    teachers: Mapping[int, Path],
    students: Mapping[int, Path],
    mln: Path | None,
    *,
    inner_lr: Sequence[float] | None = None,
    device: torch.device | str = "cpu",
) -> dict[tuple[str, int], SweptMethod]:
    """Load the networks of Fig. 9b.

    Args:
        teachers: weights of MRDA_T by the number of steps that each was trained with, and is measured with.
        students: weights of MRDA_S, by the same number.
        mln: weights of the MLN that is adapted for the teachers.
        inner_lr: learning rates of the steps; None takes those of each teacher's training.
        device: device to compute on.

    Raises:
        ValueError: a file is missing or holds another network, or the MLN does not fit a teacher.
    """
    swept: dict[tuple[str, int], SweptMethod] = {}
    for steps, path in sorted(teachers.items()):
        if mln is None:
            raise ValueError("teachers need the weights of an MLN, whose features they read")
        teacher, network = _load(path, MRDATeacher, device), _load(mln, MLN, device)
        if (network.scale, network.num_feat) != (teacher.scale, teacher.den.in_channels):
            raise ValueError(
                f"{mln} is an MLN of scale {network.scale} with {network.num_feat} features, but must have scale "
                f"{teacher.scale} and {teacher.den.in_channels} features as {path} requires"
            )
        how = _adaptation(path, teacher, steps, inner_lr)
        swept[TEACHER, steps] = SweptMethod(teacher_method(teacher, network, **how._asdict()), teacher.scale, how)
    for steps, path in sorted(students.items()):
        student = _load(path, MRDAStudent, device)
        swept[STUDENT, steps] = SweptMethod(student_method(student), student.scale)
    return swept


def adaptation_scores(
    mlns: Mapping[str, AdaptingMLN],
    swept: Mapping[tuple[str, int], SweptMethod],
    images: Sequence[Source],
    conditions: Sequence[Condition],
    scale: int,
    *,
    seed: int = 0,
    largest: int = LARGEST_SIDE,
) -> Iterator[AdaptationScore]:
    """Measure both panels of Fig. 9, photo by photo and degradation by degradation.

    Each photo is degraded once, and each MLN adapted to it once with all intermediate results measured. As in
    `mrda.evaluation.protocols.evaluate`, SR is rounded to 8 bits and `scale` pixels are left out along each border.

    Args:
        mlns: the curves of panel a, by name.
        swept: the points of panel b, by series and number of steps.
        images: the HR photos.
        conditions: the degradations.
        scale: scale of the networks.
        seed: seed of the noise.
        largest: see `mrda.paper.figures.photos.read_centre`.

    Yields:
        For each photo and condition the score of bicubic interpolation, those of each MLN after 0, 1, ...
        steps, and those of panel b.

    Raises:
        ImageError: a photo can't be read.
        ValueError: a photo is too small for the blur, or a network makes NaN of it.
    """
    for source in images:
        photo = read_centre(source, multiple=scale, largest=largest)
        for condition in conditions:
            sample = make_sample(photo.image, condition, scale, image=photo.name, seed=seed)

            def score(
                panel: str,
                series: str,
                step: int | None,
                sr: torch.Tensor,
                adaptation: Adaptation | None,
                sample: Sample = sample,
                where: tuple[str, str] = (photo.name, condition.name),
            ) -> AdaptationScore:
                value = float(psnr_y(sr.to(sample.hr), sample.hr, sample.hr.shape[-1] // sample.lr.shape[-1]))
                if math.isnan(value):
                    after = "" if step is None else f" after {step} steps"
                    raise ValueError(f"{where[0]}: the SR of {series}{after} under {where[1]} has NaN values")
                return AdaptationScore(panel, series, step, *where, value, adaptation)

            yield score("a", BASELINE, None, bicubic(sample.lr, scale), None)
            for name, (mln, how) in mlns.items():
                for step, sr in enumerate(mln_steps(mln, **how._asdict())(sample)):
                    yield score("a", name, step, sr, how)
            for (series, step), (method, _, told) in swept.items():
                yield score("b", series, step, method(sample), told)


def mean_adaptation_scores(scores: Sequence[AdaptationScore]) -> list[AdaptationScore]:
    """The means over images and conditions, in order of first appearance; image and condition are `MEAN`."""
    groups: dict[tuple[str, str, int | None], list[AdaptationScore]] = {}
    for one in scores:
        groups.setdefault((one.panel, one.series, one.steps), []).append(one)
    return [
        AdaptationScore(*key, MEAN, MEAN, fmean(one.psnr_y for one in group), group[0].adaptation)
        for key, group in groups.items()
    ]


def save_adaptation(scores: Sequence[AdaptationScore], path: str | Path, *, title: str) -> None:
    """Draw Fig. 9 and write the scores beside it: all of them after the means that are drawn.

    Args:
        scores: as from `adaptation_scores`.
        path: the picture, PNG by its suffix; the CSV has its stem.
        title: the photos and the protocol.

    Raises:
        ValueError: no scores of MLNs or of swept networks.
        ModuleNotFoundError: matplotlib is missing.
    """
    means = mean_adaptation_scores(scores)
    curves, sweeps = _series(means, "a"), _series(means, "b")
    baseline = next((mean.psnr_y for mean in means if mean.steps is None), None)
    panels = [(draw, data) for draw, data in ((_draw_curves, curves), (_draw_sweep, sweeps)) if data]
    if not panels:
        raise ValueError("scores must include an MLN or a swept network")
    figure = new_figure(5.2 * len(panels), 3.9)
    for index, (draw, data) in enumerate(panels):
        axes = figure.add_subplot(1, len(panels), index + 1)
        draw(axes, data, baseline)
        axes.set_ylabel("PSNR-Y (dB)")
        axes.ticklabel_format(axis="y", useOffset=False)  # the PSNR itself, not its distance from another number
        axes.grid(color="#dddddd", linewidth=0.6)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(fontsize=8, frameon=False)
    figure.suptitle(plain(title), fontsize=10)
    figure.tight_layout(w_pad=2.5)
    rows: list[list[Cell]] = []
    for one in (*means, *scores):
        how = one.adaptation
        rates = None if how is None else " ".join(f"{rate:g}" for rate in how.inner_lr)
        frozen = None if how is None else str(how.freeze_upscaler).lower()
        rows.append([one.panel, one.series, one.steps, one.image, one.condition, one.psnr_y, rates, frozen])
    write_csv(csv_beside(path), HEADER, rows)
    save_figure(figure, path)


def _load(path: Path, kind: type[NetworkT], device: torch.device | str) -> NetworkT:
    network = load_weights(path)
    if not isinstance(network, kind):
        raise ValueError(f"{path} holds the network {type(network).__name__}, but must hold an {kind.__name__}")
    return to_channels_last(freeze(network).to(device))


def _adaptation(path: Path, network: Network, steps: int, inner_lr: Sequence[float] | None) -> Adaptation:
    how = recorded_adaptation(path, network)._replace(steps=steps)
    return how if inner_lr is None else how._replace(inner_lr=tuple(inner_lr))


def _series(means: Sequence[AdaptationScore], panel: str) -> dict[str, list[tuple[int, float]]]:
    """The points of each series but bicubic, by rising number of steps."""
    series: dict[str, list[tuple[int, float]]] = {}
    for mean in means:
        if mean.panel == panel and mean.steps is not None:
            series.setdefault(mean.series, []).append((mean.steps, mean.psnr_y))
    return {name: sorted(points) for name, points in series.items()}


def _plot(axes: Axes, series: Mapping[str, Sequence[tuple[int, float]]]) -> None:
    for index, (name, points) in enumerate(series.items()):
        axes.plot(
            [step for step, _ in points],
            [psnr for _, psnr in points],
            label=_LABELS.get(name, plain(name)),
            color=COLOURS[index % len(COLOURS)],
            marker=MARKERS[index % len(MARKERS)],
            markersize=4.5,
            linewidth=1.4,
        )


def _draw_curves(axes: Axes, curves: Mapping[str, Sequence[tuple[int, float]]], baseline: float | None) -> None:
    _plot(axes, curves)
    if baseline is not None:
        axes.axhline(baseline, color="#555555", linestyle="--", linewidth=1.2, label=BASELINE)
    axes.set_xticks(sorted({step for points in curves.values() for step, _ in points}))
    axes.set_xlabel("step of adaptation")
    axes.set_title("(a) the MLN while it is adapted", fontsize=9)


def _draw_sweep(axes: Axes, sweeps: Mapping[str, Sequence[tuple[int, float]]], _: float | None) -> None:
    _plot(axes, sweeps)
    axes.set_xticks(sorted({step for points in sweeps.values() for step, _ in points}))
    axes.set_xlabel("steps of adaptation in training, n")
    axes.set_title("(b) networks trained with n steps", fontsize=9)
