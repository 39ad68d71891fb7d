from types import SimpleNamespace

import pytest
import torch
from synthetic import SHAPE, quick_run, setting

from benchmarks import peers
from benchmarks import rda_conv as bench
from benchmarks.harness import Effort, call, saved_bytes
from benchmarks.records import MEMORY_FORMATS
from mrda_kernels import dispatch, reference
from mrda_kernels.backends import cpu

PROVIDERS = ("released", "released_compiled", "shift_add_compiled", "mrda_kernels", "mrda_kernels_reference")

needs_native_backend = pytest.mark.skipif(cpu.why_not("cpu") is not None, reason="the CPU extension is not built")


@pytest.fixture
def brief(monkeypatch):
    """Both shapes are tiny, and one round is enough."""
    measure = bench.measure_setting
    monkeypatch.setattr(bench, "QUICK_SHAPES", (SHAPE, (1, 3, 4, 4)))
    monkeypatch.setattr(bench, "measure_setting", lambda s, effort: measure(s, Effort(seconds=0.0, min_rounds=1)))


def rounding_budget(arguments):
    """Bound of the difference of two float64 computations of the result or of a gradient.

    An element is a sum of fewer than `terms` terms, each made with fewer than 64 roundings. The largest kind
    of term is grad_y * z * m * (1 - m) * x, where z has 9 products and m * (1 - m) is at most 1/4. A rounding
    is at most eps times what is rounded, and no partial sum is above terms * term.
    """
    tensors = (*arguments.tensors, arguments.grad_output)
    largest = max(1.0, *(t.detach().abs().max().item() for t in tensors))
    terms, term = arguments.grad_output.numel(), 9 * largest**4 / 4
    return 2 * (terms + 64) * terms * term * torch.finfo(torch.float64).eps


def computing(this, arguments):
    return {
        mode: bench.computing(setting(mode, this.layout, this.dtype), arguments)
        for mode in ("forward", "forward_backward")
    }


@needs_native_backend
@pytest.mark.usefixtures("eager_peers")
@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
@pytest.mark.parametrize("name", PROVIDERS)
def test_provider_computes_the_rda_conv_and_its_gradients(name, layout):
    this = setting("forward_backward", layout, torch.float64)
    arguments = bench.random_arguments(this)
    found = computing(this, arguments)
    exact = [reference.rda_conv2d(*arguments.tensors), *call(reference.rda_conv2d, arguments, "forward_backward")()]
    results = [found["forward"][name].run(), *found["forward_backward"][name].run()]
    for actual, expected in zip(results, exact, strict=True):
        torch.testing.assert_close(actual, expected, rtol=0, atol=rounding_budget(arguments))


@needs_native_backend
@pytest.mark.usefixtures("eager_peers", "brief")
def test_quick_run_writes_a_record_per_provider_and_setting(tmp_path, capsys):
    records = quick_run(bench, tmp_path)
    assert "shift_add_compiled" in capsys.readouterr().out
    identities = {tuple(map(str, (r["shape"], r["layout"], r["mode"], r["provider"]))) for r in records}
    assert len(records) == len(identities) == 2 * 2 * 2 * 6
    for r in records:
        assert r["op"] == "rda_conv2d"
        assert (r["device"], r["dtype"], r["launch"]) == ("cpu", "float32", "eager")
        assert r["provider"] in (*PROVIDERS, "copy")
        size = 4 * r["shape"][0] * r["shape"][1] * r["shape"][2] * r["shape"][3]
        moved = size * {"forward": 2, "forward_backward": 5}[r["mode"]]
        assert r["gbps"] == pytest.approx(moved / (r["ms"] * 1e-3) / 1e9)
        floor = next(c for c in records if c["provider"] == "copy" and same_setting(c, r))
        assert r["floor_ratio"] == r["ms"] / floor["ms"]
        counts = r["mode"] == "forward_backward" and r["provider"] in {"released", "mrda_kernels"}
        assert ("saved_bytes" in r) == counts
        backend = {"mrda_kernels": "cpu", "mrda_kernels_reference": "reference"}.get(r["provider"])
        assert r.get("backend") == backend


def same_setting(a, b):
    return all(a[key] == b[key] for key in ("dtype", "layout", "shape", "mode"))


