# SPDX-License-Identifier: Apache-2.0
"""Figs 7 and 8: degradation representations of many photos in the plane, coloured by degradation."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mrda.core.files import write_csv
from mrda.core.packages import require_package
from mrda.evaluation.methods import teacher_representation
from mrda.evaluation.methods_loading import recorded_adaptation
from mrda.evaluation.samples import Condition, Sample, make_sample
from mrda.networks import MLN, MRDAStudent, MRDATeacher
from mrda.networks.layers import freeze
from mrda.paper.figures.canvas import COLOURS, MARKERS, Cell, csv_beside, new_figure, plain, save_figure
from mrda.paper.figures.photos import LARGEST_SIDE, read_centre
from mrda.photo.images import Source
from mrda.upscale.upscaler import load_weights

PERPLEXITY = 30.0
HEADER = ("row", "panel", "photo", "condition", "x", "y", "silhouette", "silhouette_plane", "perplexity")
"""The first columns of the CSV; z0, z1, ... follow, the representation itself."""
_COLOURS = (*COLOURS, "#000000", "#999999")  # eight, for as many different kernels

Represent = Callable[[Sample], Tensor]
"""A sample -> its degradation representation (D,)."""


class Representation(NamedTuple):
    """A network as an encoder of degradations."""

    scale: int | None
    """None if the network works at any scale."""
    represent: Represent
    adapts: bool = False
    """True if an MLN is adapted for it."""


@dataclass(frozen=True)
class Panel:
    """One cloud of points.

    Args:
        name: name of the network.
        row: property that varies in the panel's row.
        photos: N names.
        conditions: the degradations' names, in the order of their colours.
        labels: (N,) place of each point's degradation in `conditions`.
        vectors: (N, D), the representations.
        points: (N, 2), by t-SNE.
        silhouette: scikit-learn's score of the representations by degradation: 1 separated, 0 mixed, -1 misplaced.
        silhouette_plane: that of `points`.
        perplexity: that t-SNE was run with.
    """

    name: str
    row: str
    photos: list[str]
    conditions: list[str]
    labels: npt.NDArray[np.int64]
    vectors: npt.NDArray[np.float32]
    points: npt.NDArray[np.float64]
    silhouette: float
    silhouette_plane: float
    perplexity: float


def require_sklearn() -> None:
    """Check for scikit-learn before any work.

    Raises:
        ModuleNotFoundError: scikit-learn is missing; the message names the extra that brings it.
    """
    require_package("sklearn", name="scikit-learn", user="the figure", extra="figures")


def load_representation(
    weights: str | Path, mln: str | Path | None = None, *, device: torch.device | str = "cpu"
) -> Representation:
    """Load a student, or a teacher with its MLN, as a function from a sample to its raw IDR.

    Args:
        weights: a student (T1, S1..S6 of Table V), or a teacher, for which the MLN is adapted to each sample as the
            file's recipe says.
        mln: the teacher's MLN.
        device: device to compute on.

    Raises:
        ValueError: a file is missing or holds no such weights, or a teacher has no MLN, or one of another width.
    """
    network = load_weights(weights)
    if isinstance(network, MRDAStudent):
        student = freeze(network).to(device)
        return Representation(student.scale, lambda sample: student.degradation(sample.lr.to(device))[0].cpu())
    if not isinstance(network, MRDATeacher):
        kind = type(network).__name__
        raise ValueError(f"{weights} holds an {kind}, but must hold an MRDAStudent or an MRDATeacher")
    adapted: MLN | None = None
    if network.options.den_input == "features":
        if mln is None:
            raise ValueError(f"{weights} holds an MRDATeacher, whose MLN must be given too")
        found, wanted = load_weights(mln), (network.scale, network.den.in_channels)
        if not isinstance(found, MLN) or (found.scale, found.num_feat) != wanted:
            raise ValueError(f"{mln} must hold an MLN of scale {network.scale} and {network.den.in_channels} features")
        adapted = freeze(found).to(device)
    teacher = freeze(network).to(device)
    represent = teacher_representation(teacher, adapted, **recorded_adaptation(weights, network)._asdict())
    return Representation(teacher.scale, lambda sample: represent(sample)[0].cpu(), adapts=adapted is not None)


def representations(
    represent: Sequence[Represent],
    photos: Sequence[Source],
    conditions: Sequence[Condition],
    scale: int,
    *,
    seed: int = 0,
    largest: int = LARGEST_SIDE,
) -> Iterator[tuple[str, int, list[Tensor]]]:
    """Represent every photo under every degradation: the same HR for all of them.

    Args:
        represent: the encoders.
        photos: HR photographs.
        conditions: the degradations.
        scale: the factor between LR and HR.
        seed: seed of the noise.
        largest: see `mrda.paper.figures.photos.read_centre`.

    Yields:
        For each photo and degradation the photo's name, the degradation's place, and the representations (D,), one for
        each of `represent`.

    Raises:
        ImageError: a photo can't be read or is too small.
    """
    for source in photos:
        photo = read_centre(source, multiple=scale, largest=largest)
        for place, condition in enumerate(conditions):
            sample = make_sample(photo.image, condition, scale, image=photo.name, seed=seed)
            with torch.no_grad():
                yield photo.name, place, [one(sample) for one in represent]


def perplexity_of(points: int) -> float:
    """Perplexity for a number of points: 30, or a third of them below 90 points."""
    return min(PERPLEXITY, points / 3)


def embed(
    name: str,
    row: str,
    vectors: Sequence[Tensor],
    photos: Sequence[str],
    labels: Sequence[int],
    conditions: Sequence[str],
    *,
    seed: int = 0,
) -> Panel:
    """Lay representations out in the plane: t-SNE from a PCA, and silhouette scores of the degradations.

    Args:
        name: name of the network.
        row: property that varies.
        vectors: N representations (D,).
        photos: photo of each vector.
        labels: index in `conditions` of each vector's degradation; at least two different ones.
        conditions: names of the degradations.
        seed: seed of t-SNE.

    Raises:
        ValueError: a representation is not finite, all are the same, or there are too few points to tell degradations
            apart.
    """
    from sklearn.manifold import TSNE
    from sklearn.metrics import silhouette_score

    given = torch.stack(list(vectors)).float().numpy()
    matrix = given.astype(np.float64)
    places = np.asarray(labels, dtype=np.int64)
    if not np.isfinite(matrix).all():
        raise ValueError(f"{name} gives representations that are not finite")
    if (matrix == matrix[0]).all():  # scikit-learn divides by their spread, and then crashes on the NaN
        raise ValueError(f"{name} gives all photos the same representation, so that there is nothing to draw")
    if not 2 <= len(set(labels)) < len(labels):
        raise ValueError(f"there are {len(labels)} points of {len(set(labels))} degradations, but must be more of each")
    perplexity = perplexity_of(len(matrix))
    flat = TSNE(init="pca", perplexity=perplexity, random_state=seed).fit_transform(matrix)
    points = np.asarray(flat, dtype=np.float64)
    return Panel(
        name=name,
        row=row,
        photos=list(photos),
        conditions=list(conditions),
        labels=places,
        vectors=given,
        points=points,
        silhouette=float(silhouette_score(matrix, places)),
        silhouette_plane=float(silhouette_score(points, places)),
        perplexity=perplexity,
    )


def save_tsne(rows: Sequence[Sequence[Panel]], path: str | Path, *, title: str) -> None:
    """Draw the panels, a row each for what varies, and write points and representations beside the picture.

    Args:
        rows: panels, in each row of the same conditions.
        path: the picture, PNG.
        title: above all.

    Raises:
        ModuleNotFoundError: matplotlib is missing.
    """
    columns = max(len(row) for row in rows)
    height = 3.5 * len(rows) + 0.5
    figure = new_figure(3.4 * columns + 1.6, height)
    figure.subplots_adjust(top=1 - 0.85 / height, hspace=0.25)
    axes = figure.subplots(len(rows), columns, squeeze=False)
    for line, row in zip(axes, rows, strict=True):
        for cell in line[len(row) :]:
            cell.set_axis_off()
        for cell, panel in zip(line, row, strict=False):
            for place, condition in enumerate(panel.conditions):
                cloud = panel.points[panel.labels == place]
                colour = _COLOURS[place % len(_COLOURS)]
                # After the colours are used up the markers go on, so that no two are alike.
                marker = MARKERS[(place // len(_COLOURS) + place) % len(MARKERS)]
                cell.scatter(*cloud.T, s=14, c=colour, marker=marker, linewidths=0, alpha=0.8, label=plain(condition))
            cell.set_xticks([])
            cell.set_yticks([])
            cell.set_title(
                f"{plain(panel.name)}\nsilhouette {panel.silhouette:.3f} (in the plane {panel.silhouette_plane:.3f})",
                fontsize=9,
            )
        line[0].set_ylabel(plain(row[0].row), fontsize=9)
        last = line[len(row) - 1]
        last.legend(loc="center left", bbox_to_anchor=(1.02, 0.5), fontsize=8, frameon=False, markerscale=1.6)
    figure.suptitle(plain(title), fontsize=10, y=1 - 0.15 / height)
    panels = [panel for row in rows for panel in row]
    widest = max(panel.vectors.shape[1] for panel in panels)
    cells: list[list[Cell]] = [
        [
            *(panel.row, panel.name, photo, panel.conditions[label], float(x), float(y)),
            *(panel.silhouette, panel.silhouette_plane, panel.perplexity),
            # As float32 is written: its digits suffice to read it back, and a double's would double the file.
            *(map(str, vector)),
            *([None] * (widest - len(vector))),
        ]
        for panel in panels
        for photo, label, (x, y), vector in zip(panel.photos, panel.labels, panel.points, panel.vectors, strict=True)
    ]
    write_csv(csv_beside(path), (*HEADER, *(f"z{number}" for number in range(widest))), cells)
    save_figure(figure, path)
