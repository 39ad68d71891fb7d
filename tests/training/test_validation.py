import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from PIL import Image
from safetensors.torch import load_file

from mrda.config import STAGES, TrainConfig
from mrda.degradations import crop_to_multiple
from mrda.evaluation.methods import bicubic_method, student_method
from mrda.evaluation.metrics import psnr_y, ssim_y
from mrda.evaluation.protocols import conditions
from mrda.evaluation.samples import make_sample
from mrda.networks import MRDAStudent, load_network, read_metadata
from mrda.photo.images import read_rgb, to_tensor
from mrda.training import RunRefusedError, train
from mrda.training.processes import Processes
from mrda.training.stages import BicubicStage
from mrda.training.validation import Validation, centre, evenly, protocol_conditions

Changed = Callable[..., TrainConfig]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three photos of 44 x 37 px."""
    path = tmp_path / "photos"
    (path / "deep").mkdir(parents=True)
    for number, name in enumerate(("a.png", "b.png", "deep/c.png")):
        levels = np.random.default_rng(number).integers(0, 256, (37, 44, 3), dtype=np.uint8)
        Image.fromarray(levels).save(path / name)
    return path


@pytest.fixture
def config(toy: TrainConfig, folder: Path, changed: Changed) -> TrainConfig:
    return changed(toy, validation={"sources": [str(folder)], "every": 2, "images": 2, "conditions": 2, "crop": 36})


def processes() -> Processes:
    return Processes(Accelerator(mixed_precision="no"), None)


def test_the_scores_are_means_over_photos_and_degradations(config: TrainConfig, folder: Path, tmp_path: Path) -> None:
    weights = train(config, tmp_path / "run", progress=False)["student"]
    student = load_network(weights)
    assert isinstance(student, MRDAStudent)
    scores: dict[str, list[tuple[float, float]]] = {"bicubic": [], "student": []}
    for name in ("a", "b"):
        hr = crop_to_multiple(to_tensor(read_rgb(folder / f"{name}.png"))[..., :36, 4:40], 2)
        for condition in (conditions("gaussian8", 2)[0], conditions("gaussian8", 2)[7]):
            sample = make_sample(hr, condition, 2, image=name)
            for label, method in (("bicubic", bicubic_method(2)), ("student", student_method(student))):
                sr = method(sample)
                scores[label].append((float(psnr_y(sr, hr, 2)), float(ssim_y(sr, hr, 2))))
    records = [json.loads(line) for line in (weights.parent / "log.jsonl").read_text().splitlines()]
    found = [record for record in records if "validation" in record]
    assert [record["step"] for record in found] == [2, 4, 6]
    last = found[-1]["validation"]
    # The same computations, except for the layout of the weights in memory.
    assert last["psnr_y"] == pytest.approx(fmean(psnr for psnr, _ in scores["student"]), abs=1e-4)
    assert last["ssim_y"] == pytest.approx(fmean(ssim for _, ssim in scores["student"]), abs=1e-5)
    assert last["psnr_y_bicubic"] == pytest.approx(fmean(psnr for psnr, _ in scores["bicubic"]), abs=1e-9)


def test_the_best_weights_are_kept(config: TrainConfig, tmp_path: Path, changed: Changed) -> None:
    # At this rate every step makes the network worse, so that the first validation is the best.
    worse = changed(config, bicubic={"steps": 6, "lr": 1.0}, train={"keep_checkpoints": 9})
    weights = train(worse, tmp_path, stages=["bicubic"], progress=False)["bicubic"]
    records = [json.loads(line) for line in (weights.parent / "log.jsonl").read_text().splitlines()]
    psnr = {record["step"]: record["validation"]["psnr_y"] for record in records if "validation" in record}
    best = max(psnr, key=lambda step: psnr[step])
    assert best != 6
    metadata = read_metadata(weights.parent / "best.safetensors")
    assert (metadata["step"], metadata["psnr_y"]) == (str(best), f"{psnr[best]:.4f}")
    final = read_metadata(weights)
    assert final["step"] == "6"
    for known in (metadata, final):
        assert (known["architecture"], known["scale"], known["stage"]) == ("MLN", str(worse.scale), "bicubic")
        assert known["data"] == "waves.png"
        assert json.loads(known["recipe"])["bicubic.lr"] == 1.0
        recipe = json.dumps(json.loads(known["recipe"]), sort_keys=True)
        assert known["config_hash"] == hashlib.sha256(recipe.encode()).hexdigest()
    saved = load_file(weights.parent / "checkpoints" / f"step-{best:08d}" / "network.safetensors")
    torch.testing.assert_close(load_file(weights.parent / "best.safetensors"), saved, rtol=0, atol=0)


def test_every_stage_is_validated_and_the_mln_shows_its_curve(config: TrainConfig, tmp_path: Path) -> None:
    weights = train(config, tmp_path, progress=False)
    for name in STAGES:
        records = [json.loads(line) for line in (weights[name].parent / "log.jsonl").read_text().splitlines()]
        curves = [record["validation"].get("adaptation_curve") for record in records if "validation" in record]
        assert len(curves) >= 2
        assert all((curve is not None) == (name == "meta") for curve in curves)
        assert all(len(curve) == 6 for curve in curves if curve)
        assert list((weights[name].parent / "tensorboard").iterdir())


def test_a_validation_moves_nothing(config: TrainConfig, tmp_path: Path, changed: Changed) -> None:
    plain = changed(config, validation={"sources": []})
    with_it, without = (
        train(each, tmp_path / str(number), progress=False) for number, each in enumerate((config, plain))
    )
    for name in STAGES:
        torch.testing.assert_close(load_file(with_it[name]), load_file(without[name]), rtol=0, atol=0)
        assert not (without[name].parent / "best.safetensors").exists()


def test_pictures_are_bicubic_sr_and_hr_side_by_side(config: TrainConfig, folder: Path) -> None:
    validation = Validation(config)
    stage = BicubicStage(config, {})
    found = validation.measure(stage, stage.network, processes())
    assert {name: picture.shape for name, picture in found.pictures.items()} == {
        "a": (3, 36, 108),
        "b": (3, 36, 108),
    }
    hr = read_rgb(folder / "a.png")[:36, 4:40].transpose(2, 0, 1)
    np.testing.assert_array_equal(found.pictures["a"][:, :, 72:], hr)


@pytest.mark.parametrize(
    ("degradation", "protocol", "names"),
    [
        ({"kernel": "isotropic"}, "auto", [c.name for c in conditions("gaussian8", 2)]),
        ({"kernel": "none"}, "auto", ["bicubic"]),
        ({"kernel": "anisotropic"}, "auto", [c.name for c in conditions("mrda9", 2)[:9]]),
        ({"kernel": "anisotropic", "noise_range": [0, 25]}, "auto", [c.name for c in conditions("mrda9", 2)]),
        ({"kernel": "isotropic"}, "dasr9", [c.name for c in conditions("dasr9", 2)]),
    ],
)
def test_the_protocol_follows_the_training(
    degradation: dict[str, Any], protocol: str, names: list[str], toy: TrainConfig, changed: Changed
) -> None:
    config = changed(toy, degradation=degradation, validation={"protocol": protocol})
    assert [condition.name for condition in protocol_conditions(config)] == names


def test_conditions_are_thinned_evenly() -> None:
    eight = conditions("gaussian8", 4)
    assert evenly(eight, 9) == eight
    assert evenly(eight, 3) == [eight[0], eight[4], eight[7]]
    assert evenly(eight, 1) == [eight[4]]


def test_a_crop_is_the_centre_or_what_there_is() -> None:
    image = torch.arange(35.0).reshape(1, 1, 5, 7)
    assert torch.equal(centre(image, 3), image[..., 1:4, 2:5])
    assert torch.equal(centre(image, 6), image[..., 0:6])
    assert centre(image, None) is image


@pytest.mark.parametrize(("scale", "least"), [(2, 16), (3, 18), (4, 20)])
def test_a_crop_that_is_too_small_is_told_as_such(
    scale: int, least: int, config: TrainConfig, changed: Changed
) -> None:
    fits = changed(config, scale=scale, validation={"crop": least})
    assert len(Validation(fits).photos) == 2
    with pytest.raises(ValueError, match=rf"^validation\.crop must be at least {least} px at scale {scale}, it was"):
        Validation(changed(fits, validation={"crop": least - 1}))


def test_the_fingerprint_tells_what_the_scores_depend_on(config: TrainConfig, folder: Path, changed: Changed) -> None:
    known = Validation(config).fingerprint
    assert Validation(changed(config, validation={"every": 1, "pictures": 0})).fingerprint == known
    both = [str(folder / "a.png"), str(folder / "b.png")]
    assert Validation(changed(config, validation={"sources": both})).fingerprint == known
    changes: list[dict[str, Any]] = [{"seed": 2}, {"degradation": {"border": "mirror"}}, {"validation": {"images": 1}}]
    for change in changes:
        assert Validation(changed(config, **change)).fingerprint != known
    Image.open(folder / "b.png").rotate(180).save(folder / "b.png")  # the name and the size stay
    assert Validation(config).fingerprint != known


def test_unusable_photos_are_refused_before_any_training(config: TrainConfig, tmp_path: Path, changed: Changed) -> None:
    Image.new("RGB", (13, 40)).save(tmp_path / "small.png")
    for source, message in (("missing.png", "there is no such file"), ("small.png", "at least 15 px high and wide")):
        bad = changed(config, validation={"sources": [str(tmp_path / source)]})
        with pytest.raises(RunRefusedError, match=message):
            train(bad, tmp_path / "run", progress=False)
        assert not (tmp_path / "run" / "bicubic").exists()
