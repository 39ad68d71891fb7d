# SPDX-License-Identifier: Apache-2.0
"""The ablation study of Tables V and VI at a budget of your choice, and a check of the paper's orderings."""

from __future__ import annotations

import json
import logging
import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mrda.config import StageName, TrainConfig
from mrda.config.load import descriptions
from mrda.core.files import write_text
from mrda.core.packages import require_package
from mrda.degradations.classic import crop_to_multiple
from mrda.evaluation.methods import mln_steps, oracle_method, student_method, teacher_method
from mrda.evaluation.paper import paper
from mrda.evaluation.protocols import Record, conditions, evaluate, isotropic_conditions, measure
from mrda.evaluation.samples import Condition, Method, make_sample
from mrda.evaluation.tables import summarise
from mrda.networks import MLN, MRDAOracle, MRDAStudent, MRDATeacher, load_network
from mrda.options.classic import KERNEL_SIZE
from mrda.paper.ablation_rows import FIRST, ROWS, TABLE_5, TABLE_6, Study
from mrda.paper.figures.tsne import load_representation, representations
from mrda.photo.images import SKIMAGE_PREFIX, Source, read_rgb, source_name, to_tensor
from mrda.training.checkpoints import refusals
from mrda.training.components import upscaler_is_frozen

_log = logging.getLogger(__name__)

TABLE_6_SIGMAS = (0.0, 1.2, 2.4, 3.6)
SILHOUETTE_SIGMAS = (0.8, 1.6, 2.4, 3.2)
TOLERANCE = 0.01
"""Difference in dB that no photo shows."""


@dataclass(frozen=True)
class Row:
    """One row of the study.

    Args:
        name: name of its configuration, without ``ablation/``.
        steps: optimizer steps in which its RDAN moved, over all stages.
        psnr_y: mean over photos and conditions, in dB, for each seed.
        psnr_y_paper: the paper's number for its own training and photos (Table VI: the mean of its numbers).
        by_condition: means over photos and seeds.
    """

    name: str
    steps: int
    psnr_y: list[float]
    psnr_y_paper: float
    by_condition: dict[str, float]


@dataclass(frozen=True)
class Ordering:
    """An ordering in the paper's numbers, and what this study says of it.

    Args:
        statement: the ordering, left above right.
        left: means over seeds.
        right: the same.
        doubt: difference up to which nothing is decided: the tolerance, or twice the standard error of the mean
            difference over the seeds if that is larger.
    """

    statement: str
    left: float
    right: float
    doubt: float

    @property
    def verdict(self) -> str:
        """``held``, ``not held``, or ``undecided`` if the difference is within the doubt."""
        if abs(self.left - self.right) <= self.doubt:
            return "undecided"
        return "held" if self.left > self.right else "not held"


@dataclass(frozen=True)
class Report:
    """Results of a study.

    Args:
        config: the configuration that the rows extend, and the changes to it.
        budget: steps per stage.
        data: names of the photos.
        seeds: the seeds that every row was trained with.
        rows: rows of Table V, then those of Table VI.
        curves: PSNR-Y of the bicubic-trained and the meta-learned MLN after 0, 1, ... steps of adaptation, by seed.
        silhouettes: silhouette scores of raw IDRs by sigma, for each seed; empty with less than two photos.
        orderings: the paper's orderings, checked here.
    """

    config: str
    budget: int
    data: list[str]
    seeds: list[int]
    rows: list[Row]
    curves: dict[str, list[list[float]]]
    silhouettes: dict[str, list[float]]
    orderings: list[Ordering]


