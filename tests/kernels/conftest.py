"""The backends that a test of the operators runs on, and memory that starts as NaN."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from mrda_kernels import dispatch
from mrda_kernels.backends import cuda_emulated


def variants() -> list[Any]:
    """One parameter for each backend and place that it can run at: (name, instruction set or None, device type).

    The native CPU backend has one for each instruction set of this machine; triton is its interpreter where there is
    no GPU. On a GPU run the backends made for it, and the reference.
    """
    found: list[Any] = []
    for name in ("reference", "cpu", "triton", dispatch.EMULATED):
        label = "triton-interpreter" if name == "triton" else name
        reason = dispatch.load(name).why_not("cpu")
        if reason is not None:
            found.append(pytest.param((name, None, "cpu"), id=label, marks=pytest.mark.skip(reason=reason)))
        elif name == "cpu":
            from mrda_kernels import _C

            found += [pytest.param((name, isa, "cpu"), id=f"{name}-{isa}") for isa in _C.cpu_instruction_sets()]
        else:
            found.append(pytest.param((name, None, "cpu"), id=label))
    for name in ("cuda", "triton", "reference"):
        found.append(pytest.param((name, None, "cuda"), id=f"{name}-gpu", marks=pytest.mark.gpu))
    return found


@pytest.fixture(scope="module", params=variants())
def backend(request: pytest.FixtureRequest) -> Iterator[str]:
    """A backend's name. Tensors are made on its device; the native one is set to one of its instruction sets."""
    name, isa, device = request.param
    if device == "cuda":
        reason = dispatch.load(name).why_not(device)
        assert reason is None, reason  # on a machine with a GPU, both have to serve
        torch.set_default_device(device)
        yield name
        torch.set_default_device(None)
        return
    if isa is None:
        yield name
        return
    from mrda_kernels import _C

    best = _C.cpu_instruction_set()
    _C.set_cpu_instruction_set(isa)
    yield name
    _C.set_cpu_instruction_set(best)


@pytest.fixture(autouse=True, scope="session")
def quicker_interpreter() -> Iterator[None]:
    """Let Triton's interpreter patch its language once, and not again at every call within a kernel."""
    with pytest.MonkeyPatch.context() as patch:
        if dispatch.load("triton").why_not("cpu") is None:
            from triton import language
            from triton.runtime import interpreter

            def call(self: interpreter.InterpretedFunction, *args: Any, **kwargs: Any) -> Any:
                if any(language.core.is_builtin(module.load) for module in (language, language.core)):
                    interpreter._patch_lang(self.fn)
                return self.rewrite()(*args, **kwargs)

            patch.setattr(interpreter.InterpretedFunction, "__call__", call)
        yield


@pytest.fixture(autouse=True, scope="module")
def poisoned_memory() -> Iterator[None]:
    """Tensors start as NaN, so that an element which nobody writes is seen."""
    torch.use_deterministic_algorithms(True)
    assert torch.utils.deterministic.fill_uninitialized_memory
    assert torch.empty(3).isnan().all()
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture(params=[dispatch.EMULATED, pytest.param("cuda", marks=pytest.mark.gpu)])
def cuda_kernels(request: pytest.FixtureRequest) -> Iterator[str]:
    """The name of a backend with the CUDA kernels; tensors are made on its device."""
    name: str = request.param
    device = "cuda" if name == "cuda" else "cpu"
    reason = dispatch.load(name).why_not(device)
    if device == "cpu" and reason is not None:
        pytest.skip(reason)
    assert reason is None, reason
    torch.set_default_device(device)
    yield name
    torch.set_default_device(None)


@pytest.fixture
def emulation() -> Iterator[Any]:
    """The emulation of CUDA, whose controls are set back."""
    reason = cuda_emulated.why_not("cpu")
    if reason is not None:
        pytest.skip(reason)
    yield cuda_emulated._emulation
    cuda_emulated._emulation.control()


@pytest.fixture
def any_number_of_threads() -> Iterator[None]:
    """The test may change the number of torch's threads."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)
