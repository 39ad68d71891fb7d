"""The choice of a backend."""

import json
import os
import shutil
import warnings

import pytest
import torch
from calls import Call

from mrda_kernels import dispatch, dynamic_depthwise_conv2d, rda_conv2d
from mrda_kernels.backends import cpu, reference
from mrda_kernels.dispatch import Kind


@pytest.fixture(autouse=True)
def no_wish_from_outside(monkeypatch):
    monkeypatch.delenv(dispatch.ENVIRONMENT_VARIABLE, raising=False)


@pytest.fixture
def without_extension(monkeypatch):
    monkeypatch.setattr(cpu, "_C", None)
    monkeypatch.setattr(cpu, "_missing", "No module named 'mrda_kernels._C'", raising=False)


@pytest.fixture
def table(monkeypatch, tmp_path):
    """Write a table of preferences in place of the measured one."""
    path = tmp_path / "preferences.json"
    monkeypatch.setattr(dispatch, "PREFERENCES", path)

    def clear():
        dispatch.order.cache_clear()
        dispatch._measured.cache_clear()

    def write(*rows):
        path.write_text(json.dumps({"rows": list(rows)}), encoding="utf-8")
        clear()

    clear()
    yield write
    clear()


def test_the_extension_is_built_where_there_is_a_compiler():
    # else half of these tests would be skipped unseen
    compilers = [os.environ.get("CXX") or "g++", "clang++"]
    if os.environ.get("MRDA_KERNELS_NATIVE") == "0" or not any(map(shutil.which, compilers)):
        pytest.skip("no compiler, or the extension was left out on purpose")
    assert cpu.why_not("cpu") is None


def test_the_native_backend_is_preferred_for_cpu_tensors():
    assert dispatch.select(None, "cpu") is (cpu if cpu.why_not("cpu") is None else reference)


def test_the_reference_serves_what_no_other_backend_does():
    assert dispatch.select(None, "xpu") is reference


@pytest.mark.usefixtures("table")
def test_without_measurements_the_order_is_the_default():
    kind = Kind("float32", "nchw", "forward")
    assert dispatch.order("cuda", kind) == ("cuda", "triton", "reference")
    assert dispatch.order("cpu", kind) == ("cpu", "reference")
    assert dispatch.order("xpu", kind) == ("reference",)


def test_a_measured_order_rules_for_its_kind_of_call_alone(table):
    row = {"device": "cuda", "dtype": "bfloat16", "layout": "channels_last", "mode": "forward"}
    table(row | {"backends": ["cuda", "triton"]}, row | {"backends": ["triton", "cuda"]})
    kind = Kind("bfloat16", "channels_last", "forward")
    assert dispatch.order("cuda", kind) == ("triton", "cuda", "reference")
    assert dispatch.order("cpu", kind) == ("cpu", "reference")
    for other in (
        kind._replace(dtype="float32"),
        kind._replace(layout="nchw"),
        kind._replace(mode="forward_backward"),
    ):
        assert dispatch.order("cuda", other) == ("cuda", "triton", "reference")


def test_a_call_goes_to_the_backend_measured_fastest_for_it(table, monkeypatch):
    if cpu.why_not("cpu") is not None:
        pytest.skip("the extension is not built")
    row = {"device": "cpu", "dtype": "float64", "layout": "channels_last"}
    table(*(row | {"mode": mode, "backends": ["reference", "cpu"]} for mode in ("forward", "forward_backward")))
    served = []
    for module in (cpu, reference):
        for name in ("forward", "backward"):
            original = getattr(module, name)
            monkeypatch.setattr(module, name, lambda *a, o=original, s=(module, name): (served.append(s), o(*a))[1])
    warnings.simplefilter("error")  # the reference, by choice, is nothing to warn of
    for layout, expected in (("channels_last", reference), ("nchw", cpu)):
        tensors = [t.requires_grad_() for t in Call((1, 2, 3, 3), dtype=torch.float64, layout=layout).tensors()]
        rda_conv2d(*tensors).sum().backward()
        assert served == [(expected, "forward"), (expected, "backward")]
        served.clear()


@pytest.mark.parametrize(
    "text",
    ["", "{}", '{"rows": [{"device": "cpu"}]}', '{"rows": 1}', '{"rows": [ROW]}', '{"rows": [ROW2]}'],
)
def test_a_broken_table_is_named_and_not_used(table, text):
    row = {"device": "cpu", "dtype": "float32", "layout": "nchw", "mode": "forward", "backends": ["cuda-emulated"]}
    text = text.replace("ROW2", json.dumps(row | {"backends": "cpu"})).replace("ROW", json.dumps(row))
    table()
    dispatch.PREFERENCES.write_text(text)
    dispatch.order.cache_clear()
    dispatch._measured.cache_clear()
    with pytest.warns(RuntimeWarning, match=r"preferences\.json is not used, .* python -m benchmarks\.preferences"):
        assert dispatch.order("cpu", Kind("float32", "nchw", "forward")) == ("cpu", "reference")


