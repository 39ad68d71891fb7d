"""Options under their flat names, as files had them before the rounds of the real degradation were nested.

The files in `before` were written by that version: the configuration of `real-toy` with some overrides, and the recipe
of its student stage.
"""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from mrda.config import TrainConfig
from mrda.config.load import load_config, parse_config
from mrda.config.names import FLAT_NAMES, nested_key
from mrda.training import RunRefusedError
from mrda.training.checkpoints import check_recipe, recipe_of
from mrda.training.stages import STAGES
from mrda.training.validation import Validation

BEFORE = Path(__file__).parent / "before"
OVERRIDES = [
    "real.jpeg_range2=[40, 50]",
    "real.kernel_list2=[iso, plateau_aniso]",
    "real.kernel_prob2=[1, 2]",
    "real.noise_range=[2, 3.5]",
    "real.second_blur_prob=0.25",
    "degradation.border=mirror",
    "degradation.per=image",
    "real.queue_size=8",
    "real.blur_kernel_size2=9",
    "real.resize_prob2=[0, 1, 1]",
    "real.gray_noise_prob=0",
    "student.distil_share=0.5",
]


def saved() -> dict[str, Any]:
    tree: dict[str, Any] = yaml.safe_load((BEFORE / "config.yaml").read_text())
    return tree


LATER = {
    "adaptation": {"inner_clip": None, "on": None},
    "bicubic": {"optimizer": "adam"},
    "meta": {"inner_clip": None, "optimizer": "adam"},
    "teacher": {"optimizer": "adam"},
    "networks": {"den_norm": "none"},
    "data": {"pairs": [], "shuffle_channels": False, "reduced_by": [], "candidates": 1},
    "validation": {"pairs": []},
    "train": {"tracker": "tensorboard", "luma": 0.0},
    "visual": {"backbone": "vgg19", "vgg16": None},
    "student": {"rdan_lr_factor": 1.0, "optimizer": "adam", "distil_share": 0.5},
}
"""Options that were added after the files were saved, with their defaults."""


def test_a_saved_configuration_is_read() -> None:
    config = load_config(BEFORE / "config.yaml")
    assert config == load_config("real-toy", OVERRIDES)
    assert config == TrainConfig.model_validate(saved())
    real = config.real
    assert (real.first.noise_range, real.second.noise_range) == ((2.0, 3.5), (1.0, 25.0))
    assert (real.first.blur_kernel_size, real.second.blur_kernel_size) == (7, 9)
    assert (real.first.gray_noise_prob, real.second.gray_noise_prob) == (0.0, 0.4)
    assert (real.second.kernel_list, real.second.kernel_prob) == (("iso", "plateau_aniso"), (1.0, 2.0))
    assert (real.second_blur_prob, real.queue_size) == (0.25, 8)


def test_every_option_has_its_value() -> None:
    dump = load_config(BEFORE / "config.yaml").model_dump(mode="json")
    options = [path for path in saved()["real"] if f"real.{path}" in FLAT_NAMES]
    assert len(options) == len(FLAT_NAMES) == 28
    for name in options:
        part, option = nested_key(f"real.{name}").split(".")[1:]
        assert dump["real"][part][option] == saved()["real"][name]
    for section in saved().keys() - {"real"}:
        later = LATER.get(section, {}) if isinstance(dump[section], dict) else None
        assert dump[section] == (saved()[section] if later is None else saved()[section] | later)


def test_a_saved_configuration_is_written_under_the_nested_names(tmp_path: Path) -> None:
    config = load_config(BEFORE / "config.yaml")
    (tmp_path / "config.yaml").write_text(config.to_yaml())
    written = yaml.safe_load((tmp_path / "config.yaml").read_text())
    assert written["real"]["second"]["jpeg_range"] == [40.0, 50.0]
    assert not {f"real.{name}" for name in written["real"]} & set(FLAT_NAMES)
    assert load_config(tmp_path / "config.yaml") == config


def test_a_saved_recipe_is_that_of_the_same_configuration(tmp_path: Path) -> None:
    literal = "student.distil_share=null"
    recipe = recipe_of(STAGES["student"], load_config(BEFORE / "config.yaml", [literal]), {})
    stored = {nested_key(key): value for key, value in json.loads((BEFORE / "recipe.json").read_text()).items()}
    later = {f"{section}.{name}": value for section, options in LATER.items() for name, value in options.items()}
    later["adaptation.on"] = "self"  # what its null stands for with a real degradation
    later["student.distil_share"] = None
    assert stored | {key: value for key, value in later.items() if key in recipe} == recipe
    check_recipe(BEFORE, recipe)
    other = load_config(BEFORE / "config.yaml", [literal, "real.jpeg_range2=[40, 51]"])
    changed = r"real\.second\.jpeg_range = \[40\.0, 50\.0\], but now it is \[40\.0, 51"
    with pytest.raises(RunRefusedError, match=changed):
        check_recipe(BEFORE, recipe_of(STAGES["student"], other, {}))
    with pytest.raises(RunRefusedError, match=r"student\.distil_share = None, but now it is 0\.5"):
        check_recipe(BEFORE, recipe_of(STAGES["student"], load_config(BEFORE / "config.yaml"), {}))


