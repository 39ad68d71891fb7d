import json
from functools import partial

import pytest
import torch
import typer
from typer.testing import CliRunner

from benchmarks import rda_conv as bench
from benchmarks import table, threads
from benchmarks.timing import interleaved
from mrda_kernels import reference
from mrda_kernels.backends import cpu

BEGIN, END = table.markers(table.SECTION)

SHAPE = (2, 3, 5, 7)
PROVIDERS = ("released", "released_compiled", "shift_add_compiled", "mrda_kernels", "copy")

needs_native_backend = pytest.mark.skipif(cpu.why_not("cpu") is not None, reason="the CPU extension is not built")


@pytest.fixture
def eager_peers(monkeypatch):
    """The compiled peers run op by op: compiling them takes seconds each."""
    monkeypatch.setattr(torch, "compile", lambda function, **options: function)


@pytest.fixture
def brief(monkeypatch):
    """Both shapes are tiny, and one round is enough."""
    monkeypatch.setattr(bench, "QUICK_SHAPES", (SHAPE, (1, 3, 4, 4)))
    monkeypatch.setattr(bench, "measure", partial(bench.measure, seconds=0.0, min_rounds=1))


def setting(mode="forward", layout="nchw", dtype=torch.float32, shape=SHAPE):
    return bench.Setting("cpu", dtype, layout, shape, mode)


def record(provider, ms, *, layout="nchw", mode="forward", shape=(1, 64, 180, 320), **extra):
    identity = {"op": "rda_conv2d", "provider": provider, "device": "cpu", "dtype": "float32"}
    measured = {"ms": ms, "gbps": 1.0, "floor_ratio": ms / 2.0}
    machine = {"torch": "2.13.0", "threads": 2, "processor": "a processor"}
    return {**identity, "layout": layout, "shape": list(shape), "mode": mode, **measured, **machine, **extra}


@pytest.fixture
def records():
    kept = {"saved_bytes": 3 * 2**20}
    return [
        record("released", 40.0, saved_bytes=7 * 2**20),
        record("released_compiled", 9.0),
        record("shift_add_compiled", 20.0),
        record("mrda_kernels", 4.0, **kept),
        record("copy", 2.0, ms_into_existing=1.0),
        record("released", 60.0, layout="nhwc", saved_bytes=7 * 2**20),
        record("released_compiled", 30.0, layout="nhwc"),
        record("shift_add_compiled", 6.0, layout="nhwc"),
        record("mrda_kernels", 5.0, layout="nhwc", **kept),
        record("copy", 2.5, layout="nhwc", ms_into_existing=1.0),
    ]


def rounding_budget(arguments):
    """How far two float64 computations of the result or of a gradient can be apart.

    An element is a sum of fewer than `terms` terms, each made with fewer than 64 roundings. The largest kind
    of term is grad_y * z * m * (1 - m) * x, where z has 9 products and m * (1 - m) is at most 1/4. A rounding
    is at most eps times what is rounded, and no partial sum is above terms * term.
    """
    tensors = (*arguments.tensors, arguments.grad_output)
    largest = max(1.0, *(t.detach().abs().max().item() for t in tensors))
    terms, term = arguments.grad_output.numel(), 9 * largest**4 / 4
    return 2 * (terms + 64) * terms * term * torch.finfo(torch.float64).eps


@needs_native_backend
@pytest.mark.usefixtures("eager_peers")
@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
@pytest.mark.parametrize("name", PROVIDERS[:-1])
def test_provider_computes_the_rda_conv_and_its_gradients(name, layout):
    arguments = bench.Arguments.random(setting("forward_backward", layout, torch.float64))
    operator = bench.operators("cpu")[name]
    ours = [operator(*arguments.tensors), *bench.call(operator, arguments, "forward_backward")()]
    expected = [
        reference.rda_conv2d(*arguments.tensors),
        *bench.call(reference.rda_conv2d, arguments, "forward_backward")(),
    ]
    for actual, exact in zip(ours, expected, strict=True):
        torch.testing.assert_close(actual, exact, rtol=0, atol=rounding_budget(arguments))


