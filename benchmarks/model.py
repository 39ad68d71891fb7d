# SPDX-License-Identifier: Apache-2.0
"""Time the whole published network, MRDA_S x4, from LR to SR (op "model"), against other ways to build it.

    python benchmarks/model.py --device cpu --quick --json benchmarks/results/model_cpu.json
    python benchmarks/model.py --quick --changes --json benchmarks/results/changes_cpu.json
    python benchmarks/model.py --network dasr --json benchmarks/results/dasr_cpu.json

Providers, each in float32, and in bfloat16 if the processor has it, which take turns in one run:

    released           the released code's way: grouped conv2d, sub-pixel convolutions one by one
    released_compiled  the same under torch.compile: one compiled block, called 27 times, a compiled DEN and upscaler
    released_tuned_compiled    the same in torch.compile's mode "max-autotune-no-cudagraphs"; on a GPU
    static_convs       for orientation: the published network's 3x3 convolutions and pixel shuffles, nothing else
    openvino, onnxruntime, ncnn    our network in these engines; one image, on a CPU
    mrda               `mrda.Upscaler`'s way to run our network

With --changes instead: mrda, and mrda with one change undone at a time. Shapes are those of LR. With --network instead:
DASR or KDSR_S (size M) by the released way and by ours, after its steered convolution alone, all that belongs to it
included: op "dasr_conv" or "kdsr_conv".
"""

import copy
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

if not __package__:  # run as a script: import from the root, as `python -m benchmarks.model` does
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # before torch is imported: its profiler would write to the terminal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks import commands
from benchmarks.engines import ENGINES, FORM, Engine
from benchmarks.harness import Candidate, Effort, fresh_start, measure, shares
from benchmarks.peers import released, use_groups, use_peer
from benchmarks.rda_block import in_a_row, run_block
from benchmarks.records import FLOORS, MEMORY_FORMATS, Record, Setting, dtype_name, is_measured
from mrda.core.environment import has_bfloat16
from mrda.networks import DASR, BlindNetwork, KDSRStudent, MRDAStudent
from mrda.networks.layers import NEGATIVE_SLOPE
from mrda.upscale.runner import GraphRunner

SHAPES = ((1, 3, 180, 320), (16, 3, 64, 64))
SMALL, LAYER = (1, 3, 32, 32), (1, 64, 180, 320)
SISTERS = {"dasr": DASR, "kdsr": KDSRStudent}
OURS = "mrda"

Model = Callable[[Tensor], Tensor]
Models = Iterator[tuple[str, Model]]  # providers' names and networks


def main(arguments: Sequence[str] | None = None) -> None:
    """Time MRDA_S x4 against the released network's way, torch.compile and convolutions."""
    command = commands.comparison_parser(__doc__, quick="the first shape only")
    command.add_argument("--changes", action="store_true", help="instead: our network with one change undone at a time")
    command.add_argument("--network", choices=SISTERS, help="instead: this network and its layer, two ways")
    options = command.parse_args(arguments)
    if options.network:
        layers = product(MEMORY_FORMATS, [LAYER], ["forward"], [f"{options.network}_conv"])
        todo = [*layers, ("nhwc", SHAPES[0], "forward", options.network)]
        sisters = [Setting(options.device, torch.float32, *each) for each in (todo[:2] if options.quick else todo)]
        commands.run_comparison(command, options, sisters, measure_sister)
    if torch.bfloat16 not in dtypes(options.device):
        print("bfloat16 is left out: this processor would emulate it", file=sys.stderr)
    shapes = (SMALL, SHAPES[0]) if options.changes else ()
    measure_it = partial(measure_setting, models=undone if options.changes else computing)
    commands.run_comparison(command, options, settings(options.device, options.quick, shapes), measure_it)


def settings(device: str, quick: bool, shapes: Sequence[tuple[int, ...]] = ()) -> list[Setting]:
    """Everything to measure, in order; all dtypes of a shape are measured together."""
    shapes = shapes or (SHAPES[:1] if quick else SHAPES)
    return [Setting(device, torch.float32, "nhwc", shape, "forward", "model") for shape in shapes]