def ablate(
    base: str | Path,
    budget: int,
    run_dir: str | Path,
    data: Iterable[Source],
    *,
    overrides: Sequence[str] = (),
    preset: str = "recommended",
    seeds: int = 1,
    tolerance: float = TOLERANCE,
    progress: bool = True,
) -> Report:
    """Train every row of Tables V and VI and measure it; writes ``ablation.json`` and ``ablation.md`` into ``run_dir``.

    Rows share the stages that are equal for them: as a rule the MLN; S1 to S3 share the teacher T2, which is also the
    row "fixed upscaler". Every stage takes ``budget`` steps, except for S6, which has no teacher to start from and
    takes as many steps as the RDAN of S3 in total (the paper prints T1's number for it). An interrupted study
    resumes. The log names each row before its work.

    Args:
        base: name or path of the configuration that the rows change; sizes and photos for training are its.
        budget: optimizer steps of every stage.
        run_dir: folder of the study; made if missing.
        data: photos to measure on, never trained on.
        overrides: overrides of the base, as for `mrda.config.load.load_config`; a row's own options take precedence.
        preset: below the base, as for `mrda.config.load.load_config`.
        seeds: how often everything is trained, with the configuration's seed and the numbers after it; the folders
            ``seed-N`` in ``run_dir`` hold all but the first.
        tolerance: difference up to which an ordering is undecided, in dB (or in units of the silhouette score).
        progress: show progress on the terminal.

    Raises:
        RunRefusedError: (a ValueError) before any work, what `load_config` and `train` refuse, rows that would be the
            same, or a photo that is unreadable, too small or trained on.
        ModuleNotFoundError: scikit-learn is missing; the message names the extra that brings it.
        FloatingPointError: a training diverged.
    """
    require_package("sklearn", name="scikit-learn", user="the ablation study", extra="figures")
    photos = list(data)
    with refusals():
        first = Study(base, budget, Path(run_dir), overrides, preset, progress)
        _check(first.configs["t3"], photos)
        start = first.configs["s3"].seed
        studies = [first] + [
            Study(base, budget, Path(run_dir) / f"seed-{seed}", [*overrides, f"seed={seed}"], preset, progress)
            for seed in range(start + 1, start + seeds)
        ]
    measured = [_measure_study(study, photos) for study in studies]
    rows = [
        Row(
            same[0].name,
            same[0].steps,
            [value for row in same for value in row.psnr_y],
            same[0].psnr_y_paper,
            {name: fmean(row.by_condition[name] for row in same) for name in same[0].by_condition},
        )
        for same in zip(*(found.rows for found in measured), strict=True)
    ]
    curves = {name: [found.curves[name] for found in measured] for name in measured[0].curves}
    silhouettes = {name: [found.silhouettes[name] for found in measured] for name in measured[0].silhouettes}
    report = Report(
        config=", ".join([str(base), *([] if preset == "recommended" else [f"preset {preset}"]), *overrides]),
        budget=budget,
        data=[source_name(photo) for photo in photos],
        seeds=[study.configs["s3"].seed for study in studies],
        rows=rows,
        curves=curves,
        silhouettes=silhouettes,
        orderings=orderings({row.name: row.psnr_y for row in rows}, curves, silhouettes, tolerance),
    )
    _write(report, first.run_dir)
    return report


def orderings(
    rows: Mapping[str, Sequence[float]],
    curves: Mapping[str, Sequence[Sequence[float]]],
    silhouettes: Mapping[str, Sequence[float]],
    tolerance: float = TOLERANCE,
) -> list[Ordering]:
    """Check the orderings of the paper's numbers.

    Args:
        rows: PSNR-Y of each row, for each seed.
        curves: as in `Report`.
        silhouettes: as in `Report`.
        tolerance: as for `ablate`.
    """

    def above(statement: str, left: Sequence[float], right: Sequence[float]) -> Ordering:
        differences = [one - other for one, other in zip(left, right, strict=True)]
        error = stdev(differences) / math.sqrt(len(differences)) if len(differences) > 1 else 0.0
        return Ordering(statement, fmean(left), fmean(right), max(tolerance, 2 * error))

    pairs = (("t2", "t1"), ("s3", "s1"), ("s3", "s2"), ("s1", "s6"), ("s2", "s6"))
    found = [above(f"{left.upper()} > {right.upper()}", rows[left], rows[right]) for left, right in pairs]
    others = [values for name, values in rows.items() if name[0] == "s" and name != "s5"]
    worst = [min(values) for values in zip(*others, strict=True)]
    found.append(above("the worst other student > S5", worst, rows["s5"]))
    gains = {
        name: [(values[-1] - values[0]) / max(1, len(values) - 1) for values in curves[name]]
        for name in ("meta", "bicubic")
    }
    found.append(above("meta MLN gains more dB per step than bicubic MLN", gains["meta"], gains["bicubic"]))
    upscalers = rows["fixed_upscaler"], rows["free_upscaler"]
    found.append(above("fixed upscaler > free upscaler (Table VI)", *upscalers))
    if silhouettes:
        found.append(above("silhouette of IDRs: S3 > T1", silhouettes["s3"], silhouettes["t1"]))
    return found


def printed(row: str) -> list[float]:
    """Numbers that the paper prints for a row, in dB: one from Table V, or one for each sigma from Table VI."""
    if row in TABLE_6:
        (found,) = (line for line in paper().table_vi if line.fixed_upscaler == TABLE_6[row])
        return [found.psnr_y[sigma] for sigma in TABLE_6_SIGMAS]
    return [line.psnr_y for line in paper().table_v if line.method == f"MRDA_{row.upper()}"]


