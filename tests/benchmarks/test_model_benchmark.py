import copy
import json

import pytest
import torch
from synthetic import setting
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import model as bench
from benchmarks import tables
from benchmarks.harness import Effort
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
    for found, dtype, model in bench.computing(network):
        if found == name:
            with torch.no_grad():
                sr = model(lr if name == bench.OURS else lr.to(dtype))
            rounding = 1e-5 if dtype == torch.float32 else 0.05
            torch.testing.assert_close(sr.double(), exact, rtol=0, atol=rounding)


def mult_adds(model):
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.empty(1, 3, 180, 320, device="meta"))
    return counter.get_total_flops() // 2


def test_the_rival_is_what_the_paper_counts():
    """METHOD: about 185.1 G for 25 blocks in 5 groups; 5.97 M parameters."""
    network = bench.random_network("cpu")
    rival = bench.dasr_shaped(network)
    assert sum(p.numel() for p in rival.parameters()) == 5_967_491
    assert mult_adds(bench.released_way(rival.to("meta"))) == 185_118_509_056
    static = mult_adds(bench.static_convs(network).to("meta"))
    assert static < mult_adds(bench.released_way(network.to("meta")))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_undoing_a_change_changes_no_result(network, this, dtype):
    lr = torch.rand(1, 3, 9, 11)
    models = {name: model for name, found, model in bench.undone(network) if found == dtype}
    assert len(models) == 4
    with torch.no_grad():
        expected = models.pop(bench.OURS)(lr)
        for undone, run in models.items():
            difference = (run(lr).float() - expected).abs().max()
            assert difference <= (1e-5 if dtype == torch.float32 else 0.05), undone


@pytest.mark.usefixtures("eager_peers")
def test_a_record_for_each_provider_and_dtype(network, this):
    records = bench.measure_setting(this, Effort(seconds=0.0, min_rounds=1))
    assert {(r["provider"], r["dtype"]) for r in records} == {
        (name, dtype)
        for name in ("released", "released_compiled", "dasr_shaped", "static_convs", "mrda")
        for dtype in ("float32", "bfloat16")
    }
    for r in records:
        assert r["ms"] > 0
        assert r["peak_bytes"] > 0
        assert ("parts" in r) == (r["provider"] == "mrda")
        assert sum(r.get("parts", {"": 1.0}).values()) == pytest.approx(1)
    text = tables.document(json.loads(json.dumps(records)))
    assert "| (2, 3, 9, 11) | bfloat16 |" in text
    assert "3x3 convolutions" in text


def test_quick_is_the_first_shape():
    assert [s.shape for s in bench.settings("cpu", quick=True)] == [(1, 3, 180, 320)]
    assert [s.shape for s in bench.settings("cpu", quick=False)] == [(1, 3, 180, 320), (16, 3, 64, 64)]
