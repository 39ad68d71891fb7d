"""The backends that a test of the operators runs on, and memory that starts as NaN."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from mrda_kernels import dispatch


def variants() -> list[Any]:
    """One parameter for each backend; for the native one, one for each instruction set that can run here."""
    found: list[Any] = []
    for name in dispatch.BACKENDS:
        reason = dispatch.load(name).why_not("cpu")
        if reason is not None:
            found.append(pytest.param((name, None), id=name, marks=pytest.mark.skip(reason=reason)))
        elif name == "cpu":
            from mrda_kernels import _C

            found += [pytest.param((name, isa), id=f"{name}-{isa}") for isa in _C.cpu_instruction_sets()]
        else:
            found.append(pytest.param((name, None), id=name))
    return found


@pytest.fixture(scope="module", params=variants())
def backend(request: pytest.FixtureRequest) -> Iterator[str]:
    """A backend's name; the native one is set to one of its instruction sets."""
    name, isa = request.param
    if isa is None:
        yield name
        return
    from mrda_kernels import _C

    best = _C.cpu_instruction_set()
    _C.set_cpu_instruction_set(isa)
    yield name
    _C.set_cpu_instruction_set(best)


@pytest.fixture(autouse=True, scope="module")
def poisoned_memory() -> Iterator[None]:
    """Tensors start as NaN, so that an element which nobody writes is seen."""
    torch.use_deterministic_algorithms(True)
    assert torch.utils.deterministic.fill_uninitialized_memory
    assert torch.empty(3).isnan().all()
    yield
    torch.use_deterministic_algorithms(False)