def markdown(report: Report) -> str:
    """The report as Markdown."""
    photos = f"{len(report.data)} photo{'s' if len(report.data) != 1 else ''} ({', '.join(report.data)})"
    spread = " +- is the standard deviation over the seeds." if len(report.seeds) > 1 else ""
    lines = [
        f"Configuration {report.config}, {report.budget} steps per stage, "
        f"seed{'s' if len(report.seeds) > 1 else ''} {', '.join(map(str, report.seeds))}, PSNR-Y in dB on {photos}."
        f"{spread} The paper's column is its own training on Urban100.",
        "",
        "| Row | what it is | steps of RDAN | PSNR-Y | paper |",
        "|---|---|---:|---:|---:|",
    ]
    for row in report.rows:
        about = descriptions()[f"ablation/{row.name}"]
        lines.append(f"| {row.name} | {about} | {row.steps} | {_spread(row.psnr_y)} | {row.psnr_y_paper:.2f} |")
    lines += ["", "| Table VI, sigma | " + " | ".join(f"{sigma:g}" for sigma in TABLE_6_SIGMAS) + " |"]
    lines.append("|---|" + "---:|" * len(TABLE_6_SIGMAS))
    for row in report.rows:
        if row.name in TABLE_6:
            for label, values in ((row.name, row.by_condition.values()), ("paper", printed(row.name))):
                lines.append(f"| {label} | {' | '.join(f'{value:.2f}' for value in values)} |")
    curves = {name: [fmean(values) for values in zip(*found, strict=True)] for name, found in report.curves.items()}
    lines += ["", f"| MLN after steps | {' | '.join(str(n) for n in range(len(curves['meta'])))} |"]
    lines.append(f"|---|{'---:|' * len(curves['meta'])}")
    lines += [f"| {name} | {' | '.join(f'{v:.3f}' for v in values)} |" for name, values in curves.items()]
    lines += ["", "| The paper's ordering | here | left | right | undecided up to |", "|---|---|---:|---:|---:|"]
    for ordering in report.orderings:
        verdict = ordering.verdict if ordering.verdict == "held" else f"**{ordering.verdict}**"
        numbers = f"{ordering.left:.4f} | {ordering.right:.4f} | {ordering.doubt:.4f}"
        lines.append(f"| {ordering.statement} | {verdict} | {numbers} |")
    return "\n".join(lines) + "\n"


def _spread(values: Sequence[float]) -> str:
    """Return the mean, with the standard deviation if there are several values."""
    return f"{fmean(values):.3f}" + (f" +- {stdev(values):.3f}" if len(values) > 1 else "")


def _check(oracle: TrainConfig, photos: Sequence[Source]) -> None:
    """Raise ValueError before any training for what would stop the measurement hours later."""
    size, scale = oracle.degradation.kernel_size, oracle.scale
    if size != KERNEL_SIZE:
        raise ValueError(
            f"degradation.kernel_size must be {KERNEL_SIZE}, the test blurs', for the oracle of row t3, it was {size}"
        )
    if not photos:
        raise ValueError("data holds no photo to measure on")
    smallest = 2 * scale + 11  # the border of the metrics and the window of SSIM
    smallest += -smallest % scale
    for photo in photos:
        height, width = read_rgb(photo).shape[:2]
        if min(height, width) < smallest:
            raise ValueError(f"{photo} is {width} x {height} px, but must be at least {smallest} px high and wide")
        for source in oracle.data.sources:
            if _is_of(photo, source):
                raise ValueError(f"{photo} is a training photo, so it can't be measured on")


def _is_of(photo: Source, source: str) -> bool:
    """True if a training source is this photo or contains it."""
    if str(photo).startswith(SKIMAGE_PREFIX) or source.startswith(SKIMAGE_PREFIX):
        return str(photo) == source
    return Path(photo).resolve().is_relative_to(Path(source).resolve())


def _train_rows(study: Study) -> dict[str, Path]:
    """Train every row, and return its weights."""
    _log.info("ablation: MLN: bicubic pretraining and meta-learning")
    study.weights(FIRST, "meta")
    weights: dict[str, Path] = {}
    for row in ROWS:
        _log.info("ablation: %s", row)
        weights[row] = study.final(row)
    return weights


class _Measured(NamedTuple):
    """Results of one seed; see `Report`."""

    rows: list[Row]
    curves: dict[str, list[float]]
    silhouettes: dict[str, float]