def dtypes(device: str) -> list[torch.dtype]:
    """The dtypes to measure: those that the processor computes in."""
    return [torch.float32, torch.bfloat16] if has_bfloat16(torch.device(device)) else [torch.float32]


def computing(network: MRDAStudent, dtype: torch.dtype) -> Models:
    """All providers; nothing is compiled or exported yet."""
    compiled = partial(torch.compile, fullgraph=True, dynamic=False)
    yield "released", released_way(prepared(network, dtype))
    yield "released_compiled", released_way(prepared(network, dtype), compiled)
    if network.rdan.mean.is_cuda:
        tuned = partial(compiled, mode="max-autotune-no-cudagraphs")
        yield "released_tuned_compiled", released_way(prepared(network, dtype), tuned)
    yield "static_convs", prepared(static_convs(network), dtype)
    for name in ENGINES:
        yield name, Engine(name, network, dtype)
    yield OURS, ours(network, dtype)


def undone(network: MRDAStudent, dtype: torch.dtype) -> Models:
    """Our network as it is, and without each of its changes."""
    nchw = copy.deepcopy(network).to(memory_format=torch.contiguous_format)
    yield OURS, ours(network, dtype)
    chain = OneByOne(network, dtype)
    chain.trunk.upscaler = lambda features: network.rdan.upscaler(features.float()) + network.rdan.mean  # type: ignore
    yield f"{OURS}_plain_upscaler", chain
    yield f"{OURS}_nchw", ours(nchw, dtype)
    single = OneByOne(network, dtype)
    single.trunk.predict = partial(_one_by_one, single.trunk.predict)  # type: ignore[assignment]
    yield f"{OURS}_predicting_one_by_one", single


def _one_by_one(predict: Any, idr: Tensor, dtype: torch.dtype) -> Iterator[Tensor]:
    for squeeze, expand in zip(predict.squeeze, predict.expand, strict=True):
        kernels = F.leaky_relu(idr @ squeeze, NEGATIVE_SLOPE) @ expand
        yield kernels.reshape(*idr.shape, predict.size, predict.size).to(dtype)


def measure_setting(
    setting: Setting, effort: Effort, models: Callable[[MRDAStudent, torch.dtype], Models] = computing
) -> list[Record]:
    """Time all providers on one shape; one record per provider, dtype and way to launch."""
    fresh_start()
    network = random_network(setting.device)
    lr = torch.rand(setting.shape, generator=torch.Generator().manual_seed(0)).to(setting.device)
    has_engines = setting.device == "cpu" and setting.shape[0] == 1
    candidates = {}
    for dtype in dtypes(setting.device):
        plain = OneByOne(network, dtype)
        for name, model in models(network, dtype):
            if name in ENGINES and not has_engines:
                continue
            # our own way and engines convert LR themselves
            layout = "nchw" if name in ENGINES or name.endswith("_nchw") else "nhwc"
            converts = name in ENGINES or name.startswith(OURS)
            image = lr.to(torch.float32 if converts else dtype, memory_format=MEMORY_FORMATS[layout])
            candidates[f"{name} {dtype_name(dtype)}"] = Candidate(
                partial(model, image),
                is_compiled=name.endswith("_compiled"),
                facts={"dtype": dtype_name(dtype)} | ({"form": FORM} if name in ENGINES else {}),
                memory_run=partial(plain, image) if name == OURS else None,
            )
    records = measure(setting, candidates, floor="static_convs float32", effort=effort)
    for record in records:
        candidate, name = candidates[record["provider"]], record["provider"].split()[0]
        record["provider"] = name
        if record["launch"] != "eager" or not is_measured(record):
            continue
        with torch.no_grad():
            if candidate.memory_run is not None:
                record["parts"] = shares(candidate.memory_run, parts_of(candidate.memory_run.func))
            if name in ENGINES:
                del record["peak_bytes"]  # an engine has its memory from the system
                record["max_error"] = (candidate.run() - network(lr)).abs().max().item()
    return records


