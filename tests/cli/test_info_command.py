import hashlib
import json

import pytest
import torch
from commands import one_sentence, replaced, run

import mrda.upscale.weights
from mrda.networks import MODELS, MRDAOracle, MRDAStudent, complexity, save_network
from mrda.upscale.choice import PURPOSES, Purpose
from mrda.upscale.weights import PARTNERS
from mrda_kernels import __version__, dispatch


def as_json(*arguments):
    result = run("info", *arguments, "--json")
    assert result.exit_code == 0, result.stderr
    assert result.stderr == ""
    assert result.stdout.count("\n") == 1
    return json.loads(result.stdout)


def test_the_published_student_as_json():
    facts = as_json("--model", "mrda-x4")
    hyperparameters = facts.pop("hyperparameters")
    assert facts == {
        "name": "mrda-x4",
        "architecture": "MRDAStudent",
        "scale": 4,
        "lr_height": 180,
        "lr_width": 320,
        "parameters": 5_838_737,
        "parameters_trainable": 5_838_713,
        "mult_adds": 171_539_364_096,
        "mult_adds_static_conv": 169_745_414_400,
        "mult_adds_dynamic_conv": 1_791_590_400,
        "mult_adds_linear": 2_359_296,
        "mult_adds_executed": 131_971_485_696,
    }
    assert all(type(value) is int for value in list(facts.values())[2:])
    assert hyperparameters["num_blocks"] == 27


@pytest.mark.parametrize("name", MODELS)
def test_every_model(name):
    facts = as_json("--model", name, "--height", 4, "--width", 6)
    assert (facts["name"], facts["lr_height"], facts["lr_width"]) == (name, 4, 6)
    assert name.endswith(f"x{facts['scale']}")


def test_the_published_student_for_the_eye():
    result = run("info", "--model", "mrda-x4")
    assert result.exit_code == 0, result.stderr
    for words in (
        "MRDAStudent",
        "scale         4",
        "5,838,737, of which trainable 5,838,713",
        "171.54 G (171,539,364,096) for an LR image of 180x320",
        "169.75 G (169,745,414,400)",
        "num_blocks    27",
    ):
        assert words in result.stdout


def test_a_weights_file_as_json(tmp_path, weights):
    facts = as_json(weights, "--height", 12, "--width", 10)
    network = MRDAStudent(scale=2, num_feat=8, num_blocks=2, den_width=4)
    counted = complexity(network, 12, 10)
    assert facts["name"] == str(weights)
    assert facts["architecture"] == "MRDAStudent"
    assert facts["hyperparameters"] == network.hyperparameters
    for key in ("parameters", "parameters_trainable", "mult_adds", "mult_adds_static_conv"):
        assert facts[key] == getattr(counted, key)
    save_network(MRDAOracle(scale=3, num_feat=4, num_blocks=1, den_width=2), tmp_path / "oracle.safetensors")
    assert as_json(tmp_path / "oracle.safetensors")["architecture"] == "MRDAOracle"


def test_weights_of_the_package_say_their_origin():
    shown = run("info", "mrda-x4").stdout.splitlines()
    assert "license       CC-BY-4.0" in shown
    assert (
        shown.index(" degradation.kernel = anisotropic") > shown.index("recipe") > shown.index("stage         teacher")
    )
    training = as_json("mrda-x4")["training"]
    assert training["recipe"]["degradation.kernel"] == "anisotropic"
    assert {"data", "license", "stage", "step"} <= set(training)


