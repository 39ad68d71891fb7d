"""Files that are given as weights and are something else, and weights that other programs have written."""

import gzip
import json
import pickle
import socket
import subprocess
import sys
import threading
import time
import zipfile
from http.server import BaseHTTPRequestHandler, HTTPServer

import huggingface_hub
import numpy as np
import pytest
import torch
from commands import one_sentence, run, start
from huggingface_hub import PyTorchModelHubMixin, constants, errors
from huggingface_hub.utils import close_session
from PIL import Image
from safetensors.torch import save_file

import mrda.upscale.weights
from mrda.networks import MLN, MRDAOracle, MRDAStudent, MRDATeacher, read_metadata, save_network, to_official
from mrda.upscale.upscaler import load_weights
from mrda.upscale.weights import find_weights

TINY = {"scale": 2, "num_feat": 8, "num_blocks": 1, "den_width": 4}
NETWORKS = {
    "student": (MRDAStudent, TINY),
    "teacher": (MRDATeacher, {**TINY, "mln_feat": 2}),
    "oracle": (MRDAOracle, {**TINY, "blur_size": 21}),
    "mln": (MLN, {"scale": 2, "num_feat": 4, "num_body": 1}),
}
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 22000000\n"
PAGE = b"\n<!DOCTYPE html><html><head><title>Sign in</title></head></html>"


class Dangerous:
    """An object that runs code when it is unpickled."""

    def __reduce__(self):
        return print, ("executed",)


def same(network, other):
    state = other.state_dict()
    return all(torch.equal(state[key], tensor) for key, tensor in network.state_dict().items())


def student():
    torch.manual_seed(0)
    return MRDAStudent(**TINY)


def weights(path):
    save_network(student(), path)
    return path.read_bytes()


def image(kind):
    def write(path):
        Image.new("RGB", (8, 8)).save(path, kind)

    return write


def zipped(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("weights.safetensors", b"x")


def truncated(part):
    def write(path):
        whole = weights(path)
        path.write_bytes(whole[: int(len(whole) * part)])

    return write


def arrays(path):
    with open(path, "wb") as file:
        np.savez(file, a=np.zeros(3))


def torch_file(content):
    return lambda path: torch.save(content, path)


WRONG = {
    "pointer": (
        lambda path: path.write_bytes(POINTER),
        "it is a Git LFS pointer, not the file itself: run `git lfs pull`",
    ),
    "page": (lambda path: path.write_bytes(PAGE), "it is a web page, not the file itself: "),
    "xml": (
        lambda path: path.write_bytes(b"<?xml version='1.0'?><Error>AccessDenied</Error>"),
        "it is a web page, not",
    ),
    "empty": (lambda path: path.write_bytes(b""), "it is empty$"),
    "zeros": (lambda path: path.write_bytes(bytes(100_000)), "it begins with zeros, as an interrupted download does"),
    "text": (lambda path: path.write_bytes(b"Not found"), "it is a text file$"),
    "jpeg": (image("JPEG"), "it is a JPEG image$"),
    "png": (image("PNG"), "it is a PNG image$"),
    "webp": (image("WEBP"), "it is a WebP image$"),
    "gzip": (lambda path: path.write_bytes(gzip.compress(b"weights")), "it is a gzip archive: unpack it first$"),
    "zip": (zipped, "it is a zip archive without weights of torch: if it holds a weights file, unpack it first$"),
    "npz": (arrays, "it is an archive of numpy arrays$"),
    "cut in the header": (truncated(0.01), "it is cut short, in its header: download or copy it again$"),
    "cut": (truncated(0.9), r"it is cut short: it has [\d,]+ of [\d,]+ bytes: download or copy it again$"),
    "objects": (
        torch_file({"model": Dangerous()}),
        "it holds Python objects besides tensors, which are not read, because",
    ),
    "pickle": (
        lambda path: path.write_bytes(pickle.dumps(Dangerous())),
        "it holds Python objects besides tensors|not a file",
    ),
    "older pickle": (
        lambda path: path.write_bytes(b"a/" + bytes(98) + b"0" * 155 + b"ustar\0" + bytes(300)),
        "it is not a (file of torch's weights|safetensors file), or damaged$",
    ),
    "list": (torch_file([1, 2]), "hold list, but must hold a state dict$"),
    "network": (
        torch_file({"conv_first.weight": torch.zeros(3), "body.0.weight": torch.zeros(1)}),
        "hold another network: the keys begin with body, conv_first, but must begin with head, body and tail",
    ),
    "lightning": (
        torch_file({"state_dict": {"model.x.weight": torch.zeros(3)}, "epoch": 3}),
        "hold another network: the keys begin with model, but must",
    ),
    "other safetensors": (
        lambda path: save_file({"unet.conv.weight": torch.zeros(3)}, path),
        "hold another network: the keys begin with unet, but must",
    ),
}


@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".ckpt", ".bin"])
@pytest.mark.parametrize("kind", WRONG)
def test_a_file_that_is_something_else_is_named(tmp_path, capsys, kind, suffix):
    write, words = WRONG[kind]
    path = tmp_path / f"weights{suffix}"
    write(path)
    with pytest.raises(ValueError, match=words) as raised:
        load_weights(path)
    assert str(raised.value).startswith(f"weights {path} ")
    assert "\n" not in str(raised.value)
    assert capsys.readouterr() == ("", "")  # nothing is executed, and no library speaks


