"""The command `mrda`: train, upscale, evaluate, info.

Exit codes: 0 all done; 1 at least one photo failed, the others are done; 2 wrong usage, configuration or
weights, said before any work; 130 interrupted.

Whatever imports torch is imported inside the commands, so that help appears at once.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn, cast

import typer
from rich.console import Console
from rich.markdown import Markdown
from rich.progress import Progress

from mrda.memory import keep_freed_memory
from mrda.progress import progress_bar

if TYPE_CHECKING:
    from mrda.config import StageName
    from mrda.evaluation.protocols import Record
    from mrda.images import Source
    from mrda.inference import Upscaler

app = typer.Typer(
    help="MRDA: blind image super-resolution by meta-learned degradation representations.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

_NO_WEIGHTS = (
    "no weights: none come with the package yet, so give some with -w WEIGHTS; "
    "`mrda train --config demo` or `make demo` makes them in minutes"
)

Weights = Annotated[
    Path | None,
    typer.Option("-w", "--weights", help="A student's weights: .safetensors, or the authors' .pth."),
]


@app.command(
    epilog="Example: mrda train --config demo --set student.steps=2000 --run-dir runs/longer",
    short_help="Train the three stages.",
)
def train(
    config: Annotated[str, typer.Option("--config", help="A preset's name or a YAML file.", metavar="NAME|PATH")],
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", help="Change one option; may be repeated.", metavar="KEY=VALUE"),
    ] = None,
    run_dir: Annotated[
        Path | None, typer.Option("--run-dir", help="Where the run lives; runs/NAME if not given.")
    ] = None,
    stages: Annotated[
        list[str] | None,
        typer.Option("--stage", help="bicubic, meta, teacher or student; may be repeated; all if not given."),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume/--no-resume", help="Go on from the checkpoints in the run directory.")
    ] = True,
) -> None:
    """Train the MLN, the teacher and the student, in this order, or some of the stages."""
    from mrda.config import load_config
    from mrda.training import RunRefusedError
    from mrda.training import train as run_training

    with _refusing():
        settings = load_config(config, overrides or ())
    run_dir = run_dir or Path("runs") / Path(config).stem
    chosen = cast("list[StageName] | None", stages)  # `train` checks them
    try:
        weights = run_training(settings, run_dir, stages=chosen, resume=resume)
    except RunRefusedError as error:
        _refuse(str(error))
    except FloatingPointError as error:
        typer.echo(f"mrda: {error}", err=True)
        raise typer.Exit(1) from None
    for stage, path in weights.items():
        typer.echo(f"{stage}: {path}")


@app.command(
    epilog="Example: mrda upscale holiday/*.jpg -o enlarged -w runs/demo/student/weights.safetensors",
    short_help="Upscale photos.",
)
def upscale(
    photos: Annotated[list[str], typer.Argument(help="Photos, or folders of photos.", metavar="PHOTO")],
    output: Annotated[Path, typer.Option("-o", "--output", help="The folder to write to; made if missing.")],
    weights: Weights = None,
) -> None:
    """Upscale photos of unknown degradation and write {name}_x{scale}.png into a folder."""
    if weights is None:
        _refuse(_NO_WEIGHTS)
    from mrda.images import find_images
    from mrda.inference import Upscaler

    with _refusing():
        sources = find_images(photos)
        upscaler = Upscaler.from_pretrained(weights)
        targets = _targets(sources, output, upscaler.scale)
    failures = 0
    blocks = len(upscaler.network.rdan.blocks)
    with _progress("upscaling", len(sources) * blocks, upscaler) as progress:
        for done, (source, target) in enumerate(zip(sources, targets, strict=True), start=1):
            failure = _upscale_photo(upscaler, source, target)
            if failure is not None:
                failures += 1
                _report(progress, failure)
            progress.update(progress.task_ids[0], completed=done * blocks)
    typer.echo(f"{len(sources) - failures} of {len(sources)} photos upscaled into {output}")
    raise typer.Exit(1 if failures else 0)


@app.command(
    epilog="Example: mrda evaluate -w weights.safetensors --data Set5 Set14 --json scores.json",
    short_help="Measure PSNR-Y and SSIM-Y on photos.",
)
def evaluate(
    data: Annotated[
        list[Path],
        typer.Option("--data", help="A folder of HR photos, or several: --data A B.", metavar="DIR..."),
    ],
    more_data: Annotated[list[Path] | None, typer.Argument(hidden=True, metavar="[DIR]...")] = None,
    weights: Weights = None,
    protocol: Annotated[str, typer.Option("--protocol", help="gaussian8 or bicubic.")] = "gaussian8",
    scale: Annotated[
        int | None, typer.Option("--scale", help="2, 3 or 4; that of the weights if not given, else 4.")
    ] = None,
    method: Annotated[
        str, typer.Option("--method", help="mrda_s, or bicubic alone, which needs no weights.")
    ] = "mrda_s",
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the scores here too.", metavar="FILE")] = None,
) -> None:
    """Degrade HR photos in agreed ways, upscale them, and compare; bicubic is always beside."""
    if method not in ("mrda_s", "bicubic"):
        _refuse(f"--method must be mrda_s or bicubic, not {method!r}")
    if method == "mrda_s" and weights is None:
        _refuse(_NO_WEIGHTS)
    if method == "bicubic" and weights is not None:
        _refuse("--method bicubic uses no weights, so -w can't go with it")
    if json_file is not None:
        _check_json(json_file)
    from mrda.evaluation.protocols import conditions
    from mrda.evaluation.protocols import evaluate as measure
    from mrda.evaluation.tables import markdown, summarise, write_json
    from mrda.inference import Upscaler

    with _refusing():
        folders = _folders([*data, *(more_data or ())])
        upscaler = None if weights is None else Upscaler.from_pretrained(weights)
        if scale is None:
            scale = 4 if upscaler is None else upscaler.scale
        if upscaler is not None and scale != upscaler.scale:
            raise ValueError(f"--scale is {scale}, but {weights} upscales by {upscaler.scale}")
        degradations = conditions(protocol, scale)

    records: dict[str, list[Record]] = {}
    failures = 0
    per_photo = len(degradations) * (1 if upscaler is None else 2)
    photos = [(folder, source) for folder, sources in folders.items() for source in sources]
    with _progress("evaluating", len(photos) * per_photo) as progress:
        for done, (folder, source) in enumerate(photos, start=1):
            try:
                for record in measure(upscaler, [source], degradations, scale, name=method):
                    records.setdefault(folder, []).append(record)
                    progress.advance(progress.task_ids[0])
            except ValueError as error:
                failures += 1
                _report(progress, str(error) if str(source) in str(error) else f"{source}: {error}")
            progress.update(progress.task_ids[0], completed=done * per_photo)
    datasets = {folder: summarise(measured) for folder, measured in records.items()}
    _print_table(markdown(datasets))
    if json_file is not None:
        write_json(json_file, {"datasets": datasets})
    raise typer.Exit(1 if failures else 0)


@app.command(
    epilog="Example: mrda info runs/demo/student/weights.safetensors",
    short_help="Show versions, kernel backends, and what a weights file holds.",
)
def info(
    weights: Annotated[Path | None, typer.Argument(help="A weights file.", metavar="[WEIGHTS]")] = None,
) -> None:
    """Show versions and kernel backends; of a weights file the architecture, scale and parameters."""
    if weights is None:
        from mrda_kernels.info import report

        typer.echo(report())
        return
    from mrda.inference import load_weights

    with _refusing():
        network = load_weights(weights)
    parameters = sum(parameter.numel() for parameter in network.parameters())
    typer.echo(f"architecture  {type(network).__name__}")
    typer.echo(f"scale         {network.hyperparameters['scale']}")
    typer.echo(f"parameters    {parameters:,}")
    for key, value in network.hyperparameters.items():
        if key != "scale":
            typer.echo(f"{key:<13} {value}")


def main() -> None:
    """Run the command line; the process ends with one of the exit codes above."""
    keep_freed_memory()
    app()


def _refuse(message: str) -> NoReturn:
    typer.echo(f"mrda: {message}", err=True)
    raise typer.Exit(2)


@contextmanager
def _refusing() -> Iterator[None]:
    """Before any work: a ValueError is the user's to mend, and needs no traceback."""
    try:
        yield
    except ValueError as error:
        _refuse(str(error))


