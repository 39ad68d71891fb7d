"""Time the whole published network, MRDA_S x4, from LR to SR (op "model"), against other ways to build it.

    python benchmarks/model.py --device cpu --quick --json benchmarks/results/model_cpu.json

Providers, each in float32 and bfloat16, which take turns in one run:

    released           the released code's way: grouped conv2d, sub-pixel convolutions one by one
    released_compiled  the same under torch.compile: one compiled block, called 27 times, a compiled DEN and upscaler
    dasr_shaped        the nearest rival: 25 blocks of DASR's convolutions in 5 groups, each with a 3x3 convolution and
                       a skip, the same DEN; the released way
    static_convs       for orientation: the published network's 3x3 convolutions and pixel shuffles, nothing else
    mrda               `mrda.Upscaler`'s way to run our network

Shapes are those of LR. Besides the time, records hold parameters, executed mult-adds, peak memory as in
benchmarks/rda_block.py, and of ours the share of its time by part.
"""

import copy
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

if not __package__:  # run as a script: import from the root, as `python -m benchmarks.model` does
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # else torch's profiler writes to the terminal; read by torch's import

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import commands, tables
from benchmarks.measuring import Candidate, Effort, fresh_start, measure
from benchmarks.memory import peak_bytes
from benchmarks.peers import released
from benchmarks.rda_block import block_of, ordered_parameters
from benchmarks.records import Record, Setting, dtype_name, is_measured
from mrda.networks import MRDAStudent
from mrda.networks.complexity import complexity
from mrda.networks.den import DEN
from mrda.networks.layers import NEGATIVE_SLOPE, conv3x3
from mrda.networks.rda_conv import DASRConv
from mrda.networks.rdan import RDAB
from mrda.networks.upscaler import PixelShuffleUpscaler
from mrda.upscale.trunk import TrunkRunner

SHAPES = ((1, 3, 180, 320), (16, 3, 64, 64))
DTYPES = (torch.float32, torch.bfloat16)
MIN_ROUNDS = 4
PARTS_ROUNDS = 3
OURS = "mrda"

Model = Callable[[Tensor], Tensor]


def main(arguments: Sequence[str] | None = None) -> None:
    """Time MRDA_S x4 against the released network's way, torch.compile, a DASR-shaped network and convolutions."""
    command = commands.comparison_parser(__doc__, quick="the first shape only")
    options = command.parse_args(arguments)
    records = commands.run_comparison(command, options, settings(options.device, options.quick), measure_setting)
    print(tables.summary(records).text())
    print(*tables.notes(records), sep="\n")
    commands.end(records)


def settings(device: str, quick: bool) -> list[Setting]:
    """Everything to measure, in order; all dtypes of a shape are measured together."""
    return [
        Setting(device, torch.float32, "nhwc", shape, "forward", "model") for shape in (SHAPES[:1] if quick else SHAPES)
    ]


def measure_setting(setting: Setting, effort: Effort) -> list[Record]:
    """Time all providers on one shape; one record per provider, dtype and way to launch."""
    fresh_start()
    network = random_network(setting.device)
    lr = random_lr(setting)
    models = {(name, dtype): model for name, dtype, model in computing(network)}
    candidates = {
        f"{name} {dtype_name(dtype)}": Candidate(
            [partial(model, lr.to(dtype) if name != OURS else lr)],
            is_compiled=name.endswith("_compiled"),
            facts={"dtype": dtype_name(dtype), **costs(name, network, setting.shape)},
        )
        for (name, dtype), model in models.items()
    }
    records = measure(setting, candidates, floor="static_convs float32", effort=replace(effort, min_rounds=MIN_ROUNDS))
    with torch.no_grad():
        for record in records:
            if record["launch"] == "eager" and is_measured(record):
                run = candidates[record["provider"]].calls[0]
                if record["provider"].startswith(OURS):
                    plain = OneByOne(network, getattr(torch, record["dtype"]))
                    run = partial(plain, lr)  # the memory of a CUDA graph is there before it is launched
                    record["parts"] = shares(OneByOne(network, getattr(torch, record["dtype"])), lr)
                record["peak_bytes"] = peak_bytes(run, setting.device)
    for record in records:
        record["provider"] = record["provider"].split()[0]
    return records


