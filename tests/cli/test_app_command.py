"""`mrda app`."""

import hashlib
import os
import re
import signal
import socket
import sys
import urllib.request

import pytest
from commands import refused, run, start

from mrda.upscale.weights import BUNDLED

INSTALLED = "gradio is not installed: pip install 'mrda-kernels[app]'"
pytestmark = pytest.mark.xdist_group("system")


@pytest.fixture
def port():
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return listening.getsockname()[1]


def test_without_gradio_it_says_what_to_do(tmp_path, weights, monkeypatch):
    out = tmp_path / "out"
    monkeypatch.setitem(sys.modules, "gradio", None)
    refused(run("app", "-w", weights), out, "the web page needs gradio: pip install 'mrda-kernels[app]'")


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
    for name in list(BUNDLED):
        monkeypatch.delitem(BUNDLED, name)
    monkeypatch.setitem(BUNDLED, "our-x2", hashlib.sha256(weights.read_bytes()).hexdigest())
    shown = []

    def show(page, **_):
        shown.append(list(page))
        raise OSError

    monkeypatch.setattr("mrda.app.page.build_page", lambda choices, max_pixels: choices)
    monkeypatch.setattr("mrda.app.page.launch", show)
    for given in ((), (weights,), (weights, tmp_path / weights.name, "our-x2")):
        refused(run("app", *(word for path in given for word in ("-w", path))), tmp_path / "out", "--host 127.0.0.1")
    assert shown == [["our-x2"], ["student", "our-x2"], [str(weights), str(tmp_path / weights.name), "our-x2"]]


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