def measure_sister(setting: Setting, effort: Effort) -> list[Record]:
    """Time the released way and ours on a sister of MRDA_S, or on its layer alone."""
    fresh_start()
    network = random_network(setting.device, SISTERS[setting.op.removesuffix("_conv")])
    x = torch.rand(setting.shape, device=setting.device).to(memory_format=MEMORY_FORMATS[setting.layout])
    ways, inputs = (use_groups(prepared(network, torch.float32)), OneByOne(network, torch.float32)), (x,)
    if setting.op not in SISTERS:
        slope = {"output_negative_slope": NEGATIVE_SLOPE} if setting.op == "dasr_conv" else {}
        ways = [partial(each.rdan.blocks[0].halves()[0][0], **slope) for each in (ways[0], network)]
        inputs = (x, x.mean(dim=(2, 3)))
    runs = {name: Candidate(partial(way, *inputs)) for name, way in zip(("released", OURS), ways, strict=True)}
    return measure(setting, runs, floor=FLOORS[setting.op], effort=effort)


def random_network(device: str, kind: type[BlindNetwork] = MRDAStudent, **options: int) -> Any:
    """A published network as it is initialised, the same every time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = kind(**options)
    return prepared(network.to(device), torch.float32)


def prepared(network: nn.Module, dtype: torch.dtype) -> nn.Module:
    """A frozen copy."""
    return copy.deepcopy(network).requires_grad_(False).eval().to(dtype).to(memory_format=torch.channels_last)


def ours(network: BlindNetwork, dtype: torch.dtype) -> Model:
    """Our network as `mrda.Upscaler` runs it."""
    return GraphRunner(network.prepare(dtype))


class OneByOne:
    """Our network as `mrda.Upscaler` runs it, but without CUDA graphs, which hide its parts and its memory."""

    def __init__(self, network: BlindNetwork, dtype: torch.dtype) -> None:
        prepared = network.prepare(dtype)
        self.den, self.trunk = prepared.den, prepared.rdan

    def __call__(self, lr: Tensor) -> Tensor:
        """Return SR of LR."""
        return self.trunk(lr, self.den(lr))


def released_way(network: MRDAStudent, transform: Callable[..., Any] = lambda function: function) -> Model:
    """The network with grouped convolutions and the plain upscaler, its parts under a transform; it is changed."""
    rdan = network.rdan
    use_peer(network, released)
    den, trunk, upscale = transform(network.den), in_a_row(rdan.blocks, transform(run_block)), transform(rdan.upscaler)

    def model(lr: Tensor) -> Tensor:
        idr = F.leaky_relu(rdan.compress(den(lr)), NEGATIVE_SLOPE)
        shallow = rdan.head(lr - rdan.mean)
        return upscale(rdan.body_tail(trunk(shallow, idr)) + shallow) + rdan.mean

    return model


def static_convs(network: MRDAStudent) -> nn.Sequential:
    """The 3x3 convolutions of the published trunk and upscaler, in a row, with the pixel shuffles between."""
    rdan = network.rdan
    blocks = [conv for block in rdan.blocks for conv in (block.conv1, block.conv2)]
    return nn.Sequential(rdan.head, *blocks, rdan.body_tail, *rdan.upscaler.expand, rdan.upscaler.last)


def parts_of(model: OneByOne) -> list[tuple[Any, str, str]]:
    """The parts of our network for `benchmarks.harness.shares`."""
    trunk = model.trunk
    halves = dict.fromkeys(type(half) for block in trunk.blocks for half in block)
    return [
        (model, "den", "DEN"),
        (trunk, "upscaler", "upscaler"),
        *((half, "__call__", "half blocks") for half in halves),
        *((trunk, name, "other 3x3 convolutions") for name in ("head", "body_tail")),
    ]


if __name__ == "__main__":
    main()
