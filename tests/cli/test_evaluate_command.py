import json

import pytest
from commands import one_sentence, run
from PIL import Image


@pytest.fixture
def folder(tmp_path, photo):
    folder = tmp_path / "SetA"
    folder.mkdir()
    photo.rename(folder / photo.name)
    return folder


def test_evaluate_prints_a_table_and_writes_json(tmp_path, folder, weights):
    scores = tmp_path / "scores.json"
    result = run("evaluate", "-w", weights, "--data", folder, "--json", scores)
    assert result.exit_code == 0, result.stderr
    datasets = json.loads(scores.read_text())["datasets"]
    assert list(datasets) == ["SetA"]
    assert list(datasets["SetA"]) == ["bicubic", "mrda_s"]
    for method, summary in datasets["SetA"].items():
        assert set(summary) == {"psnr_y", "ssim_y", "per_condition"}
        assert len(summary["per_condition"]) == 8
        assert "sigma=0.8" in summary["per_condition"]
        row = f"| SetA | {method} | {summary['psnr_y']:.2f} | {summary['ssim_y']:.4f} |"
        assert row in result.stdout


def test_evaluate_bicubic_needs_no_weights(tmp_path, folder):
    scores = tmp_path / "scores.json"
    result = run(
        "evaluate",
        "--method",
        "bicubic",
        "--protocol",
        "bicubic",
        "--scale",
        3,
        "--data",
        folder,
        "--json",
        scores,
    )
    assert result.exit_code == 0, result.stderr
    assert list(json.loads(scores.read_text())["datasets"]["SetA"]) == ["bicubic"]


def test_evaluate_takes_several_folders(tmp_path, folder):
    other = tmp_path / "SetB"
    other.mkdir()
    Image.new("RGB", (40, 40), "red").save(other / "red.png")
    result = run("evaluate", "--method", "bicubic", "--protocol", "bicubic", "--scale", 2, "--data", folder, other)
    assert result.exit_code == 0, result.stderr
    assert "| SetA | bicubic |" in result.stdout
    assert "| SetB | bicubic |" in result.stdout


def test_evaluate_does_the_others_when_photos_fail(tmp_path, folder):
    (folder / "bad.png").write_text("milk, bread\n")
    Image.new("RGB", (8, 8)).save(folder / "small.png")
    result = run("evaluate", "--method", "bicubic", "--scale", 2, "--data", folder)
    assert result.exit_code == 1
    lines = result.stderr.splitlines()
    assert len(lines) == 2
    assert "bad.png" in lines[0]
    assert "small.png" in lines[1]
    assert "| SetA | bicubic |" in result.stdout


def test_evaluate_refuses_wrong_usage(tmp_path, folder, weights):
    same_name = tmp_path / "other" / "SetA"
    same_name.mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(same_name / "a.png")
    data = ("--data", folder)
    for arguments, word in (
        ((*data,), "-w WEIGHTS"),
        ((*data, "-w", tmp_path / "gone.safetensors"), "gone.safetensors"),
        ((*data, "-w", weights, "--scale", 4), "--scale is 4"),
        ((*data, "-w", weights, "--method", "lanczos"), "lanczos"),
        ((*data, "-w", weights, "--method", "bicubic"), "no weights"),
        ((*data, "-w", weights, "--protocol", "gaussian9"), "gaussian9"),
        ((*data, "--method", "bicubic", "--scale", 5), "5"),
        ((*data, "--method", "bicubic", "--scale", 0), "scale is 0"),
        ((*data, "-w", weights, "--scale", 0), "--scale is 0"),
        ((*data, "--method", "bicubic", "--json", tmp_path / "no" / "s.json"), "--json"),
        ((*data, "--method", "bicubic", "--json", tmp_path / ("x" * 300)), "--json"),
        (("--data", "x" * 300, "--method", "bicubic"), "xxx"),
        ((*data, same_name, "--method", "bicubic"), "SetA"),
        (("--data", tmp_path / "nowhere", "--method", "bicubic"), "nowhere"),
    ):
        result = run("evaluate", *arguments)
        assert result.exit_code == 2, (arguments, result.output)
        assert one_sentence(result.stderr), result.stderr
        assert word in result.stderr
