"""The whole method on a few real photographs: train, upscale blind, compare, and time the fused operator.

    python examples/demo.py --output demo-output

First the weights that come with the package upscale the photographs, in seconds; then a small network is trained from
nothing, and does it too. The photographs come inside the scikit-image wheel; nothing is downloaded. The two that are
upscaled are never trained on, and of their blur no network is told anything.
"""

import importlib.util
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean, median
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table

import mrda_kernels
from mrda.config import TrainConfig
from mrda.config.load import load_config
from mrda.core.memory import keep_freed_memory
from mrda.core.progress import progress_bar
from mrda.degradations.classic import crop_to_multiple, degrade
from mrda.degradations.kernels import isotropic_gaussian
from mrda.degradations.resample import bicubic
from mrda.evaluation.methods import blind_method
from mrda.evaluation.metrics import psnr_y
from mrda.evaluation.protocols import Record, evaluate, isotropic_conditions
from mrda.evaluation.tables import write_json
from mrda.paper.figures import Comparison, save_comparison
from mrda.photo.crops import most_detailed_crop
from mrda.photo.images import read_rgb, source_name, to_array, to_tensor
from mrda.training import train
from mrda.upscale.upscaler import Upscaler
from mrda.upscale.weights import default_weights
from mrda_kernels import dispatch, reference

PHOTOS = ("skimage:chelsea", "skimage:rocket")
SIGMAS = (0.8, 1.6, 2.4, 3.2)
PICTURED_SIGMA = 1.6
OPERATOR_SHAPE = (1, 64, 180, 320)


@dataclass(frozen=True)
class Score:
    """Bicubic against MRDA_S for one photo and one blur; PSNR in dB, both on Y."""

    image: str
    sigma: float
    psnr_bicubic: float
    psnr_mrda: float
    ssim_bicubic: float
    ssim_mrda: float

    @property
    def gain(self) -> float:
        """By how many dB MRDA_S is better."""
        return self.psnr_mrda - self.psnr_bicubic


@dataclass(frozen=True)
class Timing:
    """Medians of the RDA conv's time, in milliseconds."""

    mode: str
    fused_ms: float
    eager_ms: float

    @property
    def speedup(self) -> float:
        """How many times faster the fused operator is."""
        return self.eager_ms / self.fused_ms


def main(
    config: Annotated[str, typer.Option(help="A preset's name or a YAML file.")] = "demo",
    output: Annotated[Path, typer.Option(help="Folder for the run, the picture and the scores.")] = Path("demo-output"),
    rounds: Annotated[int, typer.Option(min=1, help="Rounds of the operator's timing.")] = 20,
) -> None:
    """Train a small MRDA, upscale photographs it has never seen, and time the fused operator."""
    start = time.perf_counter()
    keep_freed_memory()
    console = Console()
    check_packages()
    backend = operator_backend()
    settings = load_config(config)
    photos = unseen(PHOTOS, settings)
    names = " and ".join(source_name(photo) for photo in photos)
    shipped = show_shipped(photos, output, console)
    console.print(
        f"Training MRDA (preset {config}) anew in {output / 'run'}, then upscaling {names} "
        f"x{settings.scale} after blurs the network is not told about, and timing the fused operator.",
        soft_wrap=True,
    )
    weights = train(settings, output / "run", resume=False)["student"]

    upscaler = Upscaler.from_pretrained(weights)
    scores = score(upscaler, photos, SIGMAS, console)
    console.print(score_table(scores, settings.scale))
    console.print(f"mean gain over bicubic: {mean_gain(scores):+.2f} dB", style="bold")

    picture = output / "comparison.png"
    save_comparison([compare(upscaler, photo, PICTURED_SIGMA) for photo in photos], picture)

    timings = time_operator(OPERATOR_SHAPE, rounds, console) if backend != "reference" else []
    if not timings:
        console.print(
            "No fused operator serves this machine, so there is none to time (see: mrda info).", soft_wrap=True
        )
    for timing in timings:
        console.print(
            f"RDA conv {timing.mode} at {OPERATOR_SHAPE} float32: fused (backend {backend}) {timing.fused_ms:.2f} ms, "
            f"eager {timing.eager_ms:.2f} ms, {timing.speedup:.1f} times faster",
            highlight=False,
            soft_wrap=True,
        )
    seconds = time.perf_counter() - start
    write_json(
        output / "results.json",
        {
            "shipped": shipped,
            "config": config,
            "scale": settings.scale,
            "mean_gain_db": mean_gain(scores),
            "scores": [asdict(row) | {"gain_db": row.gain} for row in scores],
            "operator_backend": backend,
            "operator": [asdict(row) | {"speedup": row.speedup} for row in timings],
            "seconds": seconds,
        },
    )
    console.print(f"Done in {seconds / 60:.1f} minutes. The picture: {picture}", soft_wrap=True)


def show_shipped(photos: Sequence[str], output: Path, console: Console) -> dict[str, Any]:
    """Upscale the photos by the weights that come with the package; returns the gains over bicubic."""
    name = default_weights()
    upscaler = Upscaler.from_pretrained(name)
    picture = output / "shipped.png"
    output.mkdir(parents=True, exist_ok=True)
    comparisons = [compare(upscaler, photo, PICTURED_SIGMA) for photo in photos]
    save_comparison(comparisons, picture)
    gains = {source_name(photo): row.psnr_sr - row.psnr_bicubic for photo, row in zip(photos, comparisons, strict=True)}
    words = ", ".join(f"{photo} {gain:+.2f} dB" for photo, gain in gains.items())
    console.print(
        f"The weights {name}, which come with the package, against bicubic after a blur of {PICTURED_SIGMA} px: "
        f"{words}. The picture: {picture}",
        highlight=False,
        soft_wrap=True,
    )
    return {"weights": name, "sigma": PICTURED_SIGMA, "gain_db": gains}