def _measure_study(study: Study, photos: Sequence[Source]) -> _Measured:
    """Train the rows of one seed, and measure them."""
    trained = _train_rows(study)
    _log.info("ablation: measuring")
    scale = study.configs["s3"].scale
    told_apart = ("t1", "s3") if len(photos) > 1 else ()
    return _Measured(
        _measure(study, trained, photos),
        {"bicubic": _curve(study, "bicubic", photos), "meta": _curve(study, "meta", photos)},
        {name: _silhouette(scale, trained[name], photos) for name in told_apart},
    )


def _measure(study: Study, trained: Mapping[str, Path], photos: Sequence[Source]) -> list[Row]:
    """Measure all rows; those of one table together, so that they see the same samples."""
    config = study.configs["s3"]
    tables: dict[tuple[str, ...], Sequence[Condition]] = {
        TABLE_5: conditions("gaussian8", config.scale),
        tuple(TABLE_6): isotropic_conditions(TABLE_6_SIGMAS),
    }
    rows = []
    for names, wanted in tables.items():
        methods = {name: _method(study, name, trained[name]) for name in names}
        for name, found in _psnr(config, methods, photos, wanted).items():
            rows.append(Row(name, study.steps(name), [fmean(found.values())], fmean(printed(name)), found))
    return rows


def _method(study: Study, name: str, weights: Path) -> Method:
    config = study.configs[name]
    network = load_network(weights)
    if isinstance(network, MRDATeacher):
        return teacher_method(
            network,
            _load_mln(study.weights(name, "meta")),
            steps=config.adaptation.inner_steps,
            inner_lr=config.adaptation.inner_lr,
            clip=config.adaptation.inner_clip,
            freeze_upscaler=upscaler_is_frozen(config, "teacher"),
        )
    if isinstance(network, MRDAOracle):
        return oracle_method(network)
    assert isinstance(network, MRDAStudent)
    return student_method(network)


def _psnr(
    config: TrainConfig, methods: Mapping[str, Method], photos: Sequence[Source], wanted: Sequence[Condition]
) -> dict[str, dict[str, float]]:
    """Means over photos, by method and condition."""
    measured = evaluate(
        methods, photos, wanted, config.scale, seed=config.seed, names=None, **config.degradation.resampling
    )
    summaries = summarise(measured)
    return {
        name: {condition: scores["psnr_y"] for condition, scores in summaries[name]["per_condition"].items()}
        for name in methods
    }


def _curve(study: Study, stage: StageName, photos: Sequence[Source]) -> list[float]:
    """PSNR-Y of a stage's MLN over Gaussian8 after 0, 1, ... steps of one adaptation to each sample."""
    config = study.configs[FIRST]
    adapting = mln_steps(
        _load_mln(study.weights(FIRST, stage)),
        steps=config.meta.inner_steps,
        inner_lr=config.meta.inner_lr,
        clip=config.meta.inner_clip,
        freeze_upscaler=upscaler_is_frozen(config, "meta"),
    )
    records: list[Record] = []
    for photo in photos:
        hr = crop_to_multiple(to_tensor(read_rgb(photo)), config.scale)
        name = source_name(photo)
        for condition in conditions("gaussian8", config.scale):
            sample = make_sample(
                hr, condition, config.scale, image=name, seed=config.seed, **config.degradation.resampling
            )
            restored = {str(step): _given(sr) for step, sr in enumerate(adapting(sample))}
            records += measure(
                restored,
                sample,
                source=photo,
                image=name,
                condition=condition.name,
                border=config.scale,
                variant="released",
            )
    return [summary["psnr_y"] for summary in summarise(records).values()]


def _given(sr: Tensor) -> Method:
    """A method that returns a finished result."""
    return lambda _: sr


def _load_mln(path: Path) -> MLN:
    mln = load_network(path, expect=MLN)
    assert isinstance(mln, MLN)
    return mln


def _silhouette(scale: int, weights: Path, photos: Sequence[Source]) -> float:
    """Silhouette score (scikit-learn, -1 to 1) of the photos' raw IDRs, grouped by blur."""
    from sklearn.metrics import silhouette_score

    represent = load_representation(weights).represent
    blurs = isotropic_conditions(SILHOUETTE_SIGMAS)
    found = list(representations([represent], photos, blurs, scale, largest=sys.maxsize))
    idrs = torch.stack([idr for _, _, (idr,) in found])
    return float(silhouette_score(idrs.numpy(), [label for _, label, _ in found]))


def _write(report: Report, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    content: dict[str, Any] = asdict(report)
    for entry, ordering in zip(content["orderings"], report.orderings, strict=True):
        entry["verdict"] = ordering.verdict
    write_text(folder / "ablation.json", json.dumps(content, indent=2) + "\n")
    write_text(folder / "ablation.md", markdown(report))
