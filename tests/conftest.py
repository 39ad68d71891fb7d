"""Settings of all tests: repeatable examples, one thread in each parallel process, the GPU if there is one."""

import os
import signal

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in a shell's background jobs, and all that they start
    signal.signal(signal.SIGINT, signal.default_int_handler)
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ["OMP_NUM_THREADS"] = "1"  # torch reads it when it is imported, and so do the processes that tests start

from contextlib import ExitStack

import pytest
import torch
from disks import files_of
from hypothesis import settings

settings.register_profile("ci", derandomize=True, deadline=None, max_examples=50, print_blob=True)
settings.load_profile("ci")

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # has to be there before triton is imported
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what deterministic algorithms want on a GPU


@pytest.fixture(autouse=True)
def float32_upscalers(monkeypatch):
    """Upscalers compute in float32 where a test does not say otherwise, whatever is fastest on the machine."""
    monkeypatch.setattr("mrda.upscale.upscaler._best_dtype", lambda device: torch.float32)


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups
def pytest_collection_modifyitems(config, items):
    """Skip the tests marked `gpu` where there is none; in parallel runs, keep together what shares something.

    A file's tests share fixtures, and stay in one process. So do all tests on a GPU, and those of the group `system`:
    they open ports, wait for signals or start processes that train together. The files with slow tests go first, so
    that the processes end at about the same time.
    """
    for item in items:
        if item.get_closest_marker("slow_interpreted") and "triton-interpreter" in item.name:
            item.add_marker("slow")
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.xdist_group("gpu"))
            if not torch.cuda.is_available():
                item.add_marker(pytest.mark.skip(reason="needs an NVIDIA GPU, and torch finds none here"))
        elif not item.get_closest_marker("xdist_group"):
            item.add_marker(pytest.mark.xdist_group(item.path.relative_to(config.rootpath).as_posix()))
    if hasattr(config, "workerinput"):
        slow = {group(item) for item in items if item.get_closest_marker("slow")}
        items.sort(key=lambda item: (group(item) != "system", group(item) not in slow))


def group(item):
    """The tests that run in the same process as this one have the same group."""
    return item.get_closest_marker("xdist_group").args[0]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport():
    """Escape names of files that are no text in captured output, which parallel runs could not send otherwise."""
    report = yield
    report.sections = [(name, text.encode("utf-8", "backslashreplace").decode()) for name, text in report.sections]
    return report


@pytest.fixture
def small_files():
    """A function that limits the size of files for the rest of the test."""
    with ExitStack() as stack:
        yield lambda size: stack.enter_context(files_of(size))