@needs_native_backend
@pytest.mark.usefixtures("eager_peers", "brief")
def test_quick_run_writes_a_record_per_provider_and_setting(tmp_path):
    path = tmp_path / "speed.json"
    result = run(bench.main, "--quick", "--json", str(path))
    assert result.exit_code == 0, result.output
    records = json.loads(path.read_text())
    identities = {tuple(map(str, (r["shape"], r["layout"], r["mode"], r["provider"]))) for r in records}
    assert len(records) == len(identities) == 2 * 2 * 2 * 5
    for r in records:
        assert r["op"] == "rda_conv2d"
        assert (r["device"], r["dtype"]) == ("cpu", "float32")
        assert r["provider"] in PROVIDERS
        size = 4 * r["shape"][0] * r["shape"][1] * r["shape"][2] * r["shape"][3]
        moved = size * {"forward": 2, "forward_backward": 5}[r["mode"]]
        assert r["gbps"] == pytest.approx(moved / (r["ms"] * 1e-3) / 1e9)
        floor = next(c for c in records if c["provider"] == "copy" and same_setting(c, r))
        assert r["floor_ratio"] == r["ms"] / floor["ms"]
        assert ("ms_into_existing" in r) == (r["provider"] == "copy")
        counts = r["mode"] == "forward_backward" and r["provider"] in {"released", "mrda_kernels"}
        assert ("saved_bytes" in r) == counts


def same_setting(a, b):
    return all(a[key] == b[key] for key in ("dtype", "layout", "shape", "mode"))


def test_full_run_covers_all_shapes_dtypes_layouts_and_modes():
    full, quick = set(bench.settings("cpu", quick=False)), set(bench.settings("cpu", quick=True))
    assert len(full) == 4 * 2 * 2 * 2
    assert len(quick) == 2 * 2 * 2
    assert quick < full
    assert {s.dtype for s in quick} == {torch.float32}


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
def test_arguments_lie_in_the_layout_asked_for_and_have_the_same_values(layout):
    arguments = bench.Arguments.random(setting(layout=layout))
    for tensor in (arguments.tensors[0], arguments.grad_output):
        assert tensor.is_contiguous(memory_format=bench.MEMORY_FORMATS[layout])
    nchw = bench.Arguments.random(setting(layout="nchw"))
    assert torch.equal(arguments.tensors[0], nchw.tensors[0])


@needs_native_backend
def test_the_operator_keeps_its_inputs_only_and_the_released_way_more():
    tensors = bench.Arguments.random(setting("forward_backward")).tensors
    inputs = sum(t.untyped_storage().nbytes() for t in tensors)
    operators = bench.operators("cpu")
    assert bench.saved_bytes(operators["mrda_kernels"], tensors) == inputs
    # at least the LeakyReLU's result besides
    assert bench.saved_bytes(operators["released"], tensors) >= inputs + tensors[0].untyped_storage().nbytes()


def test_saved_bytes_counts_memory_that_is_shared_once():
    x = torch.ones(10, requires_grad=True)
    assert bench.saved_bytes(lambda x: x * x.view(10), (x,)) == 40


@pytest.mark.slow
def test_compiled_peer_is_one_graph_and_keeps_channels_last():
    torch._dynamo.reset()
    arguments = bench.Arguments.random(setting(layout="nhwc", dtype=torch.float64, shape=(2, 4, 5, 7)))
    # fullgraph makes a graph break an error
    result = bench.operators("cpu")["shift_add_compiled"](*arguments.tensors)
    assert result.is_contiguous(memory_format=torch.channels_last)
    exact = reference.rda_conv2d(*arguments.tensors)
    torch.testing.assert_close(result, exact, rtol=0, atol=rounding_budget(arguments))


def test_times_are_medians_over_rounds_and_the_warm_up_is_left_out():
    times = {
        "long": iter([9000.0, 500.0, 700.0, 400.0]),
        "short": iter([9000.0, 50.0, 3.0, 50.0, 1.0, 50.0, 2.0]),  # every other call is the first of its turn
    }
    calls = []

    def clock(run):
        name = run()
        calls.append(name)
        return next(times[name])

    timings = interleaved({"long": lambda: "long", "short": lambda: "short"}, clock, seconds=0.0, min_rounds=3)
    assert timings == {"long": (500.0, 3), "short": (2.0, 3)}
    rounds = [sorted(calls[i : i + 3]) for i in range(2, len(calls), 3)]
    assert rounds == [["long", "short", "short"]] * 3


