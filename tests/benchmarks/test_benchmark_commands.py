import io
import subprocess
import sys

import pytest
import torch
from synthetic import record, setting

from benchmarks import commands, rda_block, rda_conv, table, threads
from benchmarks.commands import Budget, Progress
from benchmarks.measuring import EFFORT
from benchmarks.records import load
from mrda_kernels.backends import cpu

COMMANDS = [rda_conv, rda_block, threads]


def refused(main, *arguments, capsys):
    with pytest.raises(SystemExit) as end:
        main(list(arguments))
    assert end.value.code == 2
    return capsys.readouterr().err


@pytest.mark.parametrize("command", COMMANDS)
def test_results_folder_that_does_not_exist_is_refused_before_any_work(command, tmp_path, capsys):
    words = refused(command.main, "--json", str(tmp_path / "nowhere" / "speed.json"), capsys=capsys)
    assert "nowhere/speed.json, but its folder does not exist" in words


@pytest.mark.parametrize("command", [rda_conv, rda_block])
def test_cuda_without_a_gpu_is_refused_in_a_sentence(command, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    words = refused(command.main, "--device", "cuda", capsys=capsys)
    assert "--device is cuda, but torch finds no NVIDIA GPU here" in words


@pytest.mark.parametrize("command", COMMANDS)
def test_missing_native_backend_is_refused_with_its_reason(command, monkeypatch, capsys):
    monkeypatch.setattr(cpu, "why_not", lambda device_type: "it is broken")
    assert "it is broken" in refused(command.main, capsys=capsys)


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
    return commands.run_comparison(command, arguments, settings, measure)


@pytest.fixture
def _measurable(monkeypatch):
    monkeypatch.setattr(commands, "why_nothing_to_measure", lambda device: None)


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
    monkeypatch.setattr(Budget, "effort", lambda self, todo: next(efforts))
    records = run([setting(), setting(), setting()], lambda setting, effort: [record("copy", 1.0)])
    assert len(records) == 1
    assert "2 of 3 settings left out" in capsys.readouterr().err


def test_time_goes_to_the_settings_first_and_what_is_left_to_compiling():
    now = iter([0.0, 0.0, 80.0, 100.0])
    budget = Budget("cuda", 100.0, now=lambda: next(now))
    each = commands.SETTING_SECONDS["cuda"]
    assert budget.effort(todo=30).compile_seconds == (100 - 30 * each) / 2
    assert budget.effort(todo=30).compile_seconds == commands.SHARE * 20 / 2  # more than what is left over: nothing
    assert budget.effort(todo=1) is None
    assert Budget("cuda", 10_000.0).effort(todo=1) == EFFORT["cuda"]
    assert Budget("cpu", None).effort(todo=1) == EFFORT["cpu"]


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize(("stream", "is_drawn"), [(Terminal(), True), (io.StringIO(), False)])
def test_progress_is_drawn_on_a_terminal_only(stream, is_drawn):
    progress = Progress(3, stream)
    progress.show(1, "a setting")
    progress.end("a last word")
    text = stream.getvalue()
    assert ("2/3" in text and "a setting" in text) == is_drawn
    assert text.endswith("a last word\n")


@pytest.mark.parametrize(
    ("ours", "code"), [(record("mrda_kernels", 1.0), 0), ({"absent": "it broke", "launch": "eager"}, 1)]
)
def test_a_failure_of_ours_is_an_error(ours, code, capsys):
    records = [record("mrda_kernels", 1.0) | ours]
    with pytest.raises(SystemExit) as end:
        commands.end(records)
    assert end.value.code == code
    assert ("it broke" in capsys.readouterr().err) == bool(code)


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


@pytest.mark.parametrize(
    "module",
    [
        "rda_conv",
        "rda_block",
        "table",
        "gpu",
        "threads",
    ],
)
def test_commands_need_torch_alone(module):
    code = f"{BLOCKER}\nimport benchmarks.{module}\nbenchmarks.{module}.main(['--help'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "usage:" in done.stdout


def test_the_blocker_of_imports_blocks():
    done = subprocess.run([sys.executable, "-c", f"{BLOCKER}\nimport yaml"], capture_output=True, text=True)
    assert "No module named 'yaml'" in done.stderr


def test_table_wants_a_file_or_a_folder_and_not_both(tmp_path, capsys):
    assert "name either" in refused(table.main, capsys=capsys)
    assert "name either" in refused(table.main, "a.json", "--gpus", str(tmp_path), capsys=capsys)
