"""The choice of a backend."""

import os
import shutil
from types import SimpleNamespace

import pytest
import torch
from calls import Call

from mrda_kernels import dispatch, dynamic_depthwise_conv2d, rda_conv2d
from mrda_kernels.backends import cpu, cuda, reference


@pytest.fixture(autouse=True)
def no_wish_from_outside(monkeypatch):
    monkeypatch.delenv(dispatch.ENVIRONMENT_VARIABLE, raising=False)
    dispatch.forget_availability()
    yield
    monkeypatch.undo()
    dispatch.forget_availability()


SLOW = pytest.mark.filterwarnings("ignore:mrda_kernels runs on its slow reference")  # where Triton is not installed


@pytest.fixture
def without_extension(monkeypatch):
    monkeypatch.setattr(dispatch, "ORDER", {"cpu": ("cpu", "reference")})
    monkeypatch.setattr(cpu, "_C", None)
    monkeypatch.setattr(cpu, "_missing", "No module named 'mrda_kernels._C'", raising=False)


def test_the_extension_is_built_where_there_is_a_compiler():
    # otherwise half of these tests would be skipped unnoticed
    compilers = [os.environ.get("CXX") or "g++", "clang++"]
    if os.environ.get("MRDA_KERNELS_NATIVE") == "0" or not any(map(shutil.which, compilers)):
        pytest.skip("no compiler, or the extension was left out on purpose")
    assert cpu.why_not("cpu") is None


@SLOW
@pytest.mark.parametrize("device", dispatch.ORDER)
def test_the_first_backend_of_the_order_that_can_serve_is_chosen(device):
    able = [name for name in dispatch.ORDER[device] if dispatch.load(name).why_not(device) is None]
    assert dispatch.select(None, device) is dispatch.load(able[0])
    assert set(dispatch.ORDER[device]) <= set(dispatch.BACKENDS)


def test_the_reference_serves_what_no_other_backend_does():
    assert dispatch.select(None, "xpu") is reference


@pytest.fixture
def gpus(monkeypatch):
    """Pretend that there are GPUs of these compute capabilities, and count how often each is asked for its own."""
    asked = []

    def pretend(*capabilities, architectures="sm_90 compute_90"):
        native = SimpleNamespace(cuda_versions=lambda: (13000, 13000), cuda_architectures=architectures)
        monkeypatch.setattr(cuda, "_C", native)
        monkeypatch.setattr(cuda, "_missing", None)
        monkeypatch.setattr(cuda, "_built", True)
        monkeypatch.setattr(torch.version, "cuda", "13.0")
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: len(capabilities))
        monkeypatch.setattr(
            torch.cuda, "get_device_capability", lambda index: (asked.append(index), capabilities[index])[1]
        )
        return asked

    return pretend


@SLOW
def test_a_gpu_that_is_not_supported_leaves_the_others_alone(gpus):
    gpus((9, 0), (7, 5))
    assert dispatch.select(None, "cuda:0") is cuda
    assert dispatch.select(None, "cuda:1") is not cuda
    message = "^backend is 'cuda', which can't serve this call: GPU 1 is sm_75, and these kernels need sm_80 or later"
    with pytest.raises(RuntimeError, match=message):
        dispatch.select("cuda", "cuda:1")
    assert dispatch.select("cuda", "cuda:0") is cuda
    assert cuda.why_not("cuda") is None  # one of them is served


def test_no_gpu_is_served_if_none_is_supported(gpus):
    gpus((7, 5), (8, 6))
    assert "GPU 0 is sm_75" in cuda.why_not("cuda")
    assert "GPU 1 is sm_86, and the extension was built for sm_90" in cuda.why_not("cuda:1")


@SLOW
def test_each_device_is_asked_once(gpus):
    asked = gpus((9, 0), (7, 5))
    for _ in range(3):
        dispatch.select(None, torch.device("cuda", 0))
        dispatch.select("cuda", torch.device("cuda", 0))
        dispatch.select(None, "cuda:1")
    assert asked == [0, 1]


@pytest.mark.usefixtures("without_extension")
def test_the_reference_serves_where_the_extension_is_missing():
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
    message = f"^backend is 'cpuu', but must be None or one of {', '.join(dispatch.BACKENDS)}"
    with pytest.raises(ValueError, match=message):
        rda_conv2d(*tensors, backend="cpuu")
    with pytest.raises(ValueError, match=message):
        dynamic_depthwise_conv2d(*tensors[:2], backend="cpuu")
    with pytest.raises(ValueError, match=message):
        torch.ops.mrda_kernels.dynamic_depthwise_conv2d(*tensors[:2], 1.0, "cpuu")
    monkeypatch.setenv(dispatch.ENVIRONMENT_VARIABLE, "cpuu")
    with pytest.raises(
        ValueError, match=message.replace("backend", dispatch.ENVIRONMENT_VARIABLE).replace("None or ", "")
    ):
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