@pytest.mark.parametrize(("strength", "words"), [(None, ""), (0.5, "; -w auto takes 0.5")])
def test_weights_of_the_package_say_purpose_pair_and_scores(tmp_path, weights, monkeypatch, strength, words):
    path = tmp_path / "ours.safetensors"
    save_network(
        MRDAStudent(scale=2, num_feat=4, num_blocks=1, den_width=2),
        path,
        license="CC-BY-4.0",
        data="mine",
        attribution="Us",
        training="an hour",
    )
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    monkeypatch.setattr(mrda.upscale.weights, "BUNDLED_FOLDER", tmp_path)
    scores = {"ours": {"gaussian8": {"Set5": [30.1, 0.85], "B100": [26.0, 0.7]}}}
    with (
        replaced(mrda.upscale.weights.BUNDLED, {"ours": digest}),
        replaced(mrda.upscale.weights.SCORES, scores),
        replaced(PURPOSES, {"ours": Purpose("Ours", "our photos", noise=1.0, jpeg_quality=90, strength=strength)}),
        replaced(PARTNERS, {"ours": "others"}),
        replaced(mrda.upscale.weights.SUPERSEDED, {"former": "ours"}),
    ):
        for name in ("ours", "former"):
            shown = run("info", name).stdout.splitlines()
            for line in (
                "for           our photos",
                f"strength      0 is ours, 1 is others{words}",
                "gaussian8     Set5 30.10 dB / 0.8500, B100 26.00 dB / 0.7000",
                "license       CC-BY-4.0",
                "data          mine",
                "attribution   Us",
                "training      an hour",
            ):
                assert line in shown
        facts = as_json("ours")
        assert (facts["purpose"], facts["scores"]) == ("our photos", scores["ours"])
        assert facts["strength"] == {"0": "ours", "1": "others"} | ({"auto": strength} if strength else {})
        assert "scores" not in as_json(path.rename(tmp_path / "moved.safetensors"))
        (tmp_path / "moved.safetensors").rename(path)
        listed = run("info", "--weights").stdout
        for line in ("ours\n", "  licence     CC-BY-4.0\n", "  data        mine\n", "  for         our photos\n"):
            assert line in listed
        (entry,) = as_json("--weights")
        assert (entry["name"], entry["scale"], entry["license"]) == ("ours", 2, "CC-BY-4.0")
    result = run("info", weights, "--weights")
    assert (result.exit_code, one_sentence(result.stderr)) == (2, True)


@pytest.mark.parametrize("recipe", ["none", "[1]"])
def test_a_recipe_that_others_wrote_is_told_as_it_is(tmp_path, recipe):
    path = tmp_path / "student.safetensors"
    save_network(MRDAStudent(scale=2, num_feat=4, num_blocks=1, den_width=2), path, recipe=recipe)
    assert f"recipe        {recipe}" in run("info", path).stdout.splitlines()


def test_the_installation_as_json():
    facts = as_json()
    assert facts["version"] == __version__
    assert facts["torch"] == torch.__version__
    assert set(facts["backends"]) == set(dispatch.BACKENDS)
    assert "cpu" in facts["backends"]["reference"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--model", "mrda-x5"], ["--model is 'mrda-x5', but must be one of", *MODELS]),
        (["--model", "mrda-x4", "--height", "0"], ["height is 0, but must be at least 1"]),
        (["--model", "mrda-x4", "--width", "100000"], ["width is 100000, but must be at most 65536"]),
        (["--height", "3"], ["--height and --width require a network"]),
        (["weights.safetensors", "--model", "mrda-x4"], ["the weights weights.safetensors can't be combined"]),
        (["none.safetensors", "--json"], ["none.safetensors"]),
    ],
)
def test_wrong_calls(arguments, words):
    result = run("info", *arguments)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert one_sentence(result.stderr), result.stderr
    for word in words:
        assert word in result.stderr


def test_info_shows_versions_and_backends():
    result = run("info")
    assert result.exit_code == 0, result.stderr
    assert torch.__version__.split("+")[0] in result.stdout
    assert "reference" in result.stdout


def test_info_shows_what_a_weights_file_holds(weights):
    result = run("info", weights)
    assert result.exit_code == 0, result.stderr
    network = MRDAStudent(scale=2, num_feat=8, num_blocks=2, den_width=4)
    count = sum(p.numel() for p in network.parameters())
    for words in ("MRDAStudent", f"{count:,}"):
        assert words in result.stdout
    assert "scale         2" in result.stdout


def test_info_refuses_what_holds_no_weights(tmp_path, photo):
    result = run("info", photo)
    assert result.exit_code == 2
    assert one_sentence(result.stderr)
