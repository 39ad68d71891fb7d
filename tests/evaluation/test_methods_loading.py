import json

import pytest
import torch

from mrda.degradations.kernels import isotropic_gaussian
from mrda.evaluation.methods import mln_method, oracle_method, student_method, teacher_method
from mrda.evaluation.methods_loading import load_method, recorded_adaptation
from mrda.evaluation.samples import Condition, make_sample
from mrda.networks import (
    DASR,
    MLN,
    KDSRStudent,
    MRDAOracle,
    MRDAStudent,
    MRDATeacher,
    save_network,
    to_official,
)
from mrda.options.networks import INNER_LR, INNER_STEPS
from mrda.upscale import upscaler as inference
from mrda.upscale.weights import save_pretrained

SIZES = {"scale": 2, "num_feat": 8, "num_blocks": 1, "den_width": 4}
RECIPE = {
    "adaptation.inner_steps": 2,
    "adaptation.inner_lr": [0.05, 0.02],
    "meta.inner_steps": 3,
    "meta.inner_lr": [0.04],
    "freeze_upscaler": "none",
    "scale": 2,
}
DEFAULTS = (INNER_STEPS, INNER_LR, True, None)


@pytest.fixture
def sample():
    hr = torch.rand(1, 3, 24, 32, generator=torch.Generator().manual_seed(0))
    return make_sample(hr, Condition("blur", isotropic_gaussian(1.2)), 2, image="a")


@pytest.fixture
def store(tmp_path):
    def store(network, name="weights.safetensors", **metadata):
        save_network(network, tmp_path / name, **metadata)
        return tmp_path / name

    torch.manual_seed(0)
    return store


def close(first, second):
    """Equal but for the order of summation in channels-last convolutions."""
    torch.testing.assert_close(first, second, rtol=0, atol=1e-5)


def test_a_student(store, sample):
    network = MRDAStudent(**SIZES)
    loaded = load_method(store(network))
    assert (loaded.name, loaded.scale, loaded.blur_size, loaded.needs_hr) == ("mrda_s", 2, None, False)
    close(loaded.method(sample), student_method(network)(sample).clamp(0, 1))


@pytest.mark.parametrize(("kind", "name"), [(DASR, "dasr"), (KDSRStudent, "kdsr_s")])
def test_sisters(kind, name, store, sample):
    network = kind(scale=2, num_feat=8, num_blocks=1)
    loaded = load_method(store(network))
    assert (loaded.name, loaded.scale, loaded.blur_size, loaded.needs_hr) == (name, 2, None, False)
    close(loaded.method(sample), student_method(network)(sample).clamp(0, 1))


def test_a_student_is_measured_in_float32_wherever_half_precision_is_the_default(store, sample, monkeypatch):
    path = store(MRDAStudent(**SIZES))
    expected = load_method(path).method(sample)
    monkeypatch.setattr(inference, "_best_dtype", lambda device: torch.bfloat16)
    assert torch.equal(load_method(path).method(sample), expected)


def test_an_oracle(store, sample):
    network = MRDAOracle(blur_size=21, **SIZES)
    loaded = load_method(store(network))
    assert (loaded.name, loaded.scale, loaded.blur_size, loaded.needs_hr) == ("mrda_t3", 2, 21, False)
    close(loaded.method(sample), oracle_method(network)(sample))


def test_an_mln_with_the_recorded_settings_but_for_the_steps_that_are_asked_for(store, sample):
    network = MLN(scale=2, num_feat=6, num_body=2)
    path = store(network, recipe=json.dumps(RECIPE))
    loaded = load_method(path)
    assert (loaded.name, loaded.scale, loaded.blur_size, loaded.needs_hr) == ("mln", 2, None, True)
    for steps, method in ((3, loaded.method), (1, load_method(path, steps=1).method)):
        expected = mln_method(network, steps=steps, inner_lr=[0.04], freeze_upscaler=False)(sample)
        close(method(sample), expected)
        frozen = mln_method(network, steps=steps, inner_lr=[0.04])(sample)
        assert (expected - frozen).abs().max() > 1e-4
    close(load_method(path, steps=0).method(sample), network(sample.lr, sample.lr_up))


def test_an_mln_in_a_folder_is_adapted_as_its_file_says(tmp_path):
    network = MLN(scale=2, num_feat=6, num_body=2)
    save_pretrained(network, tmp_path, recipe=json.dumps(RECIPE))
    assert recorded_adaptation(tmp_path, network) == (3, (0.04,), False, None)


def test_a_teacher_with_its_mln(store, sample):
    network, mln = MRDATeacher(mln_feat=6, **SIZES), MLN(scale=2, num_feat=6, num_body=2)
    with torch.no_grad():  # a random DEN hardly tells one input from another; louder layers do
        for parameter in network.den.parameters():
            parameter *= 8
    mln_path = store(mln, "mln.safetensors", recipe=json.dumps({"adaptation.inner_steps": 0}))
    path = store(network, recipe=json.dumps(RECIPE))
    loaded = load_method(path, mln=mln_path)
    assert (loaded.name, loaded.scale, loaded.blur_size, loaded.needs_hr) == ("mrda_t", 2, None, True)
    options = {"inner_lr": [0.05, 0.02], "freeze_upscaler": False}
    close(loaded.method(sample), teacher_method(network, mln, steps=2, **options)(sample))
    unadapted = load_method(path, mln=mln_path, steps=0).method(sample)
    close(unadapted, network(sample.lr, mln.features(sample.lr)))
    assert (unadapted - loaded.method(sample)).abs().max() > 1e-3


