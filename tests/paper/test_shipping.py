"""The files of shipped weights: packed, registered, described, and read again by those who use them."""

import hashlib
import json
import re
import tomllib
from pathlib import Path

import pytest
import torch
from commands import REPOSITORY
from safetensors.torch import load_file

from mrda.networks import MRDAStudent, MRDATeacher, load_network, read_metadata, save_network
from mrda.paper.studies import release, shipping
from mrda.upscale.weights import BUNDLED_FOLDER, REGISTRY, read_registry

TINY = {"scale": 4, "num_feat": 8, "num_blocks": 1, "den_width": 4}
RECIPE = {
    "scale": 4,
    "data.sources": ["/secret/place/free_photos", "B"],
    "data.pairs": [],
    "degradation.type": "classic",
    "degradation.kernel": "isotropic",
    "degradation.sigma_range": [0.2, 4.0],
    "degradation.aniso_param": "sigma",
    "degradation.noise_range": [0.0, 0.0],
    shipping.ANCESTOR: "abc",
}
SAID = ["--license", "CC-BY-4.0", "--description", "For clean photos.", "--date", "2026-01-02"]


def student(seed, **others):
    torch.manual_seed(seed)
    return MRDAStudent(**TINY | others)


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Folders in place of the package's: one file is shipped, old-x4."""
    data, docs = tmp_path / "data", tmp_path / "docs"
    data.mkdir()
    docs.mkdir()
    monkeypatch.setattr(shipping, "BUNDLED_FOLDER", data)
    monkeypatch.setattr(shipping, "DOCS", docs)
    monkeypatch.setattr(release, "DOCS", docs)
    save_network(student(0).half(), data / "old-x4.safetensors", license="CC-BY-NC-4.0", data="A", ancestor="abc")
    entry = {"sha256": "0", "scores": {"gaussian8": {"Set5": [29.0, 0.8]}}}
    registry = {"weights": {"old-x4": entry, "last-x4": entry}, "superseded": {"older-x4": "old-x4"}, "partners": {}}
    (data / REGISTRY).write_text(json.dumps(registry))
    save_network(student(3).half(), data / "last-x4.safetensors", license="CC-BY-NC-4.0", data="A")
    return data, docs


@pytest.fixture
def run_folder(tmp_path):
    """A run whose last stage is the student."""
    folder = tmp_path / "run"
    for seed, stage in enumerate(("teacher", "student"), start=1):
        said = shipping.provenance(stage, RECIPE) | {"step": "7", "other": "gone"}
        (folder / stage).mkdir(parents=True)
        save_network(student(seed), folder / stage / "weights.safetensors", **said)
    return folder


def pack(*arguments):
    release.main(["pack", *map(str, arguments), *SAID])


def test_a_run_is_packed_in_half_precision_without_the_paths_of_the_machine(package, run_folder):
    data, _ = package
    pack(run_folder, "--name", "ours")
    packed = data / "ours.safetensors"
    said = read_metadata(packed)
    assert json.loads(said["recipe"])["data.sources"] == ["free_photos", "B"]
    assert (said["stage"], said["step"], said["data"], said["ancestor"]) == ("student", "7", "free_photos, B", "abc")
    assert (said["license"], said["description"]) == ("CC-BY-4.0", "For clean photos.")
    assert "secret" not in str(said)
    assert "other" not in said
    assert {tensor.dtype for tensor in load_file(packed).values()} == {torch.float16}
    for ours, theirs in zip(load_network(packed).parameters(), student(2).parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-6)
    registry = read_registry(data)
    assert registry["weights"]["ours"] == {"sha256": hashlib.sha256(packed.read_bytes()).hexdigest()}
    assert list(registry["weights"]) == ["old-x4", "last-x4", "ours"]
    assert "CC BY 4.0 (SPDX: CC-BY-4.0)" in (data / "LICENSE").read_text()


def test_a_checkpoint_is_packed_with_the_recipe_of_its_stage(package, tmp_path):
    folder = tmp_path / "run" / "student" / "checkpoints" / "step-00000012"
    folder.mkdir(parents=True)
    save_network(student(1), folder / "network.safetensors")
    (tmp_path / "run" / "student" / "recipe.json").write_text(json.dumps(RECIPE))
    pack(folder / "network.safetensors", "--name", "ours")
    said = read_metadata(package[0] / "ours.safetensors")
    assert (said["stage"], said["step"], said["data"]) == ("student", "12", "free_photos, B")