def _check_json(path: Path) -> None:
    """Refuse a file that the scores could not be written to when they are there."""
    from mrda.files import check_writable

    if os.path.isdir(path) or not os.path.isdir(path.parent):
        _refuse(f"--json must be a file in an existing folder, not {path}")
    try:
        check_writable(path)
    except OSError as error:
        _refuse(f"--json {path} can't be written: {error.strerror}")


def _upscale_photo(upscaler: "Upscaler", source: "Source", target: Path) -> str | None:
    """Upscale one photo into a file; returns what prevented it, in a sentence."""
    from mrda.images import ImageError, read_image, write_image
    from mrda.inference import is_out_of_memory

    try:
        sr = upscaler(read_image(source))
    except ImageError as error:
        return str(error)
    except OSError as error:
        return f"cannot read {source}: {error.strerror or error}"
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        return f"cannot upscale {source}: there is not enough memory for a photo of its size"
    try:
        write_image(target, sr)
    except OSError as error:
        return f"cannot write {target}: {error.strerror or error}"
    return None


def _targets(sources: "Sequence[Source]", output: Path, scale: int) -> list[Path]:
    """Make the output folder and name each photo's output in it; refuse what would lose a file."""
    from mrda.images import source_name

    if os.path.exists(output) and not os.path.isdir(output):
        raise ValueError(f"the output folder {output} is a file")
    inputs = {Path(source).resolve() for source in sources}
    claimed: dict[Path, Source] = {}
    for source in sources:
        target = output / f"{source_name(source)}_x{scale}.png"
        if target in claimed:
            raise ValueError(f"{claimed[target]} and {source} would both be written to {target}")
        if target.resolve() in inputs:
            raise ValueError(f"{target} is one of the photos to upscale, and would be overwritten")
        claimed[target] = source
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"the output folder {output} can't be made: {error.strerror}") from None
    return list(claimed)