def test_a_teacher_of_lr_and_hr_has_no_mln(store, sample):
    network = MRDATeacher(den_input="lr_hr", **SIZES)
    path = store(network)
    loaded = load_method(path)
    assert loaded.needs_hr
    close(loaded.method(sample), teacher_method(network, None)(sample))
    with pytest.raises(ValueError, match="reads LR and HR"):
        load_method(path, steps=2)


@pytest.mark.parametrize(
    ("recipe", "expected"),
    [
        (RECIPE, (2, (0.05, 0.02), False, None)),
        ({**RECIPE, "freeze_upscaler": "student_only"}, (2, (0.05, 0.02), False, None)),
        ({**RECIPE, "freeze_upscaler": "all"}, (2, (0.05, 0.02), True, None)),
        ({**RECIPE, "adaptation.inner_clip": 0.5}, (2, (0.05, 0.02), False, 0.5)),
        ({"adaptation.inner_steps": 0}, (0, *DEFAULTS[1:])),
        ({"bicubic.steps": 7}, DEFAULTS),
    ],
)
def test_what_is_recorded_of_a_teacher(store, recipe, expected):
    network = MRDATeacher(mln_feat=6, **SIZES)
    assert recorded_adaptation(store(network, recipe=json.dumps(recipe)), network) == expected


def test_an_mln_has_settings_of_its_own(store):
    network = MLN(scale=2, num_feat=6)
    assert recorded_adaptation(store(network, recipe=json.dumps(RECIPE)), network) == (3, (0.04,), False, None)


def test_files_without_a_recipe_have_the_defaults(store, tmp_path):
    network = MLN(scale=2, num_feat=6)
    assert recorded_adaptation(store(network), network) == DEFAULTS
    torch.save(to_official(network), tmp_path / "model_meta.pth")
    assert recorded_adaptation(tmp_path / "model_meta.pth", network) == DEFAULTS


@pytest.mark.parametrize(
    ("recipe", "words"),
    [
        ("milk", "not a JSON object"),
        ("[1]", "not a JSON object"),
        ('{"meta.inner_steps": -1}', "meta.inner_steps = -1"),
        ('{"meta.inner_steps": true}', "meta.inner_steps = True"),
        ('{"meta.inner_steps": "5"}', "meta.inner_steps = '5'"),
        ('{"meta.inner_lr": []}', "meta.inner_lr = []"),
        ('{"meta.inner_lr": 0.01}', "meta.inner_lr = 0.01"),
        ('{"meta.inner_lr": [0.01, 0]}', "meta.inner_lr = [0.01, 0]"),
        ('{"meta.inner_lr": [NaN]}', "meta.inner_lr = [nan]"),
        ('{"meta.inner_clip": 0}', "meta.inner_clip = 0"),
        ('{"freeze_upscaler": true}', "freeze_upscaler = True"),
        ('{"freeze_upscaler": ["all"]}', "freeze_upscaler = ['all']"),
    ],
)
def test_an_impossible_recipe_is_refused(store, recipe, words):
    path = store(MLN(scale=2, num_feat=6), recipe=recipe)
    with pytest.raises(ValueError, match=r"weights\.safetensors") as caught:
        load_method(path)
    assert words in str(caught.value)


def test_what_does_not_go_together_is_refused(store, tmp_path):
    student = store(MRDAStudent(**SIZES), "student.safetensors")
    teacher = store(MRDATeacher(mln_feat=6, **SIZES), "teacher.safetensors")
    oracle = store(MRDAOracle(**SIZES), "oracle.safetensors")
    mln = store(MLN(scale=2, num_feat=6), "mln.safetensors")
    wide = store(MLN(scale=2, num_feat=7), "wide.safetensors")
    large = store(MLN(scale=3, num_feat=6), "large.safetensors")
    for arguments, words in (
        ({"weights": tmp_path / "gone.safetensors"}, "no weights file"),
        ({"weights": teacher}, "mln is missing"),
        ({"weights": teacher, "mln": tmp_path / "gone.pth"}, "no weights file"),
        ({"weights": teacher, "mln": student}, "holds an MRDAStudent"),
        ({"weights": teacher, "mln": wide}, "has 7 features"),
        ({"weights": teacher, "mln": large}, "upscales by 3"),
        ({"weights": teacher, "mln": mln, "steps": -1}, "steps is -1"),
        ({"weights": student, "mln": mln}, "holds an MRDAStudent"),
        ({"weights": mln, "mln": mln}, "holds an MLN"),
        ({"weights": student, "steps": 5}, "steps is 5"),
        ({"weights": oracle, "steps": 5}, "steps is 5"),
    ):
        with pytest.raises(ValueError, match=words):
            load_method(**arguments)
    with pytest.raises(TypeError, match=r"steps is 1\.5"):
        load_method(mln, steps=1.5)