def test_a_recipe_of_before_adapted_each_mln_to_its_own_image(tmp_path: Path) -> None:
    config = load_config("classic-iso-x4")
    recipe = recipe_of(STAGES["teacher"], config, {})
    assert recipe["adaptation.on"] == "other"
    (tmp_path / "recipe.json").write_text(json.dumps({k: v for k, v in recipe.items() if k != "adaptation.on"}))
    with pytest.raises(RunRefusedError, match=r"adaptation\.on = self, but now it is other"):
        check_recipe(tmp_path, recipe)
    check_recipe(tmp_path, recipe_of(STAGES["teacher"], load_config("classic-iso-x4", ["adaptation.on=self"]), {}))


@pytest.mark.parametrize(
    ("config", "fingerprint"),
    [
        (load_config(BEFORE / "config.yaml"), "6f8f0017517c0a1a4b74be61c66610c03344c42e271c8b0ebc9d87a65441930c"),
        (load_config("toy"), "16bc1f2844e7e232d855f976d27128fbf213564a4a05722e24ca02f73ac5eadf"),
    ],
)
def test_the_best_validation_of_an_earlier_version_is_still_known(config: TrainConfig, fingerprint: str) -> None:
    section = {"sources": ["skimage:astronaut"], "crop": 64, "conditions": 1}
    validated = TrainConfig.model_validate(config.model_dump(mode="json") | {"validation": section})
    assert Validation(validated).fingerprint == fingerprint


def test_the_last_assignment_counts_under_either_name(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("extends: real-toy\nreal: {second: {blur_kernel_size: 11}}\n")
    config = load_config(tmp_path / "mine.yaml", ["real.blur_sigma2=[1, 2]", "real.second.jpeg_range=[50, 60]"])
    second = config.real.second
    assert (second.blur_kernel_size, second.blur_sigma, second.jpeg_range) == (11, (1.0, 2.0), (50.0, 60.0))
    assert config.real.first.blur_kernel_size == 7
    both = ["real.jpeg_range2=[50, 60]", "real.second.jpeg_range=[70, 80]", "real.first.noise_range=[1, 2]"]
    real = load_config("real-toy", both).real
    assert (real.second.jpeg_range, real.first.noise_range) == ((70.0, 80.0), (1.0, 2.0))
    assert load_config("real-toy", list(reversed(both))).real.second.jpeg_range == (50.0, 60.0)
    whole = load_config("real-toy", ["real={jpeg_range2: [1, 2], blur_kernel_size: 7, blur_kernel_size2: 7}"]).real
    assert (whole.second.jpeg_range, whole.second.blur_sigma) == ((1.0, 2.0), (0.2, 1.5))


def test_a_preset_of_a_configuration_may_have_either_name(tmp_path: Path) -> None:
    text = "extends: real-toy\nreal: {jpeg_range2: [40, 50]}\npresets: {mild: {real: {jpeg_range2: [90, 95]}}}\n"
    (tmp_path / "mine.yaml").write_text(text)
    assert load_config(tmp_path / "mine.yaml").real.second.jpeg_range == (40.0, 50.0)
    assert load_config(tmp_path / "mine.yaml", preset="mild").real.second.jpeg_range == (90.0, 95.0)


def test_both_names_at_once_are_refused(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("real: {jpeg_range2: [40, 50], second: {jpeg_range: [40, 50]}}\n")
    message = r"real\.jpeg_range2 and real\.second\.jpeg_range are the same option: give one of them"
    with pytest.raises(ValueError, match=rf"config '.*mine\.yaml': {message}"):
        load_config(tmp_path / "mine.yaml")
    with pytest.raises(ValueError, match=rf"config key 'real': {message}"):
        parse_config(yaml.safe_load((tmp_path / "mine.yaml").read_text()))


@pytest.mark.parametrize("text", ["3", "{second: 3, jpeg_range2: [40, 50]}", "{first: null, jpeg_range: [40, 50]}"])
def test_a_section_that_is_no_mapping_is_reported(text: str) -> None:
    with pytest.raises(ValueError, match=r"config key 'real(\.first|\.second)?' must be a section of options"):
        load_config("real-toy", [f"real={text}"])
