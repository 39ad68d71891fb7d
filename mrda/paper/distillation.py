# SPDX-License-Identifier: Apache-2.0
"""The study of the distillation: which of its choices let the student learn what the teacher knows.

Rows of one optimizer start from the same MLN, for each seed; a teacher and its student take as many steps together as
the network without a teacher, and rows by Adam twice those by Muon. All are measured on the same photos. Rows that are
finished are kept, so that an interrupted study resumes.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from mrda.config import StageName, TrainConfig
from mrda.config.load import load_config
from mrda.config.train import AnyStage, resized
from mrda.core.files import write_text
from mrda.core.markdown import table
from mrda.core.packages import require_package
from mrda.degradations.classic import crop_to_multiple
from mrda.evaluation.methods import (
    AdaptOptions,
    oracle_method,
    student_method,
    teacher_method,
    teacher_representation,
)
from mrda.evaluation.metrics import psnr_y
from mrda.evaluation.protocols import isotropic_conditions
from mrda.evaluation.samples import Method, Sample, make_sample
from mrda.networks import MLN, MRDAOracle, MRDAStudent, MRDATeacher, load_network
from mrda.networks.layers import freeze, to_channels_last
from mrda.options.classic import KERNEL_SIZE
from mrda.paper.figures.canvas import COLOURS, new_figure, require_matplotlib, save_figure
from mrda.paper.probes import batches, blur_probe, idr_probe
from mrda.photo.images import Source, read_rgb, source_name, to_tensor
from mrda.training import STAGES, train
from mrda.training.checkpoints import refusals
from mrda.training.components import upscaler_is_frozen
from mrda.training.stages import StudentStage

_log = logging.getLogger(__name__)

SEEDS = (1, 2)
GAUSSIAN = (1.8, 2.4, 3.2)
"""Blurs that PSNR-Y is measured under: the ends of Gaussian8 and one between."""
WIDE = (0.2, 1.2, 2.4, 4.0)
"""Blurs of the wide protocol: the range of the training."""
SILHOUETTE = (0.8, 1.6, 2.4, 3.2)
"""Blurs that representations are grouped by."""


@dataclass(frozen=True)
class Row:
    """One row of the study.

    Args:
        title: what it is, for the table.
        stage: the stage whose network is measured.
        options: assignments to the base's options.
        teacher: for a student, the row of its teacher.
        encoder: for a student, the share of its steps that the encoder-only phase takes; None for the base's.
        length: its steps as a factor of the base's.
        alone: train it for as long as a teacher and its student together.
        mln: the row whose configuration trains the MLN that it starts from.
    """

    title: str
    stage: StageName
    options: tuple[str, ...] = ()
    teacher: str | None = None
    encoder: float | None = None
    length: float = 1.0
    alone: bool = False
    mln: str = "t2"


_KL = ("student.lambda_abs=0", "student.lambda_kl=1")
_RELEASED = ("student.lambda_kl=1", "student.lambda_abs=0.1")
_SELF = ("adaptation.on=self",)
_FALLING = ("teacher.lr_law=cosine", "teacher.lr_min=1e-5")
_FINAL = ("teacher.den_input=lr", *_FALLING)  # of networks that no student comes after
_TOLD = ("teacher.den_input=kernel", *_FALLING)
_FADING = ("student.distil_share=0.5",)
_NORM = ("networks.den_norm=batch",)
_ADAM = (
    "data.candidates=1",
    *(f"{stage}.{option}" for stage in ("teacher", "student") for option in ("optimizer=adam", "lr=1e-3")),
)
_MUON_ROWS = {
    "t1": Row("T1: DEN reads LR, half the steps", "teacher", _FINAL),
    "s6": Row("S6: DEN reads LR, no teacher", "teacher", _FINAL, alone=True),
    "t3": Row("T3: DEN is told the blur", "teacher", _TOLD, alone=True),
    "t2": Row("T2: teacher with MLN, adapted to another patch", "teacher"),
    "s3": Row("S3: its student, by the L1 distance", "student", (), "t2"),
    "t2_early": Row("T2, a quarter of all steps", "teacher", length=0.5),
    "s3_early": Row("S3 of that teacher, 10 % of it for the encoder", "student", (), "t2_early", 0.1, 1.5),
    "s3_fading": Row("the same, and its distillation fades", "student", _FADING, "t2_early", 0.1, 1.5),
    "t3_early": Row("T3, a quarter of all steps", "teacher", ("teacher.den_input=kernel",), length=0.5),
    "s3_told": Row(
        "S3 of that teacher, its distillation fades",
        "student",
        ("teacher.den_input=kernel", *_FADING),
        "t3_early",
        0.1,
        1.5,
    ),
    "t2_self": Row("T2, MLN adapted to the patch itself", "teacher", _SELF),
    "s3_self": Row("S3, MLN adapted to the patch itself", "student", _SELF, "t2_self"),
    "kdsr_t": Row("teacher of LR and HR, no MLN (KDSR)", "teacher", ("teacher.den_input=lr_hr",)),
    "kdsr_s": Row("its student, released loss", "student", ("teacher.den_input=lr_hr", *_RELEASED), "kdsr_t"),
    "t2_falling": Row("T2, its rate falls to nothing", "teacher", _FALLING),
    "s3_falling": Row("S3 of that teacher", "student", (), "t2_falling"),
    "no_distillation": Row("S3 without distillation", "student", ("student.lambda_kl=0", "student.lambda_abs=0"), "t2"),
    "released_loss": Row("S3, released loss: KL and 0.1 L1", "student", _RELEASED, "t2"),
    "kl": Row("S3, KL alone", "student", _KL, "t2"),
    "kl_16": Row("S3, KL alone, 1/16", "student", ("student.lambda_abs=0", "student.lambda_kl=0.0625"), "t2"),
    "kl_256": Row("S3, KL alone, 1/256", "student", ("student.lambda_abs=0", "student.lambda_kl=0.00390625"), "t2"),
    "kl_soft": Row("S3, KL alone, temperature 1", "student", (*_KL, "student.kl_temperature=1"), "t2"),
    "encoder_12": Row("S3, encoder-only phase of 12 %", "student", (), "t2", 0.12),
    "encoder_50": Row("S3, encoder-only phase of 50 %", "student", (), "t2", 0.5),
    "rdan_3": Row("S3, a third of the rate for RDAN", "student", ("student.rdan_lr_factor=0.3333",), "t2"),
    "rdan_10": Row("S3, a tenth of the rate for RDAN", "student", ("student.rdan_lr_factor=0.1",), "t2"),
    "unclipped": Row("S3, gradients not clipped", "student", ("train.gradient_clip=null",), "t2"),
    "he": Row("S3, DEN by He's rule", "student", ("networks.den_init=he",), "t2"),
    "s6_norm": Row("S6, normalised IDRs", "teacher", (*_FINAL, *_NORM), alone=True),
    "t2_norm": Row("T2, normalised IDRs", "teacher", _NORM),
    "s3_norm": Row("S3, normalised IDRs", "student", _NORM, "t2_norm"),
    "t2_self_norm": Row("T2, the patch itself, normalised IDRs", "teacher", (*_SELF, *_NORM)),
    "s3_self_norm": Row("S3, the patch itself, normalised IDRs", "student", (*_SELF, *_NORM), "t2_self_norm"),
}
_ADAM_ROWS = {
    f"adam_{name}": replace(
        row,
        options=(*_ADAM, *row.options),
        teacher=row.teacher and f"adam_{row.teacher}",
        length=2.0 * row.length,
        mln="adam_t2",
    )
    for name, row in _MUON_ROWS.items()
    if name
    in (
        "t1",
        "s6",
        "t3",
        "t2",
        "s3",
        "t2_early",
        "s3_early",
        "s3_fading",
        "t2_falling",
        "s3_falling",
        "no_distillation",
    )
}
_OURS = (  # unless a row says otherwise
    *("teacher.den_input=features", "adaptation.on=other"),
    *("student.lambda_kl=0", "student.lambda_abs=1", "student.distil_share=null"),
)
ROWS: Mapping[str, Row] = {
    name: replace(row, options=(*_OURS, *row.options)) for name, row in (_MUON_ROWS | _ADAM_ROWS).items()
}
"""The rows by name, in the order of the table."""

BLUR_PROBES = {
    f"{init}, a blur per {per}": ("data.candidates=1", f"networks.den_init={init}", f"degradation.per={per}")
    for init in ("torch", "he", "edges")
    for per in ("batch", "image")
}
"""Trainings of a DEN to read the blur itself from LR, of patches at random, by name."""
FEATURE_PROBES = {"adapted MLN, another patch": "t2", "adapted MLN, the patch itself": "t2_self"}
"""The same from the adapted MLN's features, as the teacher of a row reads them."""
PROBE_STEPS = 400
PROBE_EVERY = 50
IDR_PROBES = ("t2", "t2_self", "kdsr_t")
"""Teachers whose IDR a DEN of the published width is taught from LR alone."""
IDR_PROBE_STEPS = 1200


