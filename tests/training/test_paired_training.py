"""Training on pairs of LR and HR photos: LR as it is, and the degradation shared where the MLN adapts."""

import json

import pytest
import torch
from PIL import Image

from mrda.config import TrainConfig
from mrda.config.load import load_config
from mrda.core.randomness import generator
from mrda.data.pairs import load_pairs
from mrda.degradations.classic import degrade
from mrda.degradations.resample import bicubic
from mrda.networks import save_network
from mrda.training import Run, RunRefusedError
from mrda.training.components import build_mln
from mrda.training.stages import BicubicStage, MetaStage, TeacherStage
from mrda.training.validation import Validation


@pytest.fixture
def folders(tmp_path, photo):
    """Two scenes, whose LR is dark or bright whatever HR is, so that it can be told."""
    with Image.open(photo) as hr:
        for name, level in (("dark", 20), ("bright", 220)):
            for folder, image in (("HR", hr), ("LR", Image.new("RGB", (hr.width // 2, hr.height // 2), (level,) * 3))):
                (tmp_path / folder).mkdir(exist_ok=True)
                image.save(tmp_path / folder / f"{name}.png")
    return f"[{{lr: {tmp_path / 'LR'}, hr: {tmp_path / 'HR'}}}]"


@pytest.fixture
def config(folders) -> TrainConfig:
    return load_config("toy", ["data.sources=[]", f"data.pairs={folders}"])


def batch_of(stage, config, together):
    sampler = load_pairs(config.data, config.scale)
    return stage.degrade(sampler.sample(8, generator(0, "test"), together=together).float() / 255, generator(1))


def levels(lr):
    return {round(255 * float(value)) for value in lr.unique()}


@pytest.fixture
def mln(config, tmp_path):
    path = tmp_path / "mln.safetensors"
    save_network(build_mln(config), path)
    return path


def test_the_stages_that_adapt_take_lr_as_it_is(config, mln):
    for stage in (MetaStage(config, {"mln": mln}), TeacherStage(config, {"mln": mln})):
        batch = batch_of(stage, config, together=False)
        assert levels(batch.lr) == {20, 220}
        torch.testing.assert_close(batch.lr_up, bicubic(batch.lr, config.scale), atol=0.5 / 255 + 1e-6, rtol=0)
        assert batch.hr.shape[2] == config.scale * batch.lr.shape[2]
        assert batch.kernel is None


def test_bicubic_pretraining_takes_hr_alone(config, changed):
    batch = batch_of(BicubicStage(config, {}), config, together=False)
    assert levels(batch.lr) != {20, 220}
    torch.testing.assert_close(batch.lr, degrade(batch.hr, None, config.scale).lr)
    blurred = changed(config, bicubic={"blur": True})
    assert levels(batch_of(BicubicStage(blurred, {}), blurred, together=False).lr) == {20, 220}


def test_tasks_are_of_one_pair_each_and_drawn_anew(config, mln, changed):
    stage = MetaStage(config, {"mln": mln})
    assert stage.one_pair
    assert stage.hr_per_task
    assert TeacherStage(config, {"mln": mln}).one_pair  # of toy's degradation.per=batch
    assert not TeacherStage(changed(config, degradation={"per": "image"}), {"mln": mln}).one_pair


def test_all_stages_train_and_resume_on_pairs(config, tmp_path, folders):
    config = load_config("toy", ["data.sources=[]", f"data.pairs={folders}", f"validation.pairs={folders}"])
    weights = Run(config, tmp_path / "run", progress=False).train()
    assert list(weights) == ["bicubic", "meta", "teacher", "student"]
    recipe = json.loads((tmp_path / "run" / "student" / "recipe.json").read_text())
    assert [list(pair) for pair in recipe["data.pairs"]] == [["lr", "hr"]]
    assert "degradation.kernel" not in recipe
    assert Run(config, tmp_path / "run", progress=False).train() == weights
    log = (tmp_path / "run" / "student" / "log.jsonl").read_text()
    assert '"psnr_y_bicubic"' in log


def test_validation_measures_pairs_as_they_are(config, folders, mln):
    config = load_config(
        "toy", ["data.sources=[]", f"data.pairs={folders}", f"validation.pairs={folders}", "validation.crop=30"]
    )
    validation = Validation(config)
    assert [sample.hr.shape[2:] for sample in validation.pairs] == [(30, 30)] * 2
    assert sorted(levels(sample.lr).pop() for sample in validation.pairs) == [20, 220]
    whole = Validation(config.model_copy(update={"validation": config.validation.model_copy(update={"crop": None})}))
    assert whole.fingerprint != validation.fingerprint
    top, left = (16 - 15) // 2, (20 - 15) // 2
    expected = whole.pairs[0].hr[..., 2 * top : 2 * top + 30, 2 * left : 2 * left + 30]
    torch.testing.assert_close(validation.pairs[0].hr, expected)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (["data.sources=[HR]"], "pairs take the place of sources"),
        (["degradation.type=real"], "data.pairs has a degradation already"),
        (["teacher.den_input=kernel"], "requires blur kernels, which data.pairs does not tell"),
        (["train.adapt_sync=true", "adaptation.per=batch"], "train.adapt_sync requires data.sources"),
        (["degradation.noise_range=[0, 9]"], "has no effect unless data.pairs is left out"),
        (["data.pairs=[{lr: LR}]"], "hr"),
    ],
)
def test_options_that_do_not_go_with_pairs(folders, changes, words):
    with pytest.raises(ValueError, match=words):
        load_config("toy", ["data.sources=[]", f"data.pairs={folders}", *changes])


def test_a_run_refuses_pairs_that_do_not_match(config, tmp_path):
    with Image.open(tmp_path / "HR" / "dark.png") as hr:
        hr.crop((0, 0, 38, 32)).save(tmp_path / "HR" / "dark.png")
    with pytest.raises(RunRefusedError, match=r"dark.png is 38x32 pixels, but must be 40x32"):
        Run(config, tmp_path / "run", progress=False)
    assert not (tmp_path / "run" / "bicubic").exists()
