import hashlib
import json
import subprocess
import sys

import huggingface_hub
import numpy as np
import pytest
import torch
from commands import replaced
from huggingface_hub import PyTorchModelHubMixin, errors
from PIL import Image
from safetensors.torch import load_file
from typer.testing import CliRunner

import mrda.upscale.weights
from mrda.cli import app
from mrda.networks import MRDAStudent, MRDATeacher, load_network, read_metadata, save_network
from mrda.upscale.choice import PURPOSES, Purpose
from mrda.upscale.upscaler import Upscaler, load_weights
from mrda.upscale.weights import find_weights, save_pretrained

TINY = {"scale": 2, "num_feat": 8, "num_blocks": 1, "den_width": 4}


def student():
    torch.manual_seed(0)
    return MRDAStudent(**TINY)


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "student.safetensors"
    save_network(student(), path)
    return path


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def refuse(repository, name):
        raise AssertionError(f"{repository}/{name} was looked for on the Hub")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", refuse)
    monkeypatch.setattr(mrda.upscale.weights, "_hub_answers", lambda: True)


@pytest.fixture
def bundled(tmp_path, file, monkeypatch):
    folder = tmp_path / "weights_data"
    folder.mkdir()
    (folder / "small-x2.safetensors").write_bytes(file.read_bytes())
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    monkeypatch.setattr(mrda.upscale.weights, "BUNDLED_FOLDER", folder)
    monkeypatch.setattr(mrda.upscale.weights, "BUNDLED", {"small-x2": digest, "other-x4": digest})
    return folder / "small-x2.safetensors"


def same(network, other):
    state = other.state_dict()
    return all(torch.equal(state[key], tensor) for key, tensor in network.state_dict().items())


def test_a_file_is_itself(file):
    assert find_weights(file) == find_weights(str(file)) == file


def test_a_folder_holds_model_safetensors(tmp_path, file):
    folder = tmp_path / "new" / "folder"
    upscaler = Upscaler.from_pretrained(file, device="cpu")
    upscaler.save_pretrained(folder)
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]
    assert find_weights(folder) == folder / "model.safetensors"
    image = np.random.default_rng(0).random((6, 7, 3))
    np.testing.assert_array_equal(Upscaler.from_pretrained(folder, device="cpu")(image), upscaler(image))
    with pytest.raises(ValueError, match=r"holds no model\.safetensors"):
        find_weights(tmp_path)


def test_folders_are_what_hugging_faces_mixin_reads(tmp_path):
    class Hub(MRDAStudent, PyTorchModelHubMixin):
        pass

    save_pretrained(student(), tmp_path, stage="student")
    loaded = Hub.from_pretrained(str(tmp_path))
    assert loaded.hyperparameters == student().hyperparameters
    assert same(student(), loaded)
    assert read_metadata(tmp_path / "model.safetensors")["stage"] == "student"
    assert json.loads((tmp_path / "config.json").read_text()) == student().hyperparameters


def test_what_is_said_of_weights_goes_with_them(tmp_path):
    save_pretrained(student(), tmp_path / "first", stage="student", license="free")
    upscaler = Upscaler.from_pretrained(tmp_path / "first", device="cpu")
    upscaler.save_pretrained(tmp_path / "second")
    first, second = (read_metadata(tmp_path / name / "model.safetensors") for name in ("first", "second"))
    assert first == second
    assert second["license"] == "free"


def test_bundled_weights_are_found_by_name(bundled, tmp_path, monkeypatch):
    assert find_weights("small-x2") == bundled
    (tmp_path / "small-x2").mkdir()
    monkeypatch.chdir(tmp_path)
    assert find_weights("small-x2") == bundled
    assert mrda.upscale.weights.default_weights() == "small-x2"
    assert same(student(), load_weights("small-x2"))


def test_damaged_or_missing_bundled_weights_are_refused(bundled):
    bundled.write_bytes(bundled.read_bytes()[:-1] + b"x")
    with pytest.raises(ValueError, match=r"the weights small-x2 of this package are damaged .*: reinstall the package"):
        find_weights("small-x2")
    with pytest.raises(
        ValueError, match=r"the weights other-x4 of this package can't be read .*: reinstall the package"
    ):
        find_weights("other-x4")


