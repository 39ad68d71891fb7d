"""`mrda app`."""

import os
import re
import signal
import socket
import sys
import urllib.request

import pytest
from commands import refused, run, start

INSTALLED = "gradio is not installed: pip install 'mrda-kernels[app]'"


@pytest.fixture
def port():
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return listening.getsockname()[1]


def test_without_weights_or_gradio_it_says_what_to_do(tmp_path, weights, monkeypatch):
    out = tmp_path / "out"
    refused(run("app"), out, "-w WEIGHTS", "mrda train --config demo")
    monkeypatch.setitem(sys.modules, "gradio", None)
    refused(run("app", "-w", weights), out, "the web page needs gradio: pip install 'mrda-kernels[app]'")


def test_bad_weights_and_devices_are_refused(tmp_path, weights, monkeypatch):
    pytest.importorskip("gradio", reason=INSTALLED)
    monkeypatch.setattr(os, "environ", dict(os.environ))
    out = tmp_path / "out"
    refused(run("app", "-w", tmp_path / "none.safetensors"), out, "there is no weights file")
    refused(run("app", "-w", weights, "--device", "abacus"), out, "--device abacus can't be used")


@pytest.mark.slow
def test_the_page_is_served_until_ctrl_c_and_nothing_is_left(tmp_path, weights, port):
    pytest.importorskip("gradio", reason=INSTALLED)
    env = {**os.environ, "TMPDIR": str(tmp_path), "HTTP_PROXY": "http://127.0.0.1:1"}  # where nobody listens
    # In a session of its own, or the test run would see the signal too.
    process = start("app", "-w", weights, "--port", port, env=env, start_new_session=True)
    told = process.stderr.readline()
    assert re.fullmatch(rf"mrda: the page is at http://127\.0\.0\.1:{port}/ until Ctrl-C\n", told), told
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(f"http://127.0.0.1:{port}") as answer:
        assert answer.status == 200
    assert list(tmp_path.glob("mrda-app-*"))
    other = start("app", "-w", weights, "--port", port, env=env)
    _, stderr = other.communicate()
    assert other.returncode == 2
    assert stderr.startswith(f"mrda: --host 127.0.0.1 --port {port} can't be listened at")
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate()
    assert (process.returncode, stdout, stderr) == (130, "", "")
    assert not list(tmp_path.glob("mrda-app-*"))