def test_a_torch_file_that_is_cut_short_is_named(tmp_path):
    path = tmp_path / "weights.pth"
    torch.save(to_official(student()), path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"it is cut short or damaged: download or copy it again$"):
        load_weights(path)


def test_the_command_says_it_in_one_sentence(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    (tmp_path / "w.safetensors").write_bytes(POINTER)
    for command in (
        ["upscale", tmp_path / "a.png", "-o", tmp_path / "out"],
        ["info"],
        ["export", "-o", tmp_path / "e"],
    ):
        option = ["-w"] * (command != ["info"])
        result = run(*command, *option, tmp_path / "w.safetensors")
        assert result.exit_code == 2
        assert one_sentence(result.stderr), result.stderr
        assert "it is a Git LFS pointer" in result.stderr


# Weights by other programs


@pytest.mark.parametrize("suffix", [".pth", ".ckpt", ".bin", ".safetensors", ""])
def test_the_content_tells_the_format(tmp_path, suffix):
    path = tmp_path / f"weights{suffix}"
    torch.save({"state_dict": to_official(student()), "epoch": 3}, path)
    assert same(student(), load_weights(path))
    weights(path)
    assert same(student(), load_weights(path))


@pytest.mark.parametrize("name", NETWORKS)
def test_a_folder_of_hugging_face_s_mixin_loads(tmp_path, name):
    architecture, options = NETWORKS[name]

    class Hub(architecture, PyTorchModelHubMixin):
        pass

    torch.manual_seed(0)
    network = Hub(**options)
    network.save_pretrained(tmp_path)
    assert "architecture" not in read_metadata(tmp_path / "model.safetensors")
    for path in (tmp_path, tmp_path / "model.safetensors"):
        loaded = load_weights(path)
        assert type(loaded) is architecture
        assert loaded.hyperparameters == network.hyperparameters
        assert same(loaded, network)


def test_a_student_s_plain_state_dict_loads(tmp_path):
    save_file(student().state_dict(), tmp_path / "a.safetensors")
    assert same(student(), load_weights(tmp_path / "a.safetensors"))
    teacher = MRDATeacher(**TINY, mln_feat=2)
    save_file(teacher.state_dict(), tmp_path / "b.safetensors")
    with pytest.raises(ValueError, match=r"do not say which network they are: put its arguments into a config\.json"):
        load_weights(tmp_path / "b.safetensors")


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ("{", r"config\.json, beside the weights .*, cannot be read"),
        ("[]", "are not those of an MRDA network with the arguments in"),
        (
            '{"hidden_size": 768}',
            "are not those of an MRDA network with the arguments in .*: their keys begin with den",
        ),
        (json.dumps({**TINY, "num_feat": 16}), "are not those of an MRDA network"),
    ],
)
def test_arguments_of_another_network_are_told(tmp_path, config, words):
    save_file(student().state_dict(), tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(config)
    with pytest.raises(ValueError, match=words):
        load_weights(tmp_path)


def test_the_arguments_are_downloaded_with_weights_that_lack_them(tmp_path, monkeypatch):
    class Hub(MRDATeacher, PyTorchModelHubMixin):
        pass

    network = Hub(**NETWORKS["teacher"][1])
    network.save_pretrained(tmp_path)
    asked = []

    def download(repository, name):
        asked.append(name)
        return str(tmp_path / name)

    monkeypatch.setattr(mrda.upscale.weights, "_hub_answers", lambda: True)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    assert same(load_weights("user/name"), network)
    assert asked == ["model.safetensors", "config.json"]


# Offline


@pytest.fixture
def client(monkeypatch):
    """The Hub's client, which may only be asked for what it has in its cache."""
    asked = []

    def download(repository, name, local_files_only):
        asked.append((repository, name, local_files_only))
        raise errors.LocalEntryNotFoundError.__new__(errors.LocalEntryNotFoundError, "none")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "no_proxy", "HF_HUB_ETAG_TIMEOUT"):
        monkeypatch.delenv(name, raising=False)
    close_session()  # which has the proxies of the time when it was opened
    yield asked
    close_session()


