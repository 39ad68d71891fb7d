"""The real-world configuration, end to end at toy size: second-order degradation, discriminator, all stages."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from mrda.config import STAGES, TrainConfig
from mrda.config.load import load_config
from mrda.networks import MRDAStudent, load_network
from mrda.photo.files import Photo, write_photo
from mrda.photo.images import read_rgb, to_eight_bits
from mrda.training import RunRefusedError, train


@pytest.fixture(scope="module")
def real(photo: Path) -> TrainConfig:
    return load_config("real-toy", [f"data.sources=['{photo}']", "train.log_every=1"])


@pytest.fixture(scope="module")
def finished(real: TrainConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = tmp_path_factory.mktemp("real")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ACCELERATE_USE_CPU", "true")
        train(real, run_dir, progress=False)
    return run_dir


def records(folder: Path) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [line for line in lines if "loss" in line]


def test_all_stages_run_and_the_discriminator_joins_at_its_step(real: TrainConfig, finished: Path) -> None:
    assert isinstance(load_network(finished / "student" / "weights.safetensors"), MRDAStudent)
    for name in STAGES:
        for record in records(finished / name):
            visual = name in ("teacher", "student") and record["step"] > real.stage(name).visual_from  # type: ignore[attr-defined]
            assert ("adversarial" in record) == ("discriminator" in record) == visual
            assert (record.get("discriminator_gradient_norm", 0) > 0) == visual


def test_the_discriminator_and_its_moments_are_in_the_checkpoint(finished: Path) -> None:
    state = torch.load(finished / "student" / "checkpoints" / "step-00000006" / "state.pt")
    discriminator = state["carried"]["discriminator"]
    assert {"conv0.weight", "conv1.weight_u", "conv9.bias"} <= discriminator.keys()
    assert [group["share"] for group in state["optimizer"]["param_groups"]] == [1.0, 1e-4 / 1e-3]


@pytest.mark.parametrize("name", ["teacher", "student"])
def test_a_resumed_stage_ends_bit_equal(real: TrainConfig, finished: Path, tmp_path: Path, name: str) -> None:
    run_dir = tmp_path / "run"
    shutil.copytree(finished, run_dir)
    (run_dir / name / "weights.safetensors").unlink()
    checkpoints = sorted((run_dir / name / "checkpoints").iterdir())
    shutil.rmtree(checkpoints[-1])  # two steps back, before the last ones with the discriminator
    train(real, run_dir, stages=[name], progress=False)  # type: ignore[list-item]
    expected, got = (load_file(folder / name / "weights.safetensors") for folder in (finished, run_dir))
    torch.testing.assert_close(got, expected, rtol=0, atol=0)
    assert records(run_dir / name)[-1]["adversarial"] == records(finished / name)[-1]["adversarial"]


def test_gray_transparent_and_deep_photos_are_trained_on(real: TrainConfig, photo: Path, tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    with Image.open(photo) as image:
        pixels = np.asarray(image)
        image.convert("L").save(folder / "gray.png")
        image.convert("LA").save(folder / "gray_alpha.png")
        image.convert("RGBA").save(folder / "alpha.png")
        image.convert("P").save(folder / "palette.gif")
    Image.fromarray(pixels[..., 0].astype(np.uint16) * 257).save(folder / "deep_gray.png")
    deep = pixels.astype(np.uint16) * 257
    write_photo(folder / "deep.png", [deep], len(deep), Photo(deep), format="png")
    write_photo(folder / "deep.tif", [deep], len(deep), Photo(deep), format="tiff")
    for source in folder.iterdir():
        image = to_eight_bits(read_rgb(source))
        assert image.shape == pixels.shape
        if source.stem in ("alpha", "deep"):
            np.testing.assert_array_equal(image, pixels)
    tree = real.model_dump(mode="json")
    tree["data"]["sources"] = [str(folder)]
    train(TrainConfig.model_validate(tree), tmp_path / "run", stages=["bicubic"], progress=False)


def test_a_pool_is_taken_up_again(real: TrainConfig, tmp_path: Path) -> None:
    tree = real.model_dump(mode="json")
    tree["degradation"]["per"], tree["real"]["queue_size"], tree["real"]["usm"] = "image", 4, True
    tree["visual"]["l1_gt_usm"] = True
    tree["teacher"]["steps"] = 6
    config = TrainConfig.model_validate(tree)
    stages = ["bicubic", "meta", "teacher"]
    train(config, tmp_path / "whole", stages=stages, progress=False)  # type: ignore[arg-type]
    shutil.copytree(tmp_path / "whole", tmp_path / "resumed")
    folder = tmp_path / "resumed" / "teacher"
    (folder / "weights.safetensors").unlink()
    shutil.rmtree(folder / "checkpoints" / "step-00000006")
    state = torch.load(folder / "checkpoints" / "step-00000004" / "state.pt")
    assert state["carried"]["pool"]["hr"].shape == (4, 3, 24, 24)
    train(config, tmp_path / "resumed", stages=stages, progress=False)  # type: ignore[arg-type]
    expected, got = (load_file(tmp_path / run / "teacher" / "weights.safetensors") for run in ("whole", "resumed"))
    torch.testing.assert_close(got, expected, rtol=0, atol=0)


def test_a_visual_loss_without_vgg19_is_refused_before_any_work(
    real: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    tree = real.model_dump(mode="json")
    tree["visual"]["perceptual_weight"] = 1.0
    with pytest.raises(RunRefusedError, match=r"vgg19-dcbb9e9d\.pth"):
        train(TrainConfig.model_validate(tree), tmp_path / "run", progress=False)
    assert not (tmp_path / "run" / "bicubic").exists()


def test_other_visual_losses_are_another_recipe(real: TrainConfig, finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished, tmp_path / "run")
    tree = real.model_dump(mode="json")
    tree["visual"]["gan_weight"] = 0.2
    with pytest.raises(RunRefusedError, match=r"visual\.gan_weight = 0\.1, but now it is 0\.2"):
        train(TrainConfig.model_validate(tree), tmp_path / "run", progress=False)


def test_where_vgg19_lies_is_no_part_of_the_recipe(real: TrainConfig, finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished, tmp_path / "run")
    tree = real.model_dump(mode="json")
    tree["visual"]["vgg19"] = "elsewhere.pth"
    train(TrainConfig.model_validate(tree), tmp_path / "run", progress=False)