def test_full_run_covers_all_shapes_dtypes_layouts_and_modes():
    full, quick = set(bench.settings("cpu", quick=False)), set(bench.settings("cpu", quick=True))
    assert len(full) == 4 * 2 * 2 * 2
    assert len(quick) == 2 * 2 * 2
    assert quick < full
    assert {s.dtype for s in quick} == {torch.float32}


def test_run_on_a_gpu_begins_with_the_target_and_has_half_precision_at_its_shape_only():
    todo = bench.settings("cuda", quick=False)
    assert len(todo) == len(set(todo)) == 5 * 2 * 2 * 2 + 4
    assert todo[0] == setting("forward", "nhwc", torch.bfloat16, (16, 64, 360, 640), device="cuda")
    assert {s.shape for s in todo if s.dtype == torch.float16} == {(16, 64, 360, 640)}


def fake_backend(name, reason=None):
    return SimpleNamespace(__name__=f"mrda_kernels.backends.{name}", why_not=lambda device: reason)


def test_on_a_gpu_each_backend_that_can_serve_takes_part_beside_the_one_that_dispatch_picks(monkeypatch):
    modules = {"cuda": fake_backend("cuda", "it is not built"), "triton": fake_backend("triton")}
    monkeypatch.setattr(dispatch, "load", modules.__getitem__)
    monkeypatch.setattr(dispatch, "select", lambda name, device: modules["triton"])
    asked = []
    monkeypatch.setattr(bench, "rda_conv2d", lambda *tensors, backend: asked.append(backend))
    found = bench.computing(setting(device="cuda"), bench.random_arguments(setting()))
    ours = {name: candidate for name, candidate in found.items() if name.startswith("mrda_kernels")}
    assert list(ours) == ["mrda_kernels", "mrda_kernels_triton"]
    for candidate in ours.values():
        candidate.run()
    assert asked == [None, "triton"]
    assert {candidate.facts["backend"] for candidate in ours.values()} == {"triton"}
    assert [name for name, candidate in found.items() if candidate.is_compiled] == [
        "released_compiled",
        "shift_add_compiled",
    ]
    assert peers.reasons("cuda") == {"cuda": "it is not built", "triton": None}


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
def test_arguments_lie_in_the_layout_asked_for_and_have_the_same_values(layout):
    arguments = bench.random_arguments(setting(layout=layout))
    for tensor in (arguments.tensors[0], arguments.grad_output):
        assert tensor.is_contiguous(memory_format=MEMORY_FORMATS[layout])
    nchw = bench.random_arguments(setting(layout="nchw"))
    assert torch.equal(arguments.tensors[0], nchw.tensors[0])


@needs_native_backend
def test_the_operator_keeps_its_inputs_only_and_the_released_way_more():
    tensors = bench.random_arguments(setting("forward_backward")).tensors
    inputs = sum(t.untyped_storage().nbytes() for t in tensors)
    assert saved_bytes(bench.COUNTED["mrda_kernels"], tensors) == inputs
    # at least the LeakyReLU's result besides
    assert saved_bytes(bench.COUNTED["released"], tensors) >= inputs + tensors[0].untyped_storage().nbytes()


@pytest.mark.slow
def test_compiled_peer_is_one_graph_and_keeps_channels_last():
    torch._dynamo.reset()
    arguments = bench.random_arguments(setting(layout="nhwc", dtype=torch.float64, shape=(2, 4, 5, 7)))
    # fullgraph makes a graph break an error
    result = bench.computing(setting(), arguments)["shift_add_compiled"].run()
    assert result.is_contiguous(memory_format=torch.channels_last)
    exact = reference.rda_conv2d(*arguments.tensors)
    torch.testing.assert_close(result, exact, rtol=0, atol=rounding_budget(arguments))


@pytest.mark.usefixtures("eager_peers")
def test_the_floor_has_the_results_of_the_real_thing():
    arguments = bench.random_arguments(setting("forward_backward"))
    y, grad_x = bench.copy(arguments, "forward_backward")()
    assert torch.equal(y, arguments.tensors[0])
    assert torch.equal(grad_x, arguments.tensors[0] + arguments.grad_output)
    assert torch.equal(bench.copy(arguments, "forward")(), y)
