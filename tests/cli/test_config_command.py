import json

import pytest
from commands import one_sentence, run

from mrda.config.load import load_config
from mrda.config.schema import json_schema


def test_show_prints_what_a_training_would_use(tmp_path):
    result = run("config", "show", "toy", "--preset", "paper", "--set", "teacher.steps=7")
    assert result.exit_code == 0, result.stderr
    (tmp_path / "whole.yaml").write_text(result.stdout)
    assert load_config(tmp_path / "whole.yaml") == load_config("toy", ["teacher.steps=7"], preset="paper")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["tooy"], "did you mean 'toy'"),
        (["toy", "--preset", "papr"], "preset is 'papr'"),
        (["toy", "--set", "teacher.step=7"], "did you mean 'teacher.steps'"),
    ],
)
def test_unknown_names_are_one_sentence(arguments, words):
    result = run("config", "show", *arguments)
    assert result.exit_code == 2
    assert one_sentence(result.stderr)
    assert words in result.stderr


def test_schema_is_printed():
    result = run("config", "schema")
    assert result.exit_code == 0
    assert json.loads(result.stdout) == json_schema()
