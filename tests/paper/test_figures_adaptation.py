import csv
import json
from statistics import fmean

import numpy as np
import pytest
import torch
from PIL import Image

from mrda.evaluation.methods import mln_method, student_method, teacher_method
from mrda.evaluation.methods_loading import Adaptation
from mrda.evaluation.protocols import evaluate, isotropic_conditions
from mrda.evaluation.samples import Condition
from mrda.networks import MLN, MRDAStudent, MRDATeacher, adaptation, save_network
from mrda.paper.figures.adaptation import (
    BASELINE,
    HEADER,
    MEAN,
    STUDENT,
    TEACHER,
    AdaptingMLN,
    adaptation_scores,
    load_curves,
    load_sweep,
    mean_adaptation_scores,
    save_adaptation,
)

CONDITIONS = [*isotropic_conditions([0.8]), Condition("noise", None, 10.0)]
SMALL = {"scale": 2, "num_feat": 8, "num_blocks": 1, "den_width": 4}


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "SetA"
    folder.mkdir()
    for index, name in enumerate(("a", "b")):
        levels = np.random.default_rng(index).integers(0, 256, (30, 37, 3), dtype=np.uint8)
        Image.fromarray(levels).save(folder / f"{name}.png")
    return sorted(folder.iterdir())


@pytest.fixture
def mln():
    torch.manual_seed(0)
    return MLN(scale=2, num_feat=6, num_body=2)


@pytest.fixture
def files(tmp_path, mln):
    torch.manual_seed(1)
    recipe = json.dumps({"meta.inner_lr": [0.5, 0.25], "freeze_upscaler": "none"})
    save_network(mln, tmp_path / "mln.safetensors", recipe=recipe)
    recipe = json.dumps({"adaptation.inner_lr": [0.125], "freeze_upscaler": "all"})
    save_network(MRDATeacher(mln_feat=6, **SMALL), tmp_path / "teacher.safetensors", recipe=recipe)
    save_network(MRDAStudent(**SMALL), tmp_path / "student.safetensors")
    return tmp_path


def rows_of(path):
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("frozen", [True, False])
def test_curve_is_that_of_the_mln_method_at_each_step(photos, mln, frozen):
    # Rates at which a step changes the result by far more than rounding to 8 bits could.
    rates = (2.0, 1.0)
    how = {"inner_lr": rates, "freeze_upscaler": frozen}
    methods = {f"mln {steps}": mln_method(mln, steps=steps, **how) for steps in range(4)}
    expected = list(evaluate(methods, photos, CONDITIONS, 2))
    curve = AdaptingMLN(mln, Adaptation(3, rates, frozen))
    scores = list(adaptation_scores({"mln": curve}, {}, photos, CONDITIONS, 2))
    assert [(one.image, one.condition) for one in scores] == [(one.image, one.condition) for one in expected]
    assert [one.psnr_y for one in scores] == [one.psnr_y for one in expected]
    assert [one.steps for one in scores] == [None, 0, 1, 2, 3] * 4
    assert len({one.psnr_y for one in scores if one.series == "mln"}) == 16


def test_each_sample_is_adapted_once(photos, mln, monkeypatch):
    calls = []
    adapt = adaptation.adapt
    monkeypatch.setattr(
        "mrda.networks.adaptation.adapt", lambda *args, **kw: (calls.append(kw["steps"]), adapt(*args, **kw))
    )
    curve = AdaptingMLN(mln, Adaptation(5, (0.01,), True))
    list(adaptation_scores({"mln": curve}, {}, photos, CONDITIONS, 2))
    assert calls == [5] * 4


def test_networks_are_adapted_as_they_were_in_training(files):
    curves = load_curves({"meta": files / "mln.safetensors"}, steps=7)
    assert curves["meta"].adaptation == Adaptation(7, (0.5, 0.25), False)
    paths = {1: files / "teacher.safetensors"}
    swept = load_sweep(paths, {3: files / "student.safetensors"}, files / "mln.safetensors")
    assert {key: point.adaptation for key, point in swept.items()} == {
        (TEACHER, 1): Adaptation(1, (0.125,), True),
        (STUDENT, 3): None,
    }
    curves = load_curves({"meta": files / "mln.safetensors"}, steps=7, inner_lr=[0.75])
    assert curves["meta"].adaptation == Adaptation(7, (0.75,), False)
    swept = load_sweep(paths, {}, files / "mln.safetensors", inner_lr=[0.75])
    assert swept[TEACHER, 1].adaptation == Adaptation(1, (0.75,), True)