def random_network(device: str, **options: int) -> MRDAStudent:
    """The published network as it is initialised, the same one every time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = MRDAStudent(**options).eval()
    return prepared(network, device, torch.float32)


def random_lr(setting: Setting) -> Tensor:
    """An LR image of noise."""
    lr = torch.rand(setting.shape, generator=torch.Generator().manual_seed(0))
    return lr.to(setting.device, memory_format=torch.channels_last)


def computing(network: MRDAStudent) -> Iterator[tuple[str, torch.dtype, Model]]:
    """Provider's name, dtype and network, of all; what is under torch.compile is not compiled yet."""
    device = next(network.parameters()).device.type
    rival = dasr_shaped(network)
    for dtype in DTYPES:
        plain = prepared(network, device, dtype)
        yield "released", dtype, released_way(plain)
        yield "released_compiled", dtype, released_way(plain, partial(torch.compile, fullgraph=True, dynamic=False))
        yield "dasr_shaped", dtype, prepared(rival, device, dtype)
        yield "static_convs", dtype, prepared(static_convs(network), device, dtype)
        yield OURS, dtype, ours(network, dtype)


def prepared(network: nn.Module, device: str, dtype: torch.dtype) -> nn.Module:
    """A frozen copy."""
    copied = copy.deepcopy(network).requires_grad_(False).eval()
    return copied.to(device, dtype).to(memory_format=torch.channels_last)


def ours(network: MRDAStudent, dtype: torch.dtype) -> Model:
    """As `mrda.Upscaler` does it."""
    run = TrunkRunner(network.rdan.prepare(dtype))
    return lambda lr: run(lr, network.degradation(lr))


def released_way(
    network: MRDAStudent, transform: Callable[[Callable[..., Tensor]], Callable[..., Tensor]] = lambda f: f
) -> Model:
    """The published network with grouped convolutions and the plain upscaler, each part of it under a transform."""
    rdan = network.rdan
    blocks = [ordered_parameters(block) for block in rdan.blocks]

    def start(lr: Tensor) -> Tensor:
        return F.leaky_relu(rdan.compress(network.den(lr)), NEGATIVE_SLOPE)

    def end(deep: Tensor, shallow: Tensor) -> Tensor:
        return rdan.upscaler(rdan.body_tail(deep) + shallow) + rdan.mean

    start, block, end = transform(start), transform(partial(block_of, released)), transform(end)

    def model(lr: Tensor) -> Tensor:
        idr = start(lr)
        deep = shallow = rdan.head(lr - rdan.mean)
        for parameters in blocks:
            deep = block(deep, idr, *parameters)
        return end(deep, shallow)

    return model


class DASRShaped(nn.Module):
    """DASR's shape in MRDA's parts: groups of blocks, each group ending in a convolution and a skip."""

    def __init__(self, num_feat: int, groups: int, blocks: int, scale: int, den_width: int) -> None:
        super().__init__()
        self.den = DEN(in_channels=3, width=den_width)
        self.compress = nn.Linear(4 * den_width, num_feat, bias=False)
        self.head = conv3x3(3, num_feat)
        self.groups = nn.ModuleList(
            nn.ModuleList(RDAB(num_feat, conv_type="dasr_da") for _ in range(blocks)) for _ in range(groups)
        )
        self.ends = nn.ModuleList(conv3x3(num_feat, num_feat) for _ in range(groups))
        self.body_tail = conv3x3(num_feat, num_feat)
        self.upscaler = PixelShuffleUpscaler(num_feat, scale)
        for module in self.modules():
            if isinstance(module, DASRConv):
                module.convolve = partial(_grouped, module)  # type: ignore[method-assign]

    def forward(self, lr: Tensor) -> Tensor:
        """Return SR of LR."""
        idr = F.leaky_relu(self.compress(self.den(lr)), NEGATIVE_SLOPE)
        shallow = self.head(lr)
        deep = shallow
        for blocks, end in zip(self.groups, self.ends, strict=True):
            inside = deep
            for block in blocks:
                inside = block(inside, idr)
            deep = end(inside) + deep
        return self.upscaler(self.body_tail(deep) + shallow)


