import pytest
import yaml

from mrda.config import TrainConfig
from mrda.config.base import option_paths
from mrda.config.load import PRESETS, configs, load_config
from mrda.config.schema import json_schema

jsonschema = pytest.importorskip("jsonschema", reason="jsonschema is not installed")


@pytest.fixture(scope="module")
def validator():
    schema = json_schema()
    kind = jsonschema.validators.validator_for(schema)
    kind.check_schema(schema)
    return kind(schema)


@pytest.mark.parametrize("name", configs())
def test_shipped_configurations_are_valid(validator, name):
    validator.validate(yaml.safe_load(configs()[name].read_text(encoding="utf-8")))


@pytest.mark.parametrize("preset", PRESETS)
def test_whole_configurations_are_valid(validator, preset):
    validator.validate(yaml.safe_load(load_config("toy", preset=preset).to_yaml()))


@pytest.mark.parametrize(
    "text",
    [
        "teacher: {step: 10}",
        "steps: 10",
        "teacher: {steps: many}",
        "scale: 5",
        "real: {first: {jpg_range: [1, 2]}}",
        "degradation: {sigma: 3}",
        "networks: {width: 3}",
        "data: {pairs: [{lr: LR}]}",
        "presets: {mine: {teacher: {step: 10}}}",
        "extends: 3",
    ],
)
def test_mistakes_are_refused(validator, text):
    assert list(validator.iter_errors(yaml.safe_load(text)))


def test_own_presets_and_parents_are_valid(validator):
    validator.validate(yaml.safe_load("extends: [demo]\npresets: {mine: {teacher: {steps: 10}}}"))


def test_every_option_is_there(validator):
    schema = validator.schema
    for path in option_paths(TrainConfig):
        section = schema
        for name in path.split("."):
            section = section["properties"][name]
            reference = section.get("$ref")
            if reference is not None:
                section = schema["$defs"][reference.removeprefix("#/$defs/")]
