# SPDX-License-Identifier: Apache-2.0
"""See MRDA at work in two minutes: the shipped weights, a small network trained from nothing, and the operator's speed.

    python examples/demo.py --output demo-output

First the weights that come with the package upscale two photographs. Then a small MRDA is trained in all its stages on
four other photographs, and upscales the same two. At last the fused operator is timed beside eager PyTorch. The
photographs come inside the scikit-image wheel, so that nothing is downloaded, and no network is told their blur.
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
from mrda.core.progress import TerminalProgress, log_to_stderr
from mrda.degradations.classic import crop_to_multiple, degrade
from mrda.degradations.kernels import isotropic_gaussian
from mrda.degradations.resample import bicubic
from mrda.evaluation.methods import blind_method
from mrda.evaluation.metrics import psnr_y
from mrda.evaluation.protocols import Record, evaluate, isotropic_conditions
from mrda.evaluation.tables import write_json
from mrda.paper.figures import Comparison, save_comparison
from mrda.paper.figures.canvas import add_frame, new_figure, save_figure
from mrda.photo.crops import most_detailed_crop
from mrda.photo.images import read_rgb, source_name, to_array, to_tensor
from mrda.upscale.upscaler import Upscaler
from mrda.upscale.weights import default_weights
from mrda_kernels import dispatch, reference

REPOSITORY = Path(__file__).resolve().parent.parent
PHOTOS = ("skimage:chelsea", "skimage:rocket")
SIGMAS = (0.8, 1.6, 2.4, 3.2)
PICTURED_SIGMA = 1.6
CROP = 128  # side of the square that pictures show enlarged, in HR pixels
OPERATOR_SHAPE = (1, 64, 180, 320)


@dataclass(frozen=True)
class Restored:
    """A blurred photo, upscaled by bicubic interpolation and by a network: (1, 3, H, W) in [0, 1]; PSNR-Y in dB."""

    photo: str
    sigma: float
    scale: int
    hr: torch.Tensor
    lr: torch.Tensor
    bicubic: torch.Tensor
    sr: torch.Tensor
    psnr_bicubic: float
    psnr_sr: float


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
        """Speed-up of the fused operator over the eager one."""
        return self.eager_ms / self.fused_ms


def main(
    config: Annotated[str, typer.Option(help="Name of a configuration or a YAML file.", metavar="NAME")] = "demo",
    output: Annotated[Path, typer.Option(help="Folder for the run, pictures and scores.", metavar="DIR")] = Path(
        "demo-output"
    ),
    rounds: Annotated[int, typer.Option(min=1, help="Rounds of the operator's timing.", metavar="N")] = 10,
    readme: Annotated[bool, typer.Option("--readme", help="Also renew the README's picture and record.")] = False,
) -> None:
    """Upscale with the shipped weights, train a small MRDA and upscale with it, and time the fused operator."""
    start = time.perf_counter()
    keep_freed_memory()
    log_to_stderr()
    console = Console()
    check_packages()
    backend = operator_backend()
    settings = load_config(config)
    photos = unseen(PHOTOS, settings)
    pictures = [output / "shipped.png", *([REPOSITORY / "docs" / "images" / "demo.png"] if readme else [])]
    shipped = show_shipped(photos, pictures, console)

    from mrda.training import train  # a second of imports, after the first result is shown

    console.print(f"Training a small MRDA from nothing (preset {config}), into {output / 'run'}.", soft_wrap=True)
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
    results = {
        "shipped": shipped,
        "config": config,
        "scale": settings.scale,
        "mean_gain_db": mean_gain(scores),
        "scores": [asdict(row) | {"gain_db": row.gain} for row in scores],
        "operator_backend": backend,
        "operator": [asdict(row) | {"speedup": row.speedup} for row in timings],
        "seconds": seconds,
    }
    write_json(output / "results.json", results)
    if readme:
        write_json(REPOSITORY / "benchmarks" / "results" / "demo.json", results)
    console.print(
        f"Done in {seconds / 60:.1f} minutes. Pictures: {pictures[0]} (shipped weights), {picture} (trained here)",
        soft_wrap=True,
    )


def show_shipped(photos: Sequence[str], pictures: Sequence[Path], console: Console) -> dict[str, Any]:
    """Upscale the photos with the shipped weights, and draw `pictures`; returns the gains over bicubic in dB."""
    name = default_weights()
    upscaler = Upscaler.from_pretrained(name)
    rows = []
    for photo in photos:
        row = restore(upscaler, photo, PICTURED_SIGMA)
        console.print(
            f"The weights {name}, which come with the package, on {row.photo}: PSNR-Y {row.psnr_sr:.2f} dB, "
            f"bicubic {row.psnr_bicubic:.2f} dB (x{row.scale} after a blur of {row.sigma} px)",
            highlight=False,
            soft_wrap=True,
        )
        rows.append(row)
    for picture in pictures:
        picture.parent.mkdir(parents=True, exist_ok=True)
        save_side_by_side(rows, name, picture)
    gains = {row.photo: row.psnr_sr - row.psnr_bicubic for row in rows}
    return {"weights": name, "sigma": PICTURED_SIGMA, "gain_db": gains}


def check_packages() -> None:
    """Refuse to start without the packages that the end of the demo needs."""
    for package, name in (("skimage", "scikit-image"), ("matplotlib", "matplotlib")):
        if importlib.util.find_spec(package) is None:
            raise typer.BadParameter(f"the demo needs {name}: pip install './mrda[demo]'")


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
    with TerminalProgress(console).task("upscaling", len(photos) * len(sigmas)) as task:
        for photo in photos:
            for sigma in sigmas:
                blur = isotropic_conditions([sigma])
                baseline, ours = evaluate({"mrda_s": blind_method(upscaler)}, [photo], blur, upscaler.scale)
                scores.append(pair(sigma, baseline, ours))
                task.advance()
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


def restore(upscaler: Upscaler, photo: str, sigma: float) -> Restored:
    """Blur `photo` by a standard deviation of `sigma` HR pixels, shrink it, and enlarge it both ways."""
    scale = upscaler.scale
    hr = crop_to_multiple(to_tensor(read_rgb(photo)), scale)
    lr = degrade(hr, isotropic_gaussian(sigma), scale).lr
    enlarged, sr = bicubic(lr, scale), upscaler(lr)
    psnr = [float(psnr_y(image, hr, scale)) for image in (enlarged, sr)]
    return Restored(source_name(photo), sigma, scale, hr, lr, enlarged, sr, *psnr)


def compare(upscaler: Upscaler, photo: str, sigma: float) -> Comparison:
    """One row of the picture: `photo` after a blur of `sigma`, restored both ways, and the modulation map."""
    row, student = restore(upscaler, photo, sigma), upscaler.network
    lr = row.lr.to(next(student.parameters()).device)
    with torch.inference_mode():
        modulation = student.rdan.modulation_map(lr, student.degradation(lr))
    levels = to_array(row.hr)
    return Comparison(
        caption=f"{row.photo}, blur of {sigma} px, x{row.scale}",
        bicubic=to_array(row.bicubic),
        sr=to_array(row.sr),
        hr=levels,
        modulation=modulation[0, 0].cpu().numpy(),
        psnr_bicubic=row.psnr_bicubic,
        psnr_sr=row.psnr_sr,
        crop=most_detailed_crop(levels, size=CROP),
    )


def save_side_by_side(rows: Sequence[Restored], name: str, path: Path) -> None:
    """Draw each photo with a crop framed, and that crop by bicubic, by the weights `name` and of HR."""
    widths = [1.5, 1, 1, 1]
    figure = new_figure(2.4 * sum(widths), 2.6 * len(rows), extra="demo")
    grid = {"width_ratios": widths, "wspace": 0.03, "hspace": 0.1}
    axes = figure.subplots(len(rows), len(widths), squeeze=False, gridspec_kw=grid)
    for row, cells in zip(rows, axes, strict=True):
        hr = to_array(row.hr)
        top, left, size = crop = most_detailed_crop(hr, size=CROP)
        cells[0].imshow(hr)
        add_frame(cells[0], crop)
        cells[0].set_title(f"{row.photo} (blur of {row.sigma} px, x{row.scale})", fontsize=9)
        titles = (f"bicubic, {row.psnr_bicubic:.2f} dB", f"{name}, {row.psnr_sr:.2f} dB", "HR")
        images = (to_array(row.bicubic), to_array(row.sr), hr)
        for cell, title, image in zip(cells[1:], titles, images, strict=True):
            cell.imshow(image[top : top + size, left : left + size], interpolation="nearest")
            cell.set_title(title, fontsize=9)
        for cell in cells:
            cell.set_axis_off()
    save_figure(figure, path)


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
    with TerminalProgress(console).task("timing the operator", 2 * (rounds + 1)) as task:
        for mode, run in (("forward", forward), ("forward and backward", forward_backward)):
            milliseconds: dict[str, list[float]] = {name: [] for name in operators}
            for _ in range(rounds + 1):
                for name, operator in operators.items():
                    start = time.perf_counter()
                    run(operator)
                    milliseconds[name].append(1000 * (time.perf_counter() - start))
                task.advance()
            # The first round warms caches and allocators up.
            fused, eager = (median(times[1:]) for times in milliseconds.values())
            timings.append(Timing(mode, fused, eager))
    return timings


if __name__ == "__main__":
    typer.run(main)