@pytest.mark.parametrize(
    "fault", ["unknown name", "no answer", "slow name", "refused", "offline", "dead proxy", "not the Hub"]
)
def test_a_mistyped_name_is_told_at_once_without_a_network(monkeypatch, client, fault):
    def connect(place, timeout, **_):
        if fault == "unknown name":
            raise socket.gaierror(-2, "Name or service not known")
        if fault == "not the Hub":  # but a page that asks for a password, which has no certificate for the Hub
            ours, others = socket.socketpair()
            others.sendall(b"HTTP/1.1 302 Found\r\nLocation: /login\r\n\r\n")
            return ours
        if fault == "refused":
            raise ConnectionRefusedError(111, "Connection refused")
        assert place == (("proxy.local", 3128) if fault == "dead proxy" else ("huggingface.co", 443))
        time.sleep(20 if fault == "slow name" else timeout)
        raise TimeoutError("timed out")

    if fault == "dead proxy":
        monkeypatch.setenv("https_proxy", "http://proxy.local:3128")
    if fault == "offline":
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(mrda.upscale.weights, "_CONNECTING", 0.2)
    monkeypatch.setattr(socket, "create_connection", connect)
    with pytest.raises(
        ValueError, match=r"there are no weights a/b, .*: the Hub can't be reached, and they are not in"
    ):
        find_weights("a/b")
    assert client == [("a/b", "model.safetensors", True)]


def test_the_hub_is_asked_where_it_answers(monkeypatch, client):
    def download(repository, name):
        return str(mrda.upscale.weights._bundled("mrda-x4"))

    with HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as server:  # it answers with an error
        threading.Thread(target=server.handle_request, daemon=True).start()
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
        assert find_weights("a/b").name == "mrda-x4.safetensors"


def test_the_hubs_client_prints_nothing(tmp_path):
    """It sets the level of its log when it is first used."""
    script = (
        "from mrda.upscale.weights import _quiet_hub\n"
        "with _quiet_hub():\n"
        "    from huggingface_hub.utils import _http\n"
        "    _http.logger.warning('Retrying')"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stderr == ""


def test_the_command_imports_no_torch_to_tell_a_mistyped_name(tmp_path):
    (tmp_path / "torch.py").write_text("raise AssertionError('torch was imported')")
    environment = {"PATH": "", "PYTHONPATH": str(tmp_path), "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    process = start("upscale", "a.png", "-o", "out", "-w", "a/b", env=environment)
    _, error = process.communicate()
    assert process.returncode == 2
    assert one_sentence(error), error
    assert "there are no weights a/b" in error