def test_the_table_that_comes_with_the_package_names_backends_only():
    for (device, kind), names in dispatch._measured().items():
        assert set(names) <= set(dispatch.BACKENDS)
        assert device in dispatch.DEFAULT_ORDER
        assert kind.layout in {"nchw", "channels_last"}
        assert kind.mode in {"forward", "forward_backward"}
        assert isinstance(getattr(torch, kind.dtype), torch.dtype)


@pytest.mark.usefixtures("without_extension")
def test_the_reference_serves_where_the_extension_is_missing():
    dispatch._warn_of_slowness.cache_clear()
    with pytest.warns(RuntimeWarning, match=r"slow reference: .*_C does not load.* C\+\+17") as warned:
        chosen = {dispatch.select(None, "cpu") for _ in range(2)}
    assert chosen == {reference}
    assert len(warned) == 1
    with pytest.raises(
        RuntimeError, match=r"^backend is 'cpu', which can't serve this call: .*_C does not load.* C\+\+17"
    ):
        rda_conv2d(*Call((1, 1, 2, 2)).tensors(), backend="cpu")


def test_a_backend_says_why_it_does_not_serve_a_device():
    if cpu.why_not("cpu") is not None:
        pytest.skip("the extension is not built")
    with pytest.raises(
        RuntimeError, match=r"^backend is 'cpu', which can't serve this call: it serves CPU tensors, not cuda"
    ):
        dispatch.select("cpu", "cuda")


def test_the_environment_variable_decides_where_the_caller_does_not(monkeypatch):
    monkeypatch.setenv(dispatch.ENVIRONMENT_VARIABLE, "reference")
    assert dispatch.select(None, "cpu") is reference
    if cpu.why_not("cpu") is None:
        assert dispatch.select("cpu", "cpu") is cpu
    monkeypatch.setenv(dispatch.ENVIRONMENT_VARIABLE, "")
    assert dispatch.select(None, "cpu") is not None


def test_an_unknown_name_is_an_error(monkeypatch):
    tensors = Call((1, 1, 2, 2)).tensors()
    message = "^backend is 'cpuu', but must be None or one of cuda, triton, cpu, reference"
    with pytest.raises(ValueError, match=message):
        rda_conv2d(*tensors, backend="cpuu")
    with pytest.raises(ValueError, match=message):
        dynamic_depthwise_conv2d(*tensors[:2], backend="cpuu")
    with pytest.raises(ValueError, match=message):
        torch.ops.mrda_kernels.dynamic_depthwise_conv2d(*tensors[:2], "cpuu")
    monkeypatch.setenv(dispatch.ENVIRONMENT_VARIABLE, "cpuu")
    with pytest.raises(ValueError, match=message.replace("backend", dispatch.ENVIRONMENT_VARIABLE)):
        rda_conv2d(*tensors)


@pytest.mark.parametrize("name", [*dispatch.BACKENDS, dispatch.EMULATED])
def test_the_named_backend_does_the_work_in_both_directions(monkeypatch, name):
    module = dispatch.load(name)
    if module.why_not("cpu") is not None:
        pytest.skip(f"backend {name} is not available")
    served = []
    for function in ("forward", "backward"):
        original = getattr(module, function)
        monkeypatch.setattr(module, function, lambda *a, o=original, f=function: (served.append(f), o(*a))[1])
    tensors = [t.requires_grad_() for t in Call((1, 2, 3, 3)).tensors()]
    rda_conv2d(*tensors, backend=name).sum().backward()
    dynamic_depthwise_conv2d(*tensors[:2], backend=name).sum().backward()
    assert served == ["forward", "backward"] * 2
    assert torch.is_tensor(tensors[3].grad)


def test_only_instruction_sets_of_this_machine_can_be_chosen():
    if cpu.why_not("cpu") is not None:
        pytest.skip("the extension is not built")
    from mrda_kernels import _C

    assert _C.cpu_instruction_sets()[-1] == "baseline"
    assert _C.cpu_instruction_set() in _C.cpu_instruction_sets()
    with pytest.raises(ValueError, match="instruction set sse9 is not one that this machine can run"):
        _C.set_cpu_instruction_set("sse9")
