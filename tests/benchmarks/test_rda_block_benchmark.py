from itertools import product

import pytest
import torch
import torch.nn.functional as F
from synthetic import quick_run, setting

from benchmarks import rda_block as bench
from benchmarks.harness import Effort
from benchmarks.records import MODES
from mrda_kernels.backends import cpu

SHAPE = (2, 4, 5, 6)
PROVIDERS = ("released", "released_compiled", "shift_add_compiled", "mrda_kernels")
PARTS = ("rda_conv2d", "conv3x3")

pytestmark = pytest.mark.skipif(cpu.why_not("cpu") is not None, reason="the CPU extension is not built")


def block_setting(mode="forward_backward", layout="nchw", op="rdab", dtype=torch.float64):
    return setting(mode, layout, dtype, SHAPE, op)


@pytest.fixture
def short_trunk(monkeypatch):
    monkeypatch.setattr(bench, "BLOCKS", {"rdab": 1, "trunk": 3})


def rounding_budget(tensors, blocks):
    """Bound of the difference of two float64 computations: the same sums, in another order, through a few layers.

    A block and its backward are eight layers in a row (two RDA convs, two convolutions), each of sums of fewer than
    `terms` products. An error of a sum is at most terms * eps times the sum of its terms' sizes, which `terms` times
    the largest value bounds; with weights of the usual initialisation a layer enlarges no error.
    """
    largest = max(1.0, *(t.detach().abs().max().item() for t in tensors))
    terms = 2 * 5 * 6 * 9  # the gradient of a tap: samples, pixels
    return 8 * blocks * terms**2 * largest * torch.finfo(torch.float64).eps


@pytest.mark.usefixtures("eager_peers", "short_trunk")
@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
@pytest.mark.parametrize("op", ["rdab", "trunk"])
@pytest.mark.parametrize("name", PROVIDERS)
def test_provider_computes_the_networks_blocks_and_all_their_gradients(name, op, layout):
    this = block_setting(op=op, layout=layout)
    blocks = bench.random_blocks(this)
    arguments = bench.random_arguments(this, blocks)
    features, idr, *parameters = arguments.tensors
    expected = features
    for block in blocks:
        for conv in (block.rda_conv1, block.rda_conv2):
            conv.backend = "reference"
        expected = block(expected, idr)
    exact = torch.autograd.grad(expected, arguments.tensors, arguments.grad_output)
    found = bench.computing(this, blocks, arguments)[name].run()
    result = bench.computing(block_setting("forward", layout, op), blocks, arguments)[name].run()
    assert len(found) == 2 + 12 * len(blocks)
    assert len(parameters) == 12 * len(blocks)
    for actual, wanted in zip((result, *found), (expected, *exact), strict=True):
        torch.testing.assert_close(actual, wanted, rtol=0, atol=rounding_budget((expected, *exact), len(blocks)))


@pytest.mark.usefixtures("eager_peers")
@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
def test_providers_of_half_a_block_compute_it(layout):
    this = block_setting("forward", layout, "rda_conv3x3")
    blocks = bench.random_blocks(this)
    arguments = bench.random_arguments(this, blocks)
    features, idr = arguments.tensors[:2]
    steered, conv = blocks[0].halves()[0]
    expected = F.leaky_relu(conv(steered(features, idr, output_negative_slope=0.1)), 0.1)
    found = {name: candidate.run() for name, candidate in bench.half(this, blocks[0], arguments).items()}
    assert {name for name in found if not name.endswith("_reference")} == {*PROVIDERS, "composition", *PARTS}
    for name in set(found) - set(PARTS):
        torch.testing.assert_close(found[name], expected, rtol=0, atol=rounding_budget((expected,), 1), msg=name)
    assert torch.equal(conv(found["rda_conv2d"]), conv(steered(features, idr, output_negative_slope=0.1)))
    exact = F.leaky_relu(conv(features), 0.1)
    torch.testing.assert_close(found["conv3x3"], exact, rtol=0, atol=rounding_budget((exact,), 1))


def test_the_blocks_on_another_backend_share_their_parameters():
    blocks = bench.random_blocks(block_setting())
    bench.computing(block_setting(), blocks, bench.random_arguments(block_setting(), blocks))
    assert [conv.backend for block in blocks for conv in (block.rda_conv1, block.rda_conv2)] == [None, None]


def test_inputs_and_parameters_lie_in_the_layout_asked_for():
    this = block_setting(layout="nhwc")
    blocks = bench.random_blocks(this)
    arguments = bench.random_arguments(this, blocks)
    for tensor in (arguments.tensors[0], arguments.grad_output, blocks[0].conv1.weight):
        assert tensor.is_contiguous(memory_format=torch.channels_last)
    nchw = bench.random_blocks(block_setting(layout="nchw"))
    assert torch.equal(blocks[0].conv1.weight, nchw[0].conv1.weight)


def test_the_floor_is_the_3x3_convolutions():
    this = block_setting(mode="forward")
    blocks = bench.random_blocks(this)
    x = bench.random_arguments(this, blocks).tensors[0]
    assert torch.equal(bench.convolutions(blocks)(x), blocks[0].conv2(blocks[0].conv1(x)))


def test_quick_run_is_the_published_trunk_and_full_run_has_both_ops_everywhere():
    assert bench.BLOCKS == {"rdab": 1, "trunk": 27}
    quick = bench.settings("cpu", quick=True)
    assert {(s.op, s.mode) for s in quick} == {
        ("rda_conv3x3", "forward"),
        ("rdab", "forward"),
        ("rdab", "forward_backward"),
        ("trunk", "forward"),
    }
    full = bench.settings("cuda", quick=False)
    assert len(full) == len(set(full)) == 2 * 2 * 2 * (2 + 2 + 1) + 1
    halves = {("rda_conv3x3", "forward"), ("upscaler", "forward")}
    assert {(s.op, s.mode) for s in full} == {*halves, *product(("rdab", "trunk"), MODES)}


@pytest.mark.usefixtures("eager_peers", "short_trunk")
def test_quick_run_writes_records_with_peak_memory(tmp_path, monkeypatch, capsys):
    measure = bench.measure_setting
    monkeypatch.setattr(bench, "SHAPES", (SHAPE,))
    monkeypatch.setattr(bench, "measure_setting", lambda s, effort: measure(s, Effort(seconds=0.0, min_rounds=1)))
    records = quick_run(bench, tmp_path)
    assert "peak memory" in capsys.readouterr().out
    assert len(records) == 3 * 5 + 8
    assert {r["provider"] for r in records} == {*PROVIDERS, *PARTS, "composition", "convolutions"}
    size = 4 * 2 * 4 * 5 * 6
    for r in records:
        floor = next(
            c for c in records if c["provider"] == "convolutions" and (c["op"], c["mode"]) == (r["op"], r["mode"])
        )
        assert r["floor_ratio"] == r["ms"] / floor["ms"]
        assert r["peak_bytes"] >= size  # the result, at least
    forward, both = (
        next(r for r in records if (r["op"], r["mode"], r["provider"]) == ("rdab", mode, "mrda_kernels"))
        for mode in ("forward", "forward_backward")
    )
    assert forward["peak_bytes"] < both["peak_bytes"]
