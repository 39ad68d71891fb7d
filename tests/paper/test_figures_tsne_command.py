import csv

import numpy as np
import pytest
import torch
from commands import one_sentence, run
from PIL import Image

from mrda.networks import MRDAStudent, save_network


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "B100"
    path.mkdir()
    for number in range(4):
        levels = np.random.default_rng(number).integers(0, 256, (24, 30, 3), dtype=np.uint8)
        Image.fromarray(levels).save(path / f"{number}.png")
    return path


@pytest.fixture
def others(tmp_path):
    torch.manual_seed(1)
    path = tmp_path / "x3.safetensors"
    save_network(MRDAStudent(scale=3, num_feat=8, num_blocks=1, den_width=4), path)
    return path


def rows(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_a_panel_for_each_network(tmp_path, folder, weights):
    picture = tmp_path / "tsne.png"
    named = (f"S3={weights}", f"T1={weights}")
    result = run("figures", "tsne", "--weights", *named, "--data", folder, "-o", picture, "--sigmas", "0.8,2.4")
    assert result.exit_code == 0, result.stderr
    assert f"wrote {picture} and tsne.csv" in result.stderr
    assert "8 points are few: the perplexity is 2.66667, not 30" in result.stderr
    table = rows(tmp_path / "tsne.csv")
    assert len(table) == 2 * 4 * 2
    assert {row["panel"] for row in table} == {"S3", "T1"}
    assert {row["condition"] for row in table} == {"sigma=0.8", "sigma=2.4"}
    with Image.open(picture) as image:
        assert image.size > (600, 300)


def test_kernels_has_a_row_for_kernels_and_one_for_noise(tmp_path, folder, weights):
    picture = tmp_path / "kernels.png"
    given = ("--weights", f"S3={weights}", "--data", folder, "--limit", 3)
    result = run("figures", "kernels", *given, "-o", picture)
    assert result.exit_code == 0, result.stderr
    table = rows(tmp_path / "kernels.csv")
    # Eight of the nine kernels differ; and there are four levels of noise.
    assert len(table) == 3 * (8 + 4)
    assert len({row["condition"] for row in table}) == 8 + 4
    assert {row["row"] for row in table} == {
        "kernel (l1, l2, angle), noise 10",
        "noise, kernel 3.5, 1.5, 20\N{DEGREE SIGN}",
    }


@pytest.mark.parametrize(
    ("command", "arguments", "word"),
    [
        ("tsne", (), "--weights NAME=FILE or --dasr FILE"),
        ("tsne", ("--weights", "S3"), "NAME=FILE"),
        ("tsne", ("--weights", "S3=nowhere"), "nowhere"),
        ("tsne", ("--weights", "A=student", "--sigmas", "1"), "--sigmas is '1'"),
        ("tsne", ("--weights", "A=student", "--sigmas", "1,1"), "--sigmas is '1,1'"),
        ("tsne", ("--weights", "A=student", "--sigmas", "-1,1"), "--sigmas is '-1,1'"),
        ("kernels", ("--weights", "A=student", "--levels", "5,x"), "--levels is '5,x'"),
        ("kernels", ("--weights", "A=student", "--data", "nowhere"), "nowhere"),
        ("tsne", ("--weights", "A=student", "B=x3"), "scales [2, 3]"),
        ("tsne", ("--weights", "A=student", "-o", "out.jpg"), "out.jpg"),
        ("tsne", ("--dasr", "nowhere"), "nowhere"),
        ("tsne", ("--weights", "A=student", "--mln", "nowhere"), "only teachers use an MLN"),
        ("tsne", ("--weights", "A=student", "--max-size", "3"), "--max-size is 3"),
    ],
)
def test_wrong_usage_is_one_sentence(tmp_path, folder, weights, others, monkeypatch, command, arguments, word):
    monkeypatch.chdir(tmp_path)
    files = {"A=student": f"A={weights}", "B=x3": f"B={others}"}
    given = [files.get(argument, argument) for argument in arguments]
    if "--data" not in given:
        given += ["--data", folder]
    if "-o" not in given:
        given += ["-o", "out.png"]
    result = run("figures", command, *given)
    assert result.exit_code == 2, result.stderr
    assert one_sentence(result.stderr), result.stderr
    assert word in result.stderr
    assert not list(tmp_path.glob("out.*"))