def check_packages() -> None:
    """Refuse to start without the packages that the end of the demo needs."""
    for package, name in (("skimage", "scikit-image"), ("matplotlib", "matplotlib")):
        if importlib.util.find_spec(package) is None:
            raise typer.BadParameter(f"the demo needs {name}: pip install 'mrda-kernels[demo]'")


def operator_backend() -> str:
    """The backend of mrda_kernels that serves the RDA conv on CPU tensors."""
    serving = dispatch.select(None, "cpu")
    return next(name for name in dispatch.BACKENDS if dispatch.load(name) is serving)


def unseen(photos: Sequence[str], config: TrainConfig) -> Sequence[str]:
    """Return `photos`; refuse a configuration that trains on one of them."""
    for photo in photos:
        if photo in config.data.sources:
            raise typer.BadParameter(f"the config trains on {photo}, which the demo keeps for the test")
    return photos


def score(upscaler: Upscaler, photos: Sequence[str], sigmas: Sequence[float], console: Console) -> list[Score]:
    """Degrade each photo by each blur (standard deviations in HR pixels) and measure what is restored."""
    scores = []
    with progress_bar(console) as bar:
        task = bar.add_task("upscaling", total=len(photos) * len(sigmas))
        for photo in photos:
            for sigma in sigmas:
                blur = isotropic_conditions([sigma])
                baseline, ours = evaluate({"mrda_s": blind_method(upscaler)}, [photo], blur, upscaler.scale)
                scores.append(pair(sigma, baseline, ours))
                bar.advance(task)
    return scores


def pair(sigma: float, baseline: Record, ours: Record) -> Score:
    return Score(baseline.image, sigma, baseline.psnr_y, ours.psnr_y, baseline.ssim_y, ours.ssim_y)


def mean_gain(scores: Sequence[Score]) -> float:
    """The mean over photos and blurs, in dB."""
    return fmean(row.gain for row in scores)


def score_table(scores: Sequence[Score], scale: int) -> Table:
    table = Table(title=f"x{scale}, blind: PSNR-Y (dB) and SSIM-Y on photos never trained on")
    table.add_column("image")
    for heading in (
        "blur\nsigma",
        "PSNR\nbicubic",
        "PSNR\nMRDA_S",
        "\ngain",
        "SSIM\nbicubic",
        "SSIM\nMRDA_S",
    ):
        table.add_column(heading, justify="right")
    for row in scores:
        table.add_row(
            row.image,
            f"{row.sigma:.1f}",
            f"{row.psnr_bicubic:.2f}",
            f"{row.psnr_mrda:.2f}",
            f"{row.gain:+.2f}",
            f"{row.ssim_bicubic:.4f}",
            f"{row.ssim_mrda:.4f}",
        )
    return table


def compare(upscaler: Upscaler, photo: str, sigma: float) -> Comparison:
    """One row of the picture: `photo` after a blur of `sigma`, restored both ways, and the modulation map."""
    scale, student = upscaler.scale, upscaler.network
    hr = crop_to_multiple(to_tensor(read_rgb(photo)), scale)
    lr = degrade(hr, isotropic_gaussian(sigma), scale).lr
    enlarged, sr = bicubic(lr, scale), upscaler(lr)
    device = next(student.parameters()).device
    with torch.inference_mode():
        modulation = student.rdan.modulation_map(lr.to(device), student.degradation(lr.to(device)))
    levels = to_array(hr)
    return Comparison(
        caption=f"{source_name(photo)}, blur of {sigma} px, x{scale}",
        bicubic=to_array(enlarged),
        sr=to_array(sr),
        hr=levels,
        modulation=modulation[0, 0].cpu().numpy(),
        psnr_bicubic=float(psnr_y(enlarged, hr, scale)),
        psnr_sr=float(psnr_y(sr, hr, scale)),
        crop=most_detailed_crop(levels, size=128),
    )


def time_operator(shape: tuple[int, int, int, int], rounds: int, console: Console) -> list[Timing]:
    """Time the RDA conv in float32 on the CPU, fused and eager in turn, without and with its backward."""
    batch, channels, _, _ = shape
    generator = torch.Generator().manual_seed(0)
    sizes = (shape, (batch, channels, 3, 3), (1, channels, 1, 1), (1,))
    tensors = [torch.randn(size, generator=generator).requires_grad_() for size in sizes]
    gradient = torch.randn(shape, generator=generator)
    operators: dict[str, Callable[..., torch.Tensor]] = {
        "fused": mrda_kernels.rda_conv2d,
        "eager": reference.rda_conv2d,
    }

    def forward(operator: Callable[..., torch.Tensor]) -> None:
        with torch.no_grad():
            operator(*tensors)

    def forward_backward(operator: Callable[..., torch.Tensor]) -> None:
        torch.autograd.grad(operator(*tensors), tensors, gradient)

    timings = []
    with progress_bar(console) as bar:
        task = bar.add_task("timing the operator", total=2 * (rounds + 1))
        for mode, run in (("forward", forward), ("forward and backward", forward_backward)):
            milliseconds: dict[str, list[float]] = {name: [] for name in operators}
            for _ in range(rounds + 1):
                for name, operator in operators.items():
                    start = time.perf_counter()
                    run(operator)
                    milliseconds[name].append(1000 * (time.perf_counter() - start))
                bar.advance(task)
            # The first round warms caches and allocators up.
            fused, eager = (median(times[1:]) for times in milliseconds.values())
            timings.append(Timing(mode, fused, eager))
    return timings


if __name__ == "__main__":
    typer.run(main)