class Study:
    """The rows' configurations, and their training and measurement in one folder.

    Args:
        base: name or path of the configuration that the rows change.
        run_dir: folder of the study.
        data: photos to measure on, by the name of their set; never trained on.
        seeds: seeds that every row is trained with.
        overrides: overrides of the base, as for `mrda.config.load.load_config`; a row's own options take precedence.
        progress: show progress on the terminal.

    Raises:
        ValueError: a configuration is refused.
    """

    def __init__(
        self,
        base: str | Path,
        run_dir: Path,
        data: Mapping[str, Sequence[Source]],
        *,
        seeds: Sequence[int] = SEEDS,
        overrides: Sequence[str] = (),
        progress: bool = True,
    ) -> None:
        self.base, self.run_dir, self.data, self.seeds = base, run_dir, data, tuple(seeds)
        self.overrides, self.progress = tuple(overrides), progress
        for row in ROWS:
            config = self.config(row, self.seeds[0])
            config.check_stages([ROWS[row].stage])
            size = config.degradation.kernel_size
            if config.teacher.den_input == "kernel" and size != KERNEL_SIZE:
                raise ValueError(
                    f"degradation.kernel_size must be {KERNEL_SIZE}, that of the blurs that are measured, for the row "
                    f"{row}, it was {size}"
                )

    def config(self, row: str, seed: int) -> TrainConfig:
        """The configuration of a row."""
        base = load_config(self.base, [*self.overrides, f"seed={seed}", *ROWS[row].options])
        length, share = ROWS[row].length, ROWS[row].encoder
        teacher, student = _lengthened(base.teacher, length), _lengthened(base.student, length)
        if ROWS[row].alone:
            teacher = _changed(teacher, steps=teacher.steps + student.steps)
        if share is not None:
            student = _changed(student, encoder_steps=round(share * student.steps))
        return base.model_copy(update={"teacher": teacher, "student": student})

    def results(self) -> dict[str, Any]:
        """Train and measure whatever is not there yet; return all results, fit for JSON."""
        blurs = {name: self._kept(f"probe {name}", self._blur_probe, name) for name in (*BLUR_PROBES, *FEATURE_PROBES)}
        rows = {row: [self._result(row, seed) for seed in self.seeds] for row in ROWS}
        return {
            "config": ", ".join([str(self.base), *self.overrides]),
            "seeds": list(self.seeds),
            "photos": {name: len(photos) for name, photos in self.data.items()},
            "blur_probes": blurs,
            "rows": rows,
            "idr_probes": {
                row: [self._kept(f"probe of {row} {seed}", self._idr_probe, row, seed) for seed in self.seeds]
                for row in IDR_PROBES
            },
        }

    def weights(self, row: str, seed: int) -> Path:
        """Train a row, and what it starts from, unless that is done; return its weights."""
        config, stage = self.config(row, seed), ROWS[row].stage
        given = self._inputs(row, seed)
        return train(_starting_from(config, stage, given), self._folder(row, seed), stages=[stage], progress=False)[
            stage
        ]

    def _inputs(self, row: str, seed: int) -> dict[str, Path]:
        config, teacher = self.config(row, seed), ROWS[row].teacher
        given = {}
        if "mln" in STAGES[ROWS[row].stage].inputs(config):
            mln, folder = self.config(ROWS[row].mln, seed), self._folder(f"mln of {ROWS[row].mln}", seed)
            given["mln"] = train(mln, folder, stages=["bicubic", "meta"], progress=False)["meta"]
        if teacher is not None:
            given["teacher"] = self.weights(teacher, seed)
        return given

    def _folder(self, row: str, seed: int) -> Path:
        return self.run_dir / f"seed-{seed}" / row

    def _result(self, row: str, seed: int) -> dict[str, Any]:
        self.weights(row, seed)  # refuses a folder with the weights of other options
        return self._kept(f"{row} {seed}", self._measured, row, seed)

    def _kept(self, name: str, make: Any, *arguments: Any) -> Any:
        """Return a finished result from its file, or make it and write the file."""
        path = self.run_dir / "results" / f"{name}.json"
        if not path.is_file():
            _log.info("distillation: %s", name)
            path.parent.mkdir(parents=True, exist_ok=True)
            write_text(path, json.dumps(make(*arguments), indent=1))
        return json.loads(path.read_text("utf-8"))

    # Measurement

    def _measured(self, row: str, seed: int) -> dict[str, Any]:
        config, weights = self.config(row, seed), self.weights(row, seed)
        network = to_channels_last(freeze(load_network(weights)))
        stage = config.stage(ROWS[row].stage)
        found: dict[str, Any] = {"seed": seed, "optimizer": stage.optimizer, "steps": stage.steps}
        if isinstance(network, MRDATeacher):
            return found | self._measured_teacher(config, network, self._inputs(row, seed).get("mln"))
        assert isinstance(network, MRDAStudent | MRDAOracle)
        found |= self._measured_alone(config, network)
        if ROWS[row].stage == "student":
            found |= self._distilled(config, row, seed, weights)
        return found

    def _measured_alone(self, config: TrainConfig, network: MRDAStudent | MRDAOracle) -> dict[str, Any]:
        """Measure a network that needs no HR, with its own IDRs and with their mean."""

        def read(sample: Sample) -> Tensor:
            if isinstance(network, MRDAStudent):
                return network.degradation(sample.lr)
            assert sample.kernel is not None
            return network.degradation(sample.kernel[None])

        method = student_method(network) if isinstance(network, MRDAStudent) else oracle_method(network)
        found: dict[str, Any] = {"psnr_y": self._psnr(config, method, GAUSSIAN)}
        mean = torch.cat([read(sample) for _, _, sample in self._samples(config, WIDE)]).mean(dim=0, keepdim=True)
        own = self._psnr(config, method, WIDE)
        same = self._psnr(config, lambda sample: network.rdan(sample.lr, mean), WIDE)
        found["cost_of_the_mean_idr"] = {name: own[name] - same[name] for name in own}
        return found | self._told_apart(config, read)

    def _measured_teacher(self, config: TrainConfig, network: MRDATeacher, path: Path | None) -> dict[str, Any]:
        mln: MLN | None = None
        options: AdaptOptions = {}
        if path is not None:
            loaded = load_network(path, expect=MLN)
            assert isinstance(loaded, MLN)
            mln = to_channels_last(freeze(loaded))
            options = {
                "steps": config.adaptation.inner_steps,
                "inner_lr": config.adaptation.inner_lr,
                "clip": config.adaptation.inner_clip,
                "freeze_upscaler": upscaler_is_frozen(config, "teacher"),
            }
        found: dict[str, Any] = {"psnr_y": self._psnr(config, teacher_method(network, mln, **options), GAUSSIAN)}
        return found | self._told_apart(config, teacher_representation(network, mln, **options))

    def _samples(self, config: TrainConfig, blurs: Sequence[float]) -> Iterable[tuple[str, float, Sample]]:
        for name, photos in self.data.items():
            for photo in photos:
                hr = crop_to_multiple(to_tensor(read_rgb(photo)), config.scale)
                for blur, condition in zip(blurs, isotropic_conditions(blurs), strict=True):
                    sample = make_sample(
                        hr,
                        condition,
                        config.scale,
                        image=source_name(photo),
                        seed=config.seed,
                        **config.degradation.resampling,
                    )
                    yield name, blur, sample

    def _psnr(self, config: TrainConfig, method: Method, blurs: Sequence[float]) -> dict[str, float]:
        """Mean PSNR-Y over photos and blurs, by set."""
        found: dict[str, list[float]] = {name: [] for name in self.data}
        with torch.no_grad():
            for name, _, sample in self._samples(config, blurs):
                found[name].append(float(psnr_y(method(sample).float(), sample.hr, config.scale)))
        return {name: fmean(values) for name, values in found.items()}

    def _told_apart(self, config: TrainConfig, represent: Any) -> dict[str, Any]:
        """Silhouette of the raw IDRs by blur, and their first principal component by blur."""
        from sklearn.metrics import silhouette_score

        blurs, vectors = [], []
        with torch.no_grad():
            for _, blur, sample in self._samples(config, SILHOUETTE):
                blurs.append(blur)
                vectors.append(represent(sample)[0].float())
        idrs = torch.stack(vectors)
        centred = idrs - idrs.mean(dim=0)
        component = centred @ torch.linalg.svd(centred, full_matrices=False).Vh[0]
        component = component / component.std()
        # Its sign is arbitrary: more is more blur.
        if component @ (torch.tensor(blurs) - fmean(blurs)) < 0:
            component = -component
        return {
            "silhouette": float(silhouette_score(idrs.numpy(), [str(blur) for blur in blurs])),
            "component": [[blur, round(float(value), 4)] for blur, value in zip(blurs, component, strict=True)],
        }

    def _distilled(self, config: TrainConfig, row: str, seed: int, weights: Path) -> dict[str, Any]:
        """R2 of the teacher's IDR on fresh patches, and gradient norms of the loss's terms, first and last."""
        inputs = self._inputs(row, seed)
        # All terms have a weight there, whatever the row makes of them.
        all_terms = _changed(config.student, encoder_steps=0, distil_share=None, lambda_abs=1)
        first, last = (StudentStage(config.model_copy(update={"student": all_terms}), inputs) for _ in range(2))
        last.network.load_state_dict(load_network(weights).state_dict())
        fresh = list(islice(batches(config, "distillation", last), 16))
        with torch.no_grad():
            known = torch.cat([last.target(batch) for batch in fresh])
            read = torch.cat([last.network.degradation(batch.lr) for batch in fresh])
        norms = {}
        for when, stage in (("first", first), ("last", last)):
            terms = stage.loss(0, fresh[0])
            norms[when] = {
                f"{term} at {part}": _norm(terms[term], list(getattr(stage.network, part).parameters()))
                for term in ("kl", "abs", "l1")
                for part in ("den", "rdan")
            }
        return {"r2": float(1 - (read - known).square().mean() / known.var(dim=0).mean()), "gradient_norms": norms}

    def _blur_probe(self, name: str) -> list[list[float]]:
        row = FEATURE_PROBES.get(name)
        options = BLUR_PROBES[name] if row is None else ("data.candidates=1", *ROWS[row].options)
        mln = None if row is None else self._inputs(row, self.seeds[0])["mln"]
        config = load_config(self.base, [*self.overrides, *options])
        fresh = load_config(self.base, [*self.overrides, *options, "degradation.per=image"])
        return blur_probe(config, fresh, steps=PROBE_STEPS, every=PROBE_EVERY, mln=mln)

    def _idr_probe(self, row: str, seed: int) -> list[float]:
        inputs = self._inputs(row, seed) | {"teacher": self.weights(row, seed)}
        return idr_probe(self.config(row, seed), inputs, steps=IDR_PROBE_STEPS)