def test_every_bundled_file_is_there_and_whole():
    for name in mrda.upscale.weights.BUNDLED:
        assert isinstance(load_weights(name), MRDAStudent)


def test_a_file_of_a_bundled_name_comes_first(bundled, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small-x2").write_bytes(b"mine")
    assert find_weights("small-x2").read_bytes() == b"mine"


def test_a_repository_is_downloaded(file, monkeypatch):
    asked = []

    def download(repository, name):
        asked.append((repository, name))
        return str(file)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    assert same(student(), Upscaler.from_pretrained("some-one/their.net_x2", device="cpu").network)
    assert asked == [("some-one/their.net_x2", "model.safetensors")]


def made(kind, text):
    """An error of the Hub without the response that it wants, whose class changes from version to version."""
    return kind.__new__(kind, text)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (made(errors.RepositoryNotFoundError, "none"), "there is no such repository, or you have no access to it"),
        (made(errors.GatedRepoError, "gated"), "there is no such repository, or you have no access to it"),
        (errors.HFValidationError("bad"), "there is no such repository"),
        (made(errors.EntryNotFoundError, "none"), r"that repository holds no model\.safetensors"),
        (
            made(errors.LocalEntryNotFoundError, "offline"),
            "the Hub can't be reached, and they are not in its cache",
        ),
        (OSError("500 Server Error. Sorry."), "500 Server Error$"),
        (PermissionError(13, "Permission denied"), "Permission denied$"),
    ],
)
def test_what_the_hub_does_not_give_is_told_in_a_sentence(monkeypatch, error, words):
    def download(*_):
        raise error

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    with pytest.raises(ValueError, match=words) as raised:
        find_weights("user/name")
    assert str(raised.value).startswith("there are no weights user/name, here or at https://huggingface.co/user/name: ")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("name", ["none", "none.pth", "user/none.safetensors", "a/b/c", "/root/none", "us er/name"])
def test_what_can_be_no_repository_is_not_looked_for(name):
    with pytest.raises(ValueError, match=f"there is no weights file {name}"):
        find_weights(name)


def test_a_missing_file_of_a_folder_that_is_there_is_not_looked_for(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    with pytest.raises(ValueError, match="there is no weights file runs/demo"):
        find_weights("runs/demo")


def test_the_known_names_are_listed(bundled):
    with pytest.raises(ValueError, match="no weights file unknown; the package's own weights are small-x2, other-x4"):
        find_weights("unknown")


def test_half_precision_files_upscale_in_float32(tmp_path, file):
    save_network(student().half(), tmp_path / "half.safetensors")
    assert {tensor.dtype for tensor in load_file(tmp_path / "half.safetensors").values()} == {torch.float16}
    upscaler = Upscaler.from_pretrained(tmp_path / "half.safetensors", device="cpu")
    assert {tensor.dtype for tensor in upscaler.network.state_dict().values()} == {torch.float32}
    assert same(student().half().float(), upscaler.network)


def test_any_network_can_be_kept_in_a_folder(tmp_path):
    teacher = MRDATeacher(**TINY, mln_feat=2)
    save_pretrained(teacher, tmp_path)
    assert isinstance(load_weights(tmp_path), MRDATeacher)
    assert same(teacher, load_network(tmp_path / "model.safetensors"))


def test_the_hub_is_not_imported_before_it_is_needed():
    script = "import sys; sys.modules['huggingface_hub'] = None; import mrda.upscale.upscaler"
    subprocess.run([sys.executable, "-c", script], check=True)


def test_the_command_takes_the_default(bundled, tmp_path):
    Image.new("RGB", (8, 6)).save(tmp_path / "photo.png")
    arguments = ["upscale", str(tmp_path / "photo.png"), "-o", str(tmp_path / "out")]
    with replaced(PURPOSES, {"small-x2": Purpose("Small photo", "small photos", noise=1.0, jpeg_quality=90)}):
        result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.stderr
    with Image.open(tmp_path / "out" / "photo_x2.png") as image:
        assert image.size == (16, 12)
