# SPDX-License-Identifier: Apache-2.0
"""Inference engines beside torch, on CPUs: they run this project's own ONNX export at the size of LR.

`pip install './mrda[engines]'` installs them. All get as many threads as torch, and optimise the graphs freely;
ncnn takes what pnnx makes of the ONNX files.
"""

import subprocess
import tempfile
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mrda.core.packages import require_package
from mrda.export import GRAPHS, export_student
from mrda.networks import MRDAStudent

FORM = "grouped Conv nodes with predicted weights, the upscaler as one convolution"
"""The form of the network that each engine runs fastest, and that `mrda.export` gives it."""

PACKAGES = {"openvino": ("openvino",), "onnxruntime": ("onnxruntime",), "ncnn": ("ncnn", "pnnx")}  # that they need

Graph = Callable[..., Any]  # from arrays of a batch of one to such an array


class Engine:
    """The network in one of the engines; the first call exports and loads it, or raises the reason why it can't."""

    def __init__(self, name: str, network: MRDAStudent, dtype: torch.dtype) -> None:
        self.name, self.network, self.dtype = name, network, dtype
        self._graphs: list[Graph] = []

    def __call__(self, lr: Tensor) -> Tensor:
        """Return SR of LR: one image in float32, always of the same size."""
        if not self._graphs:
            for package in PACKAGES[self.name]:
                require_package(package, name=package, user="this provider", extra="engines")
            folder = Path(_exported(self.network, *lr.shape[2:]).name)
            self._graphs = [ENGINES[self.name](folder / f"{graph}.onnx", self.dtype) for graph in GRAPHS]
        den, rdan = self._graphs
        image = lr.numpy()
        return torch.from_numpy(rdan(image, den(image)))


@lru_cache(maxsize=1)
def _exported(network: MRDAStudent, height: int, width: int) -> tempfile.TemporaryDirectory[str]:
    """Export a network for all engines to a folder that lives until the next call with another one."""
    folder = tempfile.TemporaryDirectory()
    export_student(network, folder.name, size=(height, width))
    return folder


def openvino(path: Path, dtype: torch.dtype) -> Graph:
    """Load a graph in OpenVINO."""
    from openvino import Core

    options = {
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "INFERENCE_PRECISION_HINT": "f32" if dtype == torch.float32 else "bf16",
        "PERFORMANCE_HINT": "LATENCY",
    }
    request = Core().compile_model(path, "CPU", options).create_infer_request()
    return lambda *arrays: request.infer(arrays, share_inputs=True, share_outputs=True)[0]


def onnxruntime(path: Path, dtype: torch.dtype) -> Graph:
    """Load a graph in ONNX Runtime."""
    if dtype != torch.float32:
        raise NotImplementedError("ONNX Runtime has no bfloat16 kernels for CPUs")
    from onnxruntime import GraphOptimizationLevel, InferenceSession, SessionOptions

    options = SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.graph_optimization_level = GraphOptimizationLevel.ORT_ENABLE_ALL
    # Threads that spin after a call would delay the next provider.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    session = InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [entry.name for entry in session.get_inputs()]
    return lambda *arrays: session.run(None, dict(zip(names, arrays, strict=True)))[0]


def ncnn(path: Path, dtype: torch.dtype) -> Graph:
    """Load a graph in ncnn, in which arrays have no batch."""
    from ncnn import Mat, Net
    from pnnx import EXEC_PATH

    # pnnx writes beside the file; without fp16=0 it would round the weights.
    done = subprocess.run(
        [EXEC_PATH, path.name, "fp16=0"], cwd=path.parent, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"pnnx can't read {path.name}: exit code {done.returncode}")
    net = Net()
    options = {"use_fp16_packed": False, "use_fp16_storage": False, "use_fp16_arithmetic": False}
    for name, value in {**options, "num_threads": torch.get_num_threads()}.items():
        setattr(net.opt, name, value)
    net.opt.use_bf16_storage = dtype == torch.bfloat16
    for load, suffix in ((net.load_param, "param"), (net.load_model, "bin")):
        if load(str(path.with_suffix(f".ncnn.{suffix}"))):
            raise RuntimeError(f"ncnn can't read what pnnx made of {path.name}")

    def run(*arrays: Any) -> Any:
        extractor = net.create_extractor()
        for index, array in enumerate(arrays):
            extractor.input(f"in{index}", Mat(array[0]))
        code, result = extractor.extract("out0")
        if code:
            raise RuntimeError(f"ncnn failed on {path.name}: code {code}")
        return result.numpy()[None]

    return run


ENGINES: Mapping[str, Callable[[Path, torch.dtype], Graph]] = {f.__name__: f for f in (openvino, onnxruntime, ncnn)}
"""The functions that load a graph at a path, to compute in a dtype, by provider's name."""