def test_what_a_file_does_not_say_has_to_be_said(package, tmp_path, capsys):
    plain = tmp_path / "plain.safetensors"
    save_network(student(1), plain)
    with pytest.raises(SystemExit):
        pack(plain, "--name", "ours")
    assert "name them with --data" in capsys.readouterr().err
    pack(plain, "--name", "ours", "--data", "free_photos")
    assert read_metadata(package[0] / "ours.safetensors")["data"] == "free_photos"
    save_network(MRDATeacher(**TINY, mln_feat=2), plain)
    with pytest.raises(SystemExit):
        pack(plain, "--name", "ours", "--data", "x")
    assert "a student" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        pack(tmp_path, "--name", "ours")
    assert "holds no finished stage" in capsys.readouterr().err


def test_weights_that_replace_others_take_their_place_and_their_names(package, run_folder):
    pack(run_folder, "--name", "ours", "--replaces", "old-x4")
    registry = read_registry(package[0])
    assert list(registry["weights"]) == ["ours", "last-x4"]
    assert registry["superseded"] == {"older-x4": "ours", "old-x4": "ours"}
    assert "old-x4" not in (package[0] / "LICENSE").read_text()


def test_a_partner_is_registered_if_there_is_something_between(package, run_folder, tmp_path, capsys):
    pack(run_folder, "--name", "ours", "--partner-of", "old-x4")
    assert read_registry(package[0])["partners"] == {"old-x4": "ours"}
    before = (package[0] / REGISTRY).read_text()
    large = tmp_path / "large.safetensors"
    save_network(student(1, num_blocks=2), large)
    for arguments, words in (
        ((large, "--data", "x", "--partner-of", "old-x4"), "differ in num_blocks (1 and 2)"),
        ((run_folder, "--partner-of", "last-x4"), "descend from abc, and last-x4 from None"),
        ((run_folder, "--partner-of", "unknown"), "--partner-of is unknown, but must be one of old-x4"),
    ):
        with pytest.raises(SystemExit):
            pack(*arguments, "--name", "third")
        assert words in capsys.readouterr().err
        assert (package[0] / REGISTRY).read_text() == before
        assert not (package[0] / "third.safetensors").exists()


def test_the_card_has_facts_scores_and_licence_and_keeps_what_was_written(package, run_folder, tmp_path):
    data, docs = package
    pack(run_folder, "--name", "ours", "--training", "2 hours on a core")
    scores = tmp_path / "scores.json"
    methods = {"bicubic": {"psnr_y": 25.0, "ssim_y": 0.7}, "mrda_s": {"psnr_y": 29.506, "ssim_y": 0.8}}
    scores.write_text(json.dumps({"datasets": {"Set5": methods}}))
    release.main(["card", "ours", "--scores", f"gaussian8={scores}"])
    text = (docs / "ours.md").read_text()
    for words in (
        "| Set5 | mrda_s | 29.51 | 0.8000 |",
        "| Set5 | MRDA_S (paper) | 31.98 | 0.8872 |",
        "| training | 2 hours on a core |",
        "| degradations | isotropic Gaussian blur of 0.2 to 4 px, bicubic downsampling |",
        "| last stage, steps | student, 7 |",
        "[CC BY 4.0](https://creativecommons.org/licenses/by/4.0/)",
        "[photographers](photographers.md)",
    ):
        assert words in text
    assert json.loads((docs / "ours.json").read_text()) == json.loads(scores.read_text())
    assert read_registry(data)["weights"]["ours"]["scores"] == {"gaussian8": {"Set5": [29.51, 0.8]}}
    (docs / "ours.md").write_text(f"{text}\nBy hand.\n")
    methods["mrda_s"]["psnr_y"] = 30.0
    (docs / "ours.json").write_text(json.dumps({"datasets": {"Set5": methods}}))
    release.main(["card", "ours", "--scores", f"gaussian8={docs / 'ours.json'}"])
    again = (docs / "ours.md").read_text()
    assert "| Set5 | mrda_s | 30.00 | 0.8000 |" in again
    assert "29.51" not in again
    assert again.endswith("\nBy hand.\n")


def test_openmodeldb_gets_what_the_file_says(package, run_folder):
    pack(run_folder, "--name", "ours", "--url", "https://example.org/ours.safetensors")
    release.main(["card", "ours"])
    file = package[0] / "ours.safetensors"
    found = json.loads((package[1] / "ours.model.json").read_text())
    assert found["resources"] == [
        {
            "platform": "pytorch",
            "type": "safetensors",
            "size": file.stat().st_size,
            "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
            "urls": ["https://example.org/ours.safetensors"],
        }
    ]
    del found["resources"]
    assert found == {
        "name": "ours",
        "author": "The MRDA kernels authors",
        "license": "CC-BY-4.0",
        "tags": ["photo"],
        "description": "For clean photos.",
        "date": "2026-01-02",
        "architecture": "MRDAStudent",
        "size": ["8nf", "1nb"],
        "scale": 4,
        "inputChannels": 3,
        "outputChannels": 3,
        "images": [],
        "dataset": "free_photos, B",
        "trainingIterations": 7,
    }


