"""`mrda app`."""

import hashlib
import os
import re
import signal
import socket
import sys
import urllib.request
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from commands import refused, replaced, run, start

from mrda.cli.page import _choices
from mrda.networks import MRDAStudent, save_network
from mrda.upscale.choice import PURPOSES, Purpose
from mrda.upscale.upscaler import Upscaler
from mrda.upscale.weights import BUNDLED, PARTNERS, SUPERSEDED

INSTALLED = "gradio is not installed: pip install './mrda[app]'"
pytestmark = pytest.mark.xdist_group("system")


@pytest.fixture
def port():
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return listening.getsockname()[1]


def test_without_gradio_it_says_what_to_do(tmp_path, weights, monkeypatch):
    out = tmp_path / "out"
    monkeypatch.setitem(sys.modules, "gradio", None)
    refused(run("app", "-w", weights), out, "the web page needs gradio: pip install './mrda[app]'")


def test_bad_weights_and_devices_are_refused(tmp_path, weights, monkeypatch):
    pytest.importorskip("gradio", reason=INSTALLED)
    monkeypatch.setattr(os, "environ", dict(os.environ))
    out = tmp_path / "out"
    refused(run("app", "-w", tmp_path / "none.safetensors"), out, "there is no weights file")
    refused(run("app", "-w", weights, "--device", "abacus"), out, "--device abacus can't be used")


def test_weights_of_the_package_can_be_chosen_beside_others(tmp_path, weights, monkeypatch):
    pytest.importorskip("gradio", reason=INSTALLED)
    monkeypatch.setattr(os, "environ", dict(os.environ))
    (tmp_path / "bundled").mkdir()
    (tmp_path / "bundled" / "our-x2.safetensors").write_bytes(weights.read_bytes())
    (tmp_path / weights.name).write_bytes(weights.read_bytes())
    monkeypatch.setattr("mrda.upscale.weights.BUNDLED_FOLDER", tmp_path / "bundled")
    ours = {"our-x2": hashlib.sha256(weights.read_bytes()).hexdigest()}
    purposes = {"our-x2": Purpose("Our photo", "ours", noise=1.0, jpeg_quality=90)}
    shown = []

    def show(page, **_):
        shown.append(list(page))
        raise OSError

    monkeypatch.setattr("mrda.app.page.build_page", lambda choices, max_pixels: choices)
    monkeypatch.setattr("mrda.app.page.launch", show)
    with replaced(BUNDLED, ours), replaced(PURPOSES, purposes):
        for given in ((), (weights,), (weights, tmp_path / weights.name, "our-x2")):
            options = [word for path in given for word in ("-w", path)]
            refused(run("app", *options), tmp_path / "out", "--host 127.0.0.1")
    titles = ["Choose for me", "Our photo"]
    assert shown == [titles, ["student", *titles], [str(weights), str(tmp_path / weights.name), *titles]]


def test_weights_of_a_pair_can_be_asked_for_at_any_strength(tmp_path, monkeypatch):
    names = ("clean", "real", "alone")
    ours = {}
    for seed, name in enumerate(names):
        torch.manual_seed(seed)
        path = tmp_path / f"{name}.safetensors"
        save_network(MRDAStudent(scale=2, num_feat=4, num_blocks=1, den_width=2), path)
        ours[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    monkeypatch.setattr("mrda.upscale.weights.BUNDLED_FOLDER", tmp_path)
    purposes = {name: Purpose(name, name, noise=1.0, jpeg_quality=90) for name in names}
    purposes["real"] = replace(purposes["real"], strength=0.75)
    with (
        replaced(BUNDLED, ours),
        replaced(PURPOSES, purposes),
        replaced(PARTNERS, {"clean": "real"}),
        replaced(SUPERSEDED, {"former": "clean"}),
    ):
        choices = _choices([Path("former")], {"device": "cpu"})
        assert list(choices) == ["Choose for me", *names]
        assert [weights.strength for weights in choices.values()] == [None, 0.0, 0.75, None]
        at_start = Upscaler.from_pretrained("real", device="cpu", strength=0.75).network.state_dict()
        for key, value in choices["real"].upscaler.network.state_dict().items():
            assert torch.equal(value, at_start[key])
        expected = Upscaler.from_pretrained("clean", device="cpu", strength=0.25).network.state_dict()
        for name in ("clean", "real"):
            found = choices[name].at(0.25).upscaler.network.state_dict()
            assert all(torch.equal(value, expected[key]) for key, value in found.items())
        assert choices["clean"].at(0.0) is choices["clean"]
        assert choices["alone"].at(0.5) is choices["alone"]


@pytest.mark.slow
def test_the_page_is_served_until_ctrl_c_and_nothing_is_left(tmp_path, weights, port):
    pytest.importorskip("gradio", reason=INSTALLED)
    env = {**os.environ, "TMPDIR": str(tmp_path), "HTTP_PROXY": "http://127.0.0.1:1"}  # a proxy that does not exist
    # In a session of its own, or the test run would see the signal too.
    process = start("app", "-w", weights, "--port", port, env=env, start_new_session=True)
    told = process.stderr.readline()
    assert re.fullmatch(rf"mrda: the page is at http://127\.0\.0\.1:{port}/; press Ctrl-C to stop\n", told), told
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(f"http://127.0.0.1:{port}") as answer:
        assert answer.status == 200
    assert list(tmp_path.glob("mrda-app-*"))
    other = start("app", "-w", weights, "--port", port, env=env)
    _, stderr = other.communicate()
    assert other.returncode == 2
    assert stderr.startswith(f"mrda: can't listen on --host 127.0.0.1 --port {port}")
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate()
    assert (process.returncode, stdout, stderr) == (130, "", "")
    assert not list(tmp_path.glob("mrda-app-*"))