def _folders(data: Sequence[Path]) -> "dict[str, list[Source]]":
    """The photos of each folder, by the folder's name."""
    from mrda.images import find_images

    folders: dict[str, list[Source]] = {}
    for folder in data:
        if not os.path.isdir(folder):
            raise ValueError(f"--data must be a folder of photos, not {folder}")
        name = folder.resolve().name
        if name in folders:
            raise ValueError(f"two --data folders are named {name}, and their scores would mix")
        folders[name] = find_images([folder])
    return folders


@contextmanager
def _progress(description: str, total: int, upscaler: "Upscaler | None" = None) -> Iterator[Progress]:
    """A bar on the terminal's stderr, with the time that remains; it steps with each RDAB of `upscaler`."""
    with progress_bar(Console(stderr=True)) as progress:
        task = progress.add_task(description, total=total)
        hooks = [
            block.register_forward_hook(lambda *_: progress.advance(task))
            for block in (upscaler.network.rdan.blocks if upscaler else ())
        ]
        try:
            yield progress
        finally:
            for hook in hooks:
                hook.remove()


def _report(progress: Progress, message: str) -> None:
    """One failure, one line on stderr, above the bar where there is one."""
    progress.console.print(f"mrda: {message}", markup=False, highlight=False, soft_wrap=True)


def _print_table(markdown: str) -> None:
    """A table for the eye on a terminal, as Markdown anywhere else."""
    console = Console()
    if console.is_terminal:
        console.print(Markdown(markdown))
    else:
        typer.echo(markdown, nl=False)