def _starting_from(config: TrainConfig, stage: StageName, inputs: Mapping[str, Path]) -> TrainConfig:
    section = config.stage(stage).model_copy(update={f"init_{name}": path for name, path in inputs.items()})
    return config.model_copy(update={stage: section})


def _lengthened(stage: AnyStage, factor: float) -> AnyStage:
    """Return a stage with a multiple of its steps and schedules, but for the warmup."""
    return resized(stage, max(1, round(factor * stage.steps)), kept=["warmup_steps"])


def _changed(stage: AnyStage, **options: int | None) -> AnyStage:
    return type(stage).model_validate(stage.model_dump() | options)


def _norm(term: Tensor, parameters: Sequence[Tensor]) -> float:
    gradients = torch.autograd.grad(term, parameters, retain_graph=True, allow_unused=True)
    return float(
        torch.stack([gradient.norm() for gradient in gradients if gradient is not None] or [torch.zeros(())]).norm()
    )


# Report


def ablate(
    base: str | Path,
    run_dir: str | Path,
    data: Mapping[str, Sequence[Source]],
    *,
    seeds: Sequence[int] = SEEDS,
    overrides: Sequence[str] = (),
) -> str:
    """Train and measure all rows; writes ``distillation.json``, ``.md`` and two pictures into ``run_dir``.

    Args:
        base: name or path of the configuration that the rows change.
        run_dir: folder of the study; made if missing.
        data: photos to measure on, by the name of their set; never trained on.
        seeds: seeds that every row is trained with.
        overrides: overrides of the base; a row's own options take precedence.

    Returns:
        The table, as Markdown.

    Raises:
        RunRefusedError: (a ValueError) what `load_config` and `train` refuse.
        ModuleNotFoundError: scikit-learn or matplotlib is missing; the message names the extra that brings it.
        FloatingPointError: a training diverged.
    """
    require_package("sklearn", name="scikit-learn", user="the ablation study", extra="figures")
    require_matplotlib()
    folder = Path(run_dir)
    with refusals():
        study = Study(base, folder, data, seeds=seeds, overrides=overrides)
    results = study.results()
    write_text(folder / "distillation.json", json.dumps(results, indent=1) + "\n")
    write_text(folder / "distillation.md", markdown(results))
    draw(results, folder)
    return markdown(results)