def test_teachers_are_measured_with_the_steps_of_their_training(files, photos, mln):
    teacher_file = files / "teacher.safetensors"
    swept = load_sweep(
        {2: teacher_file, 0: teacher_file}, {1: files / "student.safetensors"}, files / "mln.safetensors"
    )
    scores = [one for one in adaptation_scores({}, swept, photos, CONDITIONS, 2) if one.panel == "b"]
    torch.manual_seed(1)
    teacher, student = MRDATeacher(mln_feat=6, **SMALL), MRDAStudent(**SMALL)
    methods = {
        "t0": teacher_method(teacher, mln, steps=0),
        "t2": teacher_method(teacher, mln, steps=2, inner_lr=(0.125,)),
        "s1": student_method(student),
    }
    expected = [one.psnr_y for one in evaluate(methods, photos, CONDITIONS, 2) if one.method != "bicubic"]
    # Loaded networks lie in memory channels last, so that some pixel may be rounded the other way: of these photos of
    # noise (832 pixels are measured, PSNR below 15 dB) one level of one is worth 2e-4 dB at most.
    assert [one.psnr_y for one in scores] == pytest.approx(expected, abs=1e-3)
    assert [(one.series, one.steps) for one in scores[:3]] == [(TEACHER, 0), (TEACHER, 2), (STUDENT, 1)]


def test_csv_has_every_point_and_every_measurement(files, photos, tmp_path):
    pytest.importorskip("matplotlib")
    curves = load_curves({"meta": files / "mln.safetensors", "other": files / "mln.safetensors"}, steps=2)
    swept = load_sweep({}, {1: files / "student.safetensors", 5: files / "student.safetensors"}, None)
    scores = list(adaptation_scores(curves, swept, photos, CONDITIONS, 2))
    save_adaptation(scores, tmp_path / "f.png", title="SetA")
    rows = rows_of(tmp_path / "f.csv")
    assert tuple(rows[0]) == HEADER
    points = 1 + 2 * 3 + 2
    assert len(rows) == points * (1 + 2 * 2)
    means, measured = rows[:points], rows[points:]
    for row in means:
        key = [row[name] for name in ("panel", "series", "steps")]
        values = [float(one["psnr_y"]) for one in measured if [one[name] for name in HEADER[:3]] == key]
        assert len(values) == 4
        assert (row["image"], row["condition"]) == (MEAN, MEAN)
        assert float(row["psnr_y"]) == fmean(values)
    assert [float(row["psnr_y"]) for row in measured] == [one.psnr_y for one in scores]
    assert {row["inner_lr"] for row in rows if row["series"] == "meta"} == {"0.5 0.25"}
    assert {row["freeze_upscaler"] for row in rows if row["series"] == "meta"} == {"false"}
    assert {row["steps"] for row in rows if row["series"] == BASELINE} == {""}
    with Image.open(tmp_path / "f.png") as picture:
        picture.load()
    assert {path.name for path in tmp_path.glob("*f.*")} == {"f.png", "f.csv"}


def test_panels_are_drawn_as_there_are_data(files, photos, tmp_path):
    pytest.importorskip("matplotlib")
    curves = load_curves({"_$a_": files / "mln.safetensors"}, steps=1)
    swept = load_sweep({}, {1: files / "student.safetensors"}, None)
    widths = []
    for panel_a, panel_b in ((curves, {}), ({}, swept), (curves, swept)):
        scores = list(adaptation_scores(panel_a, panel_b, photos[:1], CONDITIONS[:1], 2))
        save_adaptation(scores, tmp_path / "f.png", title="$")
        with Image.open(tmp_path / "f.png") as picture:
            widths.append(picture.width)
    assert min(widths[2] - widths[0], widths[2] - widths[1]) > 0.7 * max(widths[:2])


def test_means_need_not_be_of_neighbours():
    scores = list(mean_adaptation_scores([]))
    assert scores == []
    with pytest.raises(ValueError, match="must include an MLN"):
        save_adaptation([], "nowhere/f.png", title="")


def test_nan_is_refused_with_the_step(photos, mln):
    curve = AdaptingMLN(mln, Adaptation(2, (1e30,), True))
    with pytest.raises(ValueError, match=r"a: the SR of mln after \d steps under sigma=0.8 has NaN"):
        list(adaptation_scores({"mln": curve}, {}, photos, CONDITIONS, 2))


def test_wrong_networks_are_refused(files):
    student, teacher, mln = (files / f"{name}.safetensors" for name in ("student", "teacher", "mln"))
    with pytest.raises(ValueError, match=r"student.safetensors holds the network MRDAStudent, but must hold an MLN"):
        load_curves({"x": student}, steps=1)
    with pytest.raises(ValueError, match="MLN, but must hold an MRDATeacher"):
        load_sweep({1: mln}, {}, mln)
    with pytest.raises(ValueError, match="MRDATeacher, but must hold an MRDAStudent"):
        load_sweep({}, {1: teacher}, None)
    with pytest.raises(ValueError, match="teachers need the weights of an MLN"):
        load_sweep({1: teacher}, {}, None)
    save_network(MLN(scale=2, num_feat=5, num_body=1), files / "other.safetensors")
    with pytest.raises(ValueError, match="5 features, but must have scale 2 and 6 features"):
        load_sweep({1: teacher}, {}, files / "other.safetensors")