def dasr_shaped(network: MRDAStudent) -> DASRShaped:
    """The rival of `network`'s width, depth 5 x 5, scale and DEN."""
    options = network.hyperparameters
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return DASRShaped(options["num_feat"], 5, 5, options["scale"], options["den_width"])


def _grouped(conv: DASRConv, features: Tensor, idr: Tensor) -> Tensor:
    batch, channels, height, width = features.shape
    weight = conv.predict_kernels(idr).reshape(batch * channels, 1, conv.kernel_size, conv.kernel_size)
    planes = features.reshape(1, batch * channels, height, width)
    return F.conv2d(planes, weight, padding=conv.kernel_size // 2, groups=batch * channels).reshape(features.shape)


def static_convs(network: MRDAStudent) -> nn.Sequential:
    """The 3x3 convolutions of the published trunk and upscaler, in a row, with the pixel shuffles between."""
    rdan = network.rdan
    blocks = [conv for block in rdan.blocks for conv in (block.conv1, block.conv2)]
    return nn.Sequential(rdan.head, *blocks, rdan.body_tail, *rdan.upscaler.expand, rdan.upscaler.last)


def costs(name: str, network: MRDAStudent, shape: Sequence[int]) -> dict[str, int]:
    """Parameters, and mult-adds of a batch as a provider executes them."""
    batch, _, height, width = shape
    if name in ("dasr_shaped", "static_convs"):
        model = dasr_shaped(network) if name == "dasr_shaped" else static_convs(network)
        with torch.device("meta"), FlopCounterMode(display=False) as counter, torch.no_grad():
            copy.deepcopy(model).to("meta")(torch.empty(1, 3, height, width))
        parameters, mult_adds = sum(p.numel() for p in model.parameters()), counter.get_total_flops() // 2
    else:
        counted = complexity(network, height, width)
        parameters = counted.parameters_trainable
        mult_adds = counted.mult_adds_executed if name == OURS else counted.mult_adds
    return {"parameters": parameters, "mult_adds": batch * mult_adds}


class OneByOne:
    """Our network as `mrda.upscale.trunk.TrunkRunner` runs it, but without CUDA graphs."""

    def __init__(self, network: MRDAStudent, dtype: torch.dtype) -> None:
        self.den: Callable[[Tensor], Tensor] = network.den
        self.trunk = network.rdan.prepare(dtype)

    def __call__(self, lr: Tensor) -> Tensor:
        """Return SR of LR."""
        return self.trunk(lr, self.den(lr))


def shares(model: OneByOne, lr: Tensor) -> dict[str, float]:
    """Measure the shares of the time of our network by part, each waited for; the model's parts stay timed."""
    spent: dict[str, float] = {}

    def timed(part: str, call: Callable[..., Tensor]) -> Any:
        def run(*inputs: Tensor) -> Tensor:
            start = _now(lr)
            result = call(*inputs)
            spent[part] = spent.get(part, 0.0) + _now(lr) - start
            return result

        return run

    trunk = model.trunk
    model.den = timed("DEN", model.den)
    trunk.head, trunk.body_tail = (timed("3x3 convolutions", part) for part in (trunk.head, trunk.body_tail))
    for half in (half for block in trunk.blocks for half in block):
        half.steered, half.conv = timed("RDA convs", half.steered), timed("3x3 convolutions", half.conv)
    trunk.upscaler = timed("upscaler", trunk.upscaler)
    for turn in range(PARTS_ROUNDS + 1):
        if turn == 1:
            spent.clear()  # the first one sets up what later ones use
        start = _now(lr)
        model(lr)
        spent["all"] = spent.get("all", 0.0) + _now(lr) - start
    total = spent.pop("all")
    spent["the rest"] = total - sum(spent.values())
    return {part: seconds / total for part, seconds in spent.items()}


def _now(tensor: Tensor) -> float:
    if tensor.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter()


if __name__ == "__main__":
    main()
