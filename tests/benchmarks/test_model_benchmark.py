import copy
import json
import sys

import pytest
import torch
from synthetic import setting
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import model as bench
from benchmarks import tables
from benchmarks.engines import Engine
from benchmarks.harness import Effort, measure
from benchmarks.records import Setting
from mrda_kernels.backends import cpu

SHAPE = (2, 3, 9, 11)
TINY = {"num_feat": 8, "num_blocks": 2, "den_width": 4}

pytestmark = pytest.mark.skipif(cpu.why_not("cpu") is not None, reason="the CPU extension is not built")


@pytest.fixture
def network(monkeypatch):
    network = bench.random_network("cpu", **TINY)
    monkeypatch.setattr(bench, "random_network", lambda device: network)
    return network


@pytest.fixture
def this():
    return setting("forward", "nhwc", torch.float32, SHAPE, "model")


@pytest.mark.usefixtures("eager_peers")
@pytest.mark.parametrize("name", ["released", "released_compiled", "mrda"])
def test_providers_of_the_published_network_compute_it(network, this, name):
    lr = torch.rand(this.shape).to(memory_format=torch.channels_last)
    exact = copy.deepcopy(network).double()(lr.double())
    for dtype in (torch.float32, torch.bfloat16):
        model = dict(bench.computing(network, dtype))[name]
        with torch.no_grad():
            sr = model(lr if name == bench.OURS else lr.to(dtype))
        rounding = 1e-5 if dtype == torch.float32 else 0.05
        torch.testing.assert_close(sr.double(), exact, rtol=0, atol=rounding)


def mult_adds(model):
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.empty(1, 3, 180, 320, device="meta"))
    return counter.get_total_flops() // 2


def test_the_static_convs_are_less_than_the_network():
    network = bench.random_network("cpu")
    static = mult_adds(bench.static_convs(network).to("meta"))
    assert static < mult_adds(bench.released_way(network.to("meta")))


@pytest.mark.parametrize("name", ["dasr", "kdsr"])
def test_a_sister_and_its_layer_are_timed_two_ways_that_agree(name, monkeypatch):
    sizes = {"scale": 2, "num_feat": 8, "num_blocks": 1}
    monkeypatch.setattr(bench, "random_network", lambda device, kind: bench.prepared(kind(**sizes), torch.float32))
    found = {}

    def measured(setting, candidates, **options):
        found[setting.op] = {way: candidate.run() for way, candidate in candidates.items()}
        return measure(setting, candidates, **options)

    monkeypatch.setattr(bench, "measure", measured)
    shapes = {f"{name}_conv": (1, 8, 6, 7), name: (1, 3, 6, 7)}
    records = []
    for op, shape in shapes.items():
        setting = Setting("cpu", torch.float32, "nhwc", shape, "forward", op)
        records += bench.measure_sister(setting, Effort(seconds=0.0, min_rounds=1))
        torch.testing.assert_close(found[op]["released"], found[op]["mrda"], rtol=1e-4, atol=1e-5)
    assert [(r["op"], r["provider"]) for r in records] == [(op, way) for op in shapes for way in ("released", "mrda")]
    text = tables.document(json.loads(json.dumps(records)))
    assert f"| {name}_conv | (1, 8, 6, 7) | float32 |" in text
    assert "faster than released" in text


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_undoing_a_change_changes_no_result(network, this, dtype):
    lr = torch.rand(1, 3, 9, 11)
    models = dict(bench.undone(network, dtype))
    assert len(models) == 4
    with torch.no_grad():
        expected = models.pop(bench.OURS)(lr)
        for undone, run in models.items():
            difference = (run(lr).float() - expected).abs().max()
            assert difference <= (1e-5 if dtype == torch.float32 else 0.05), undone


@pytest.mark.usefixtures("eager_peers")
def test_a_record_for_each_provider_and_dtype(network, this, monkeypatch):
    monkeypatch.setattr(bench, "has_bfloat16", lambda device: True)
    records = bench.measure_setting(this, Effort(seconds=0.0, min_rounds=1))
    assert {(r["provider"], r["dtype"]) for r in records} == {
        (name, dtype)
        for name in ("released", "released_compiled", "static_convs", "mrda")
        for dtype in ("float32", "bfloat16")
    }
    for r in records:
        assert r["ms"] > 0
        assert r["peak_bytes"] > 0
        assert ("parts" in r) == (r["provider"] == "mrda")
        assert sum(r.get("parts", {"": 1.0}).values()) == pytest.approx(1)
    text = tables.document(json.loads(json.dumps(records)))
    assert "| (2, 3, 9, 11) | bfloat16 |" in text
    assert "half blocks" in text


def one_image(network, engines, monkeypatch):
    """The engines' records of one small image."""
    monkeypatch.setattr(bench, "has_bfloat16", lambda device: False)
    monkeypatch.setattr(bench, "computing", lambda *_: [(name, engines[name]) for name in engines])
    this = setting("forward", "nhwc", torch.float32, (1, 3, 9, 11), "model")
    return bench.measure_setting(this, Effort(seconds=0.0, min_rounds=1), models=bench.computing)


def test_engines_have_the_form_and_the_error_in_their_records(network, monkeypatch):
    records = one_image(network, {"openvino": network, "ncnn": lambda lr: network(lr) + 0.25}, monkeypatch)
    assert [r["max_error"] for r in records] == [0.0, pytest.approx(0.25, abs=1e-6)]
    text = tables.document(json.loads(json.dumps(records)))
    assert "Their SR differs by at most: openvino 0.0e+00 in float32, ncnn 2.5e-01 in float32." in text
    assert all("peak_bytes" not in r and "grouped Conv" in r["form"] for r in records)


def test_an_engine_that_is_not_installed_is_absent_and_the_others_are_measured(network, monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    engines = {"openvino": Engine("openvino", network, torch.float32), "ncnn": network}
    absent, measured = one_image(network, engines, monkeypatch)
    assert absent["absent"] == "ModuleNotFoundError: this provider needs openvino: pip install './mrda[engines]'"
    assert measured["ms"] > 0


def test_a_processor_without_bfloat16_is_measured_in_float32_and_the_command_says_so(monkeypatch, capsys):
    monkeypatch.setattr(bench, "has_bfloat16", lambda device: False)
    monkeypatch.setattr(bench.commands, "run_comparison", lambda *_: None)
    bench.main(["--quick"])
    assert capsys.readouterr().err == "bfloat16 is left out: this processor would emulate it\n"
    assert bench.dtypes("cpu") == [torch.float32]


def test_quick_is_the_first_shape():
    assert [s.shape for s in bench.settings("cpu", quick=True)] == [(1, 3, 180, 320)]
    assert [s.shape for s in bench.settings("cpu", quick=False)] == [(1, 3, 180, 320), (16, 3, 64, 64)]
