import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from synthetic import absent, record, setting

from benchmarks import commands, rda_block, rda_conv, tables
from benchmarks.commands import EFFORT, effort_for
from benchmarks.records import load
from mrda_kernels.backends import cpu

COMMANDS = [rda_conv, rda_block]


def refused(main, *arguments, capsys):
    with pytest.raises(SystemExit) as end:
        main(list(arguments))
    assert end.value.code == 2
    return capsys.readouterr().err


@pytest.mark.parametrize("command", COMMANDS)
def test_results_folder_that_does_not_exist_is_refused_before_any_work(command, tmp_path, capsys):
    words = refused(command.main, "--json", str(tmp_path / "nowhere" / "speed.json"), capsys=capsys)
    assert "nowhere/speed.json, but its folder does not exist" in words


@pytest.mark.parametrize("command", COMMANDS)
def test_cuda_without_a_gpu_is_refused_in_a_sentence(command, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    words = refused(command.main, "--device", "cuda", capsys=capsys)
    assert "--device is cuda, but torch finds no NVIDIA GPU here" in words


@pytest.mark.parametrize("command", COMMANDS)
def test_missing_native_backend_is_refused_with_its_reason(command, monkeypatch, capsys):
    monkeypatch.setattr(cpu, "why_not", lambda device_type: "it is broken")
    assert "there is nothing to measure on cpu: cpu: it is broken" in refused(command.main, capsys=capsys)


@pytest.mark.parametrize(
    "arguments", [["--device", "tpu"], ["--time-limit", "0"], ["--time-limit", "nan"], ["--slow"], ["--qui"]]
)
def test_a_wrong_option_is_refused(arguments, capsys):
    words = refused(rda_conv.main, *arguments, capsys=capsys)
    assert arguments[0] in words or arguments[-1] in words


def run(settings, measure, path=None, **options):
    command = commands.comparison_parser("What it does.", quick="less")
    arguments = command.parse_args(["--json", str(path)] if path else [])
    vars(arguments).update(options)
    commands.run_comparison(command, arguments, settings, measure)


@pytest.fixture
def _measurable(monkeypatch):
    monkeypatch.setattr(commands, "reasons", lambda device: {"cpu": None})


@pytest.mark.usefixtures("_measurable")
def test_a_run_that_is_cut_off_leaves_the_records_it_has(tmp_path):
    path = tmp_path / "speed.json"

    def measure(setting, effort):
        if setting.mode == "forward_backward":
            raise KeyboardInterrupt
        return [record("copy", 1.0)]

    with pytest.raises(KeyboardInterrupt):
        run([setting(), setting("forward_backward")], measure, path)
    assert load(path) == [record("copy", 1.0)]


@pytest.mark.usefixtures("_measurable")
def test_settings_after_the_time_limit_are_left_out_and_told(monkeypatch, capsys):
    efforts = iter([EFFORT["cpu"], None])
    monkeypatch.setattr(commands, "effort_for", lambda device, done, todo, left: next(efforts))
    with pytest.raises(SystemExit) as end:
        run([setting(), setting(), setting()], lambda setting, effort: [record("copy", 1.0)])
    assert end.value.code == 0
    printed = capsys.readouterr()
    assert "| 1.000 |" in printed.out
    assert "2 of 3 settings left out" in printed.err


def test_time_goes_to_the_settings_first_and_what_is_left_to_compiling():
    each = commands.SETTING_SECONDS["cuda"]
    enough = 30 * each + commands.COMPILE_SECONDS
    without = replace(EFFORT["cuda"], compiles=False)
    assert effort_for("cuda", 1, 30, enough) == EFFORT["cuda"]
    assert effort_for("cuda", 1, 30, enough - 1) == without
    assert effort_for("cuda", 0, 30, commands.COMPILE_SECONDS) == EFFORT["cuda"]  # of the first in any case
    assert effort_for("cuda", 0, 30, commands.COMPILE_SECONDS - 1) == without
    assert effort_for("cuda", 1, 1, 0.0) is None
    assert effort_for("cpu", 0, 1, None) == EFFORT["cpu"]


@pytest.mark.parametrize("is_terminal", [True, False])
def test_progress_is_drawn_on_a_terminal_only(is_terminal, monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: is_terminal)
    commands.progress(1, 3, "a setting")
    text = capsys.readouterr().err
    assert ("2/3" in text and "a setting" in text) == is_terminal


@pytest.mark.parametrize(
    ("ours", "code"),
    [(record("mrda_kernels", 1.0, launch="eager"), 0), (absent(record("mrda_kernels", 1.0, launch="eager")), 1)],
)
def test_a_failure_of_ours_is_an_error(ours, code, capsys):
    with pytest.raises(SystemExit) as end:
        commands.finish([record("released", 2.0), ours])
    assert end.value.code == code
    sentence = "mrda_kernels failed on rda_conv2d (1, 64, 180, 320) float32 nchw forward (eager): it broke"
    assert (sentence in capsys.readouterr().err) == bool(code)


def test_a_failure_of_a_peer_is_none(capsys):
    with pytest.raises(SystemExit) as end:
        commands.finish([record("mrda_kernels", 1.0), absent(record("released", 2.0))])
    assert end.value.code == 0
    assert "Not measured: released, 1x (it broke)." in capsys.readouterr().out


def test_the_terminal_shows_the_table_of_the_pages(records, capsys):
    with pytest.raises(SystemExit):
        commands.finish(records)
    assert capsys.readouterr().out == tables.document(records)


# On the machine with the GPU there are these at most, besides torch's own: triton, numpy, pytest, hypothesis, pybind11.
MISSING_ON_THE_GPU_MACHINE = (
    *("typer", "rich", "pydantic", "yaml", "safetensors", "accelerate", "PIL", "skimage", "matplotlib", "tensorboard"),
)
BLOCKER = f"""
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {MISSING_ON_THE_GPU_MACHINE!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Blocker())
"""


def test_commands_need_torch_alone():
    modules = ("rda_conv", "calls", "rda_block", "model", "tables", "gpu")
    code = f"""{BLOCKER}
import contextlib, importlib
for name in {modules!r}:
    with contextlib.suppress(SystemExit):
        importlib.import_module(f"benchmarks.{{name}}").main(["--help"])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("usage:") == len(modules)


def test_the_blocker_of_imports_blocks():
    done = subprocess.run([sys.executable, "-c", f"{BLOCKER}\nimport yaml"], capture_output=True, text=True)
    assert "No module named 'yaml'" in done.stderr
