"""Contexts that a caller may be in."""

import contextlib

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode


class FunctionMode(TorchFunctionMode):
    def __torch_function__(self, func, types, args=(), kwargs=None):
        return func(*args, **(kwargs or {}))


class DispatchMode(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return func(*args, **(kwargs or {}))


@contextlib.contextmanager
def default_dtype(dtype):
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextlib.contextmanager
def default_device(device):
    before = torch.get_default_device()
    torch.set_default_device(device)
    try:
        yield
    finally:
        torch.set_default_device(None if before.type == "cpu" else before)


@contextlib.contextmanager
def ordinary_algorithms():
    torch.use_deterministic_algorithms(False)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(True)


def autocast(dtype, **options):
    return lambda: torch.autocast(torch.get_default_device().type, dtype, **options)


CONTEXTS = {
    "autocast to bfloat16": autocast(torch.bfloat16),
    "autocast to float16": autocast(torch.float16, cache_enabled=False),
    "default dtype float64": lambda: default_dtype(torch.float64),
    "default dtype bfloat16": lambda: default_dtype(torch.bfloat16),
    "default device": lambda: default_device("meta"),
    "device": lambda: torch.device("meta"),
    "algorithms that may differ": ordinary_algorithms,
    "no gradients": torch.no_grad,
    "inference": torch.inference_mode,
    "gradients": torch.enable_grad,
    "anomalies": torch.autograd.detect_anomaly,
    "saved tensors": lambda: torch.autograd.graph.saved_tensors_hooks(lambda t: t * 1, lambda t: t * 1),
    "functions": FunctionMode,
    "operators": DispatchMode,
}
AUTOCAST = {"autocast to bfloat16": torch.bfloat16, "autocast to float16": torch.float16}
