import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from mrda.core import markdown
from mrda.paper.studies import jpeg as study
from mrda.photo.images import write_image


@pytest.fixture
def photos(tmp_path):
    """A folder of three noise pictures, one of them too small to be timed."""
    draws = np.random.default_rng(0)
    for name, shape in {"a": (40, 33), "b": (24, 50), "small": (8, 60)}.items():
        write_image(tmp_path / f"{name}.png", draws.integers(256, size=(*shape, 3), dtype=np.uint8))
    return tmp_path


@pytest.fixture
def toy(monkeypatch):
    for name, value in {"SIDE": 16, "BATCHES": (2, 3), "SECONDS": 0.0, "MIN_ROUNDS": 1}.items():
        monkeypatch.setattr(study, name, value)


def missing():
    raise ModuleNotFoundError("No module named 'kornia'")


def test_the_command_writes_both_tables(photos, toy, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(study, "CODECS", {**study.CODECS, "kornia": missing, "OpenCV's encoder": missing})
    page = tmp_path / "page.md"
    page.write_text("Before\n<!-- jpeg:begin -->\nold\n<!-- jpeg:end -->\nafter\n")
    out = tmp_path / "out.json"
    study.main(["--data", str(photos), "--json", str(out), "--update", str(page)])

    results = json.loads(out.read_text())
    assert results["absent"] == dict.fromkeys(("kornia", "OpenCV's encoder"), "No module named 'kornia'")
    agreement = {record["codec"]: record for record in results["agreement"]}
    assert set(agreement) == {f"{study.TRUTH}, in threads", study.OURS, study.SIMULATED}
    assert agreement[study.OURS]["comparisons"] == 3 * 66
    assert agreement[study.SIMULATED]["comparisons"] == 3 * 6
    assert agreement[study.SIMULATED]["identical"] == 0
    assert {(record["codec"], *record["shape"]) for record in results["speed"]} == {
        (codec, size, 3, 16, 16) for codec in (*agreement, study.TRUTH) for size in (2, 3)
    }
    assert all(0 < record["ms_shortest"] <= record["ms"] and record["rounds"] == 1 for record in results["speed"])

    table = capsys.readouterr().out
    assert "| tensors, simulated | 6, 30 to 95 | 0 of 18 |" in table
    assert "Not measured: kornia (No module named 'kornia')." in table
    assert page.read_text() == f"Before\n<!-- jpeg:begin -->\n{table}<!-- jpeg:end -->\nafter\n"


def test_agreement_is_with_pillows_encoder(photos):
    codecs = {
        study.TRUTH: study._encoded,
        "same": study._encoded,
        "off": lambda images, quality: study._encoded(images, quality) + 0.1 * (quality == 50),
    }
    sources = sorted(photos.iterdir())
    same, off = study.agreement(codecs, sources, every=(), some=(40, 50, 60))
    assert (same["identical"], same["lowest_db"], same["median_db"]) == (9, None, None)
    assert off["identical"] == 6
    assert off["lowest_db"] == pytest.approx(20, abs=1e-5)  # float32: 0.1 with an error of 2^-25 or so
    assert off["lowest_at"][1] == 50
    assert off["qualities"] == [40, 50, 60]


def test_psnr():
    images = torch.zeros(1, 3, 4, 4)
    assert study.psnr(images, images) == math.inf
    assert study.psnr(images + 0.5, images) == pytest.approx(20 * math.log10(2), rel=1e-12)


def test_crops_come_from_the_centres_of_large_photos(photos, toy):
    sources = sorted(photos.iterdir())
    crops = study.crops(sources, 3)
    first, second = (study.read(source) for source in sources[:2])
    assert torch.equal(crops[0], first[0, :, 12:28, 8:24])
    assert torch.equal(crops[1], second[0, :, 4:20, 17:33])
    assert torch.equal(crops[2], crops[0])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "name photos by --data"),
        (["--data", "nowhere"], "nowhere"),
        (["--data", "{photos}/small.png"], "no photo is 16 pixels high and wide or more"),
        (["--data", "{photos}", "--update", "{photos}/a.json"], "a.json"),
    ],
)
def test_a_wrong_option_is_one_sentence(arguments, message, photos, toy, monkeypatch, capsys):
    monkeypatch.delenv("MRDA_DATA", raising=False)
    with pytest.raises(SystemExit):
        study.main([argument.format(photos=photos) for argument in arguments])
    assert message in capsys.readouterr().err


def test_the_page_of_the_repository_is_what_its_results_give():
    root = Path(__file__).resolve().parents[2]
    results = json.loads((root / "benchmarks" / "results" / "jpeg.json").read_text())
    page = (root / "docs" / "jpeg.md").read_text()
    assert markdown.insert(page, study.document(results), study.SECTION) == page