def markdown(results: Mapping[str, Any]) -> str:
    """The table of the rows: means over seeds, and in brackets the seeds' own values where they decide."""
    sets = list(results["photos"])
    header = (
        "Row",
        "optimizer, steps",
        *(f"PSNR-Y {name}" for name in sets),
        "silhouette",
        "cost of the mean IDR",
        "R2 of the IDR",
    )
    lines = []
    for row, found in results["rows"].items():
        cells = [ROWS[row].title, f"{found[0]['optimizer'].capitalize()}, {found[0]['steps']}"]
        for name in sets:
            values = [one["psnr_y"][name] for one in found]
            cells.append(f"{fmean(values):.2f} ({', '.join(f'{value:.2f}' for value in values)})")
        cells.append(f"{fmean(one['silhouette'] for one in found):.2f}")
        costs = [one.get("cost_of_the_mean_idr") for one in found]
        cells.append(
            "" if costs[0] is None else " / ".join(f"{fmean(cost[name] for cost in costs):.2f}" for name in sets)
        )
        cells.append("" if "r2" not in found[0] else f"{fmean(one['r2'] for one in found):.2f}")
        lines.append(cells)
    return table(header, lines, left=1)


def draw(results: Mapping[str, Any], folder: Path) -> None:
    """Draw what a DEN reads of the blur while it learns, and the networks' IDRs by blur."""
    figure = new_figure(8, 3.5)
    axes = figure.subplots()
    for number, (name, points) in enumerate(results["blur_probes"].items()):
        colour, style = COLOURS[number // 2], ("--", "-")[number % 2]
        axes.plot(*zip(*points, strict=True), color=colour, linestyle=style, label=name)
    axes.set(xlabel="steps", ylabel="R2 of the blur, fresh patches", ylim=(-0.3, 1))
    axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    axes.grid(alpha=0.3)
    save_figure(figure, folder / "blur-probe.png")

    shown = [row for row in ("t2", "s3", "s3_fading", "s3_self", "kdsr_s", "s6") if row in results["rows"]]
    figure = new_figure(2.4 * len(shown), 2.8)
    for axes, row in zip(figure.subplots(1, len(shown), sharey=True, squeeze=False)[0], shown, strict=True):
        points = results["rows"][row][0]["component"]
        axes.plot(*zip(*points, strict=True), "o", color=COLOURS[0], markersize=3, alpha=0.5)
        axes.set(title=row.replace("_", " "), xlabel="blur (px)")
        axes.grid(alpha=0.3)
    save_figure(figure, folder / "idr-by-blur.png")