def test_readme_table_takes_the_better_layout_of_each_provider(records):
    lines = table.markdown(records).splitlines()
    cells = [cell.strip() for cell in lines[2].strip("|").split("|")]
    assert cells == [
        *("(1, 64, 180, 320)", "float32", "forward"),
        *("40.00", "6.00", "2.00", "4.00"),
        *("10.0x", "1.5x", "2.0x"),
    ]
    assert all(line.count("|") == lines[0].count("|") for line in lines[:3])
    notes = "\n".join(lines[3:])
    assert "a processor with 2 threads, torch 2.13.0" in notes
    assert "2.0x to 2.5x as fast" in notes
    assert "3.0 MiB, which is the inputs; by the released way 7.0 MiB" in notes


def test_screen_table_has_each_record(records):
    shown = table.details(records)
    columns = [list(column.cells) for column in shown.columns]
    assert columns[0] == [
        *("(1, 64, 180, 320)", "float32", "nchw", "forward", ""),
        *("(1, 64, 180, 320)", "float32", "nhwc", "forward", ""),
    ]
    assert columns[1] == [r["provider"] for r in records]
    assert columns[5] == ["10.0x", "2.2x", "5.0x", "", "", "12.0x", "6.0x", "1.2x", "", ""]


def test_update_replaces_what_is_between_the_markers_and_nothing_else(records, tmp_path):
    results, readme = tmp_path / "speed.json", tmp_path / "README.md"
    results.write_text(json.dumps(records))
    readme.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    for _ in range(2):  # a second update changes nothing
        assert run(table.main, str(results), "--update", str(readme)).exit_code == 0
        content = table.markdown(records)
        assert readme.read_text() == f"before\n{BEGIN}\n{content}{END}\nafter\n"
    assert run(table.main, str(results)).output == content


@pytest.mark.parametrize("text", ["no markers", f"{END} {BEGIN}", BEGIN])
def test_update_without_markers_is_refused_and_leaves_the_file(records, tmp_path, text):
    results, readme = tmp_path / "speed.json", tmp_path / "README.md"
    results.write_text(json.dumps(records))
    readme.write_text(text)
    result = run(table.main, str(results), "--update", str(readme))
    assert result.exit_code == 2
    assert "must hold one" in result.output
    assert readme.read_text() == text


@pytest.mark.parametrize("content", ["not JSON", "{}", "[]", '[{"op": "another"}]', "[1]"])
def test_file_without_records_is_refused(tmp_path, content):
    path = tmp_path / "speed.json"
    path.write_text(content)
    assert run(table.main, str(path)).exit_code == 2


@pytest.mark.parametrize("command", [bench.main, threads.main])
def test_results_folder_that_does_not_exist_is_refused_before_any_work(command, tmp_path):
    result = run(command, "--json", str(tmp_path / "nowhere" / "speed.json"))
    assert result.exit_code == 2
    assert "does not exist" in words(result.output)


def test_cuda_without_a_gpu_is_refused_in_a_sentence(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    result = run(bench.main, "--device", "cuda")
    assert result.exit_code == 2
    assert "torch finds no NVIDIA GPU here" in words(result.output)


def test_missing_native_backend_is_refused_with_its_reason(monkeypatch):
    monkeypatch.setattr(cpu, "why_not", lambda device_type: "it is broken")
    for command in (bench.main, threads.main):
        result = run(command)
        assert result.exit_code == 2
        assert "it is broken" in words(result.output)


@needs_native_backend
def test_alternating_is_compared_with_the_sum_of_both():
    result = threads.measure((1, 3, 5, 7), seconds=0.0, min_rounds=1)
    assert result["ratio"] == result["alternating_ms"] / (result["op_ms"] + result["conv_ms"])
    assert result["os_threads_before"] == result["os_threads_after"]


def run(command, *arguments):
    app = typer.Typer()
    app.command()(command)
    return CliRunner().invoke(app, arguments)


def words(output):
    """The text of an error that was wrapped and framed for the terminal."""
    return " ".join(output.replace("│", " ").split())