def test_the_package_s_own_files_agree():
    assert (BUNDLED_FOLDER / "LICENSE").read_text() == shipping.licence_text()
    licences = {read_metadata(BUNDLED_FOLDER / f"{name}.safetensors")["license"] for name in read_registry()["weights"]}
    expression = tomllib.loads((REPOSITORY / "mrda" / "pyproject.toml").read_text())["project"]["license"]
    assert set(expression.split(" AND ")) == {"Apache-2.0"} | licences
    for name, entry in read_registry()["weights"].items():
        assert json.loads((shipping.DOCS / f"{name}.model.json").read_text()) == shipping.record(name)
        assert (shipping.DOCS / f"{name}.md").exists()
        for protocol, scores in entry["scores"].items():
            path = shipping.DOCS / (f"{name}.json" if protocol == "gaussian8" else f"{name}-{protocol}.json")
            measured = json.loads(path.read_text())["datasets"]
            assert set(scores) == set(measured)
            for data, (psnr, ssim) in scores.items():
                ours = measured[data]["mrda_s"]
                assert (psnr, ssim) == (round(ours["psnr_y"], 2), round(ours["ssim_y"], 4))


PHOTOS = (
    "a.jpg\tdir/a b.jpg\tgithub.com/o/r @0123\tAnn | Bob\tCC-BY-SA-3.0\tREADME\treduced by 2\t",
    "b.jpg\tb.jpg\tDebian package some-photos_1.0-1_all.deb\t\tCC0\tCOPYING\treduced by 3\tfrom *elsewhere*",
    "c.jpg\tc.jpg\tgithub.com/o/r, commit 45^\tCy\tpublic domain\tAUTHORS\t\t",
)
HEADER = "file\toriginal\tsource\tauthor\tlicence\tlicence_stated_in\tchanges\tremarks"


def test_every_photograph_is_named_with_author_licence_source_and_changes(package, tmp_path):
    path = tmp_path / "ATTRIBUTION.tsv"
    path.write_text("\n".join((HEADER, *PHOTOS)) + "\n")
    release.main(["photographers", str(path)])
    text = (package[1] / "photographers.md").read_text()
    rows = [line for line in text.splitlines() if line.startswith("| `")]
    assert rows == [
        "| `a.jpg` | Ann \\| Bob | [CC BY-SA 3.0](https://creativecommons.org/licenses/by-sa/3.0/) | README "
        "| [github.com/o/r @0123: `dir/a b.jpg`](https://github.com/o/r/blob/0123/dir/a%20b.jpg) | reduced by 2 |",
        "| `b.jpg` | not stated | [CC0 1.0](https://creativecommons.org/publicdomain/zero/1.0/) | COPYING; from "
        "\\*elsewhere\\* | [Debian package some-photos\\_1.0-1\\_all.deb: `b.jpg`]"
        "(https://snapshot.debian.org/binary/some-photos/) | reduced by 3 |",
        "| `c.jpg` | Cy | public domain | AUTHORS | [github.com/o/r, commit 45^: `c.jpg`](https://github.com/o/r) |  |",
    ]
    assert "these 3 photographs" in text


def test_an_unknown_licence_or_a_missing_column_stops_the_page(package, tmp_path, capsys):
    path = tmp_path / "list.tsv"
    for text, words in (
        (f"{HEADER}\na\ta\tp\tA\tmine\tR\t\t\n", "the licence mine of a photograph is unknown"),
        ("file\tauthor\na\tA\n", "the columns original, source, licence"),
    ):
        path.write_text(text)
        with pytest.raises(SystemExit):
            release.main(["photographers", str(path)])
        assert words in capsys.readouterr().err
        assert not (package[1] / "photographers.md").exists()


def test_the_page_in_the_documentation_names_every_author():
    text = Path(shipping.DOCS / "photographers.md").read_text(encoding="utf-8")
    rows = [line for line in text.splitlines() if line.startswith("| `")]
    assert f"these {len(rows)} photographs" in text.replace("\n", " ")
    assert all(len(re.split(r"(?<!\\)\|", row)) == 8 for row in rows)
