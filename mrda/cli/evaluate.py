# SPDX-License-Identifier: Apache-2.0
"""`mrda evaluate`."""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer
from rich.console import Console

from mrda.cli.app import app
from mrda.cli.common import (
    NO_WEIGHTS,
    Weights,
    check_folder,
    check_output_file,
    chosen_weights,
    print_table,
    refuse,
    refusing,
    save_outputs,
)
from mrda.cli.evaluate_jobs import Measurement, run_jobs

if TYPE_CHECKING:
    from torch import Tensor

    from mrda.evaluation.paired import Pair
    from mrda.evaluation.samples import Condition, Method
    from mrda.evaluation.tables import AnyRecord
    from mrda.networks import BlindNetwork
    from mrda.photo.images import Source

_METHODS = ("mrda_s", "mrda_t", "mrda_t3", "mln", "dasr", "kdsr_s", "bicubic")


@app.command(
    epilog="Example: mrda evaluate -w weights.safetensors --data Set5 Set14 --json scores.json",
    short_help="Measure PSNR-Y and SSIM-Y, beside the paper's numbers.",
)
def evaluate(
    data: Annotated[
        list[Path],
        typer.Option("--data", help="Folder of HR photos; several may follow: --data A B.", metavar="DIR..."),
    ],
    more: Annotated[list[Path] | None, typer.Argument(hidden=True, metavar="DIR")] = None,
    weights: Weights = None,
    mln: Annotated[
        Path | None,
        typer.Option("--mln", help="Weights of the MLN that the teacher was trained with.", metavar="FILE"),
    ] = None,
    protocol: Annotated[
        str,
        typer.Option(
            "--protocol",
            metavar="NAME",
            help="gaussian8, mrda9, dasr9, dasr-iso, wide or bicubic degrade HR photos; real and div2krk take folders "
            "with LR and HR; unpaired takes folders of LR photos.",
        ),
    ] = "gaussian8",
    scale: Annotated[
        int | None,
        typer.Option("--scale", help="Scale: 2, 3 or 4 (default: that of the weights, or 4).", metavar="N"),
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(
            "--method",
            metavar="NAME",
            help="bicubic, to measure it without weights; with weights: mrda_s, mrda_t, mrda_t3, mln, dasr or kdsr_s "
            "(default: found from the weights).",
        ),
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option("--steps", help="Adaptation steps per photo (default: as in the MLN's training).", metavar="N"),
    ] = None,
    peers: Annotated[
        list[Path] | None,
        typer.Option("--peers", help="Also measure DASR, KDSR_S, or SR networks of Spandrel.", metavar="FILE..."),
    ] = None,
    idr: Annotated[
        list[str] | None,
        typer.Option(
            "--idr",
            metavar="NAME",
            help="Also measure the network with another IDR than each photo's own: mean, over the protocol's "
            "conditions, or other, of another condition; may be repeated (default: own).",
        ),
    ] = None,
    noise: Annotated[
        list[float] | None,
        typer.Option(
            "--noise", help="Noise level of mrda9, dasr9 or wide; may be repeated (default: all).", metavar="LEVEL"
        ),
    ] = None,
    downsample: Annotated[
        str | None,
        typer.Option("--downsample", help="bicubic (default), or sfold: every SCALE-th pixel.", metavar="NAME"),
    ] = None,
    border: Annotated[
        str,
        typer.Option("--border", help="Border of bicubic resizing: clamp, or mirror as in MATLAB.", metavar="NAME"),
    ] = "clamp",
    variant: Annotated[
        str | None,
        typer.Option(
            "--variant", help="Luma: released (default), or matlab (default of real and div2krk).", metavar="NAME"
        ),
    ] = None,
    lpips: Annotated[
        bool, typer.Option("--lpips", help="Also measure LPIPS (with --protocol real or div2krk).")
    ] = False,
    vgg16: Annotated[
        Path | None,
        typer.Option("--vgg16", help="LPIPS's vgg16-397923af.pth (default: from torch's cache).", metavar="FILE"),
    ] = None,
    lpips_linear: Annotated[
        Path | None,
        typer.Option("--lpips-linear", help="vgg.pth of LPIPS 0.1 (default: from torch's cache).", metavar="FILE"),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="Folder for the pictures (with --protocol unpaired).", metavar="DIR"),
    ] = None,
    niqe: Annotated[
        Path | None,
        typer.Option("--niqe", help="Pristine model for NIQE, .npz or .mat (with unpaired).", metavar="FILE"),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Seed of the noise.", metavar="SEED")] = 0,
    limit: Annotated[
        int | None, typer.Option("--limit", help="Use at most N photos of each folder.", metavar="N")
    ] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Also write the mean scores to this file.", metavar="FILE")
    ] = None,
    csv_file: Annotated[
        Path | None, typer.Option("--csv", help="Also write the scores of every photo to this file.", metavar="FILE")
    ] = None,
    markdown_file: Annotated[
        Path | None, typer.Option("--markdown", help="Also write the table to this file.", metavar="FILE")
    ] = None,
) -> None:
    """Evaluate networks on photos degraded by a fixed protocol, beside bicubic interpolation.

    With --protocol real nothing is degraded: each folder holds LR and HR photos of the same file names. So it is with
    div2krk, whose folder has gt and lr_x2 or lr_x4.

    With --protocol unpaired there is no HR: the results are saved as DIR/DATA/METHOD/NAME.png, to look at and for NIQE.
    """
    folders, peer_files = _split(data, peers or [], more or [])
    _check_method(method, weights, mln, steps, peer_files)
    if weights is not None:
        chosen_weights(weights)
    if limit is not None and limit < 1:
        refuse(f"--limit is {limit}, but must be at least 1")
    files = {"--json": json_file, "--csv": csv_file, "--markdown": markdown_file}
    _check_outputs(files)
    from mrda.options.classic import BORDERS, DOWNSAMPLES
    from mrda.options.evaluation import DIV2KRK, IDRS, PROTOCOLS, REAL, UNPAIRED, VARIANTS

    real = protocol in (REAL, DIV2KRK)
    _check_goes_with(REAL, real, {"--lpips": lpips or None})
    _check_goes_with("--lpips", lpips, {"--vgg16": vgg16, "--lpips-linear": lpips_linear})
    _check_goes_with(UNPAIRED, protocol == UNPAIRED, {"--output": output, "--niqe": niqe})
    with refusing():
        _check_choices(
            {
                "--protocol": (protocol, (*PROTOCOLS, REAL, DIV2KRK, UNPAIRED)),
                "--downsample": (downsample, DOWNSAMPLES),
                "--border": (border, BORDERS),
                "--variant": (variant, VARIANTS),
            }
        )
        for each in idr or []:
            _check_choices({"--idr": (each, IDRS)})
        _named(folders)  # before torch is imported
    from mrda.core.files import write_text
    from mrda.evaluation.tables import summarise, write_json, write_scores
    from mrda.evaluation.tables_markdown import markdown

    with refusing():
        loaded = _load(weights, mln, steps, method, peer_files, scale)
        methods, scale = loaded.methods, loaded.scale
        if real or protocol == UNPAIRED:
            _check_found_photos(protocol, loaded, weights, noise, downsample, idr)
    if protocol == UNPAIRED:
        done = _unpaired(
            loaded, weights, folders, output, niqe, border=border, variant=variant, limit=limit, files=files
        )
        raise typer.Exit(0 if done else 1)
    photos: Mapping[str, Sequence[Source | Pair]]
    with refusing():
        if real:
            degradations, photos = None, _pairs(folders, scale)
        else:
            degradations, photos = _conditions(protocol, scale, noise), _sources(folders)
            _check_kernels(loaded.blur_size, weights, degradations)
        perceptual = _lpips(vgg16, lpips_linear) if lpips else None
        options = _Options(downsample or "bicubic", border, variant or ("matlab" if real else "released"), seed)
        methods = methods | _replaced_idrs(idr or [], loaded, degradations or [], options)
    per_photo = (1 + len(methods)) * (1 if degradations is None else len(degradations))
    jobs = [
        _job(folder, methods, photo, name, degradations, scale, options, perceptual, protocol)
        for folder, found in photos.items()
        for photo, name in _with_names(found)[:limit]
    ]
    results = run_jobs(jobs, per_photo)
    datasets = {folder: summarise(measured) for folder, measured in results.records.items()}
    counts = {folder: (results.done.get(folder, 0), len(found)) for folder, found in photos.items()}
    console = Console()
    width = console.width if console.is_terminal else None
    print_table(markdown(datasets, protocol, scale, photos=counts, width=width))
    saved = save_outputs(
        {
            "--json": (json_file, lambda path: write_json(path, {"datasets": datasets})),
            "--csv": (csv_file, lambda path: write_scores(path, results.records)),
            "--markdown": (
                markdown_file,
                lambda path: write_text(path, markdown(datasets, protocol, scale, photos=counts)),
            ),
        }
    )
    raise typer.Exit(0 if saved and sum(results.done.values()) == len(jobs) else 1)


class _Options(NamedTuple):
    downsample: str
    border: str
    variant: str
    seed: int


class _Loaded(NamedTuple):
    """The methods to measure besides bicubic interpolation."""

    methods: "dict[str, Method]"
    scale: int
    blur_size: int | None
    """Size of the blur kernels, if one of the methods needs to be given the kernel."""
    needs_hr: bool
    """True if one of the methods adapts to LR and HR."""
    name: str = ""
    """Name of the method of the weights."""
    network: "BlindNetwork | None" = None
    """Their network, if it needs LR alone."""


def _replaced_idrs(
    idrs: Sequence[str], loaded: _Loaded, degradations: "Sequence[Condition]", options: _Options
) -> "dict[str, Method]":
    """Return the network of the weights as methods with other IDRs than each photo's own."""
    from mrda.evaluation.methods import IDR_LABEL, replaced_idr_method

    if idrs and loaded.network is None:
        raise ValueError("--idr requires -w with a network that reads the degradation from LR, such as an MRDAStudent")
    make = {"seed": options.seed, "downsample": options.downsample, "border": options.border}
    return {
        f"{loaded.name}{IDR_LABEL}{idr}": replaced_idr_method(loaded.network, idr, degradations, loaded.scale, **make)
        for idr in dict.fromkeys(idrs)
        if idr != "own" and loaded.network is not None
    }


def _job(
    folder: str,
    methods: "dict[str, Method]",
    photo: "Source | Pair",
    name: str,
    degradations: "list[Condition] | None",
    scale: int,
    options: _Options,
    perceptual: "Callable[[Tensor, Tensor], Tensor] | None",
    protocol: str,
) -> "Measurement[AnyRecord]":
    from mrda.evaluation.paired import Pair, evaluate_pairs
    from mrda.evaluation.protocols import evaluate as evaluate_photos

    def run() -> "Iterator[AnyRecord]":
        if isinstance(photo, Pair):
            return evaluate_pairs(
                methods,
                [photo],
                scale,
                border=options.border,
                variant=options.variant,
                lpips=perceptual,
                protocol=protocol,
            )
        assert degradations is not None
        return evaluate_photos(methods, [photo], degradations, scale, names={photo: name}, **options._asdict())

    return Measurement(folder, photo[1:] if isinstance(photo, Pair) else [photo], run)


def _with_names(found: "Sequence[Source | Pair]") -> "list[tuple[Source | Pair, str]]":
    """Return photos with their names in the tables."""
    from mrda.evaluation.paired import Pair
    from mrda.photo.names import distinct_names

    photos = [photo for photo in found if not isinstance(photo, Pair)]
    names = distinct_names(photos) if photos else [photo.name for photo in found if isinstance(photo, Pair)]
    return list(zip(found, names, strict=True))


def _unpaired(
    loaded: _Loaded,
    weights: Path | None,
    folders: Sequence[Path],
    output: Path | None,
    niqe: Path | None,
    *,
    border: str,
    variant: str | None,
    limit: int | None,
    files: Mapping[str, Path | None],
) -> bool:
    from mrda.cli.evaluate_unpaired import evaluate_unpaired_photos

    with refusing():
        if output is None:
            raise ValueError("--protocol unpaired requires -o DIR, a folder for the pictures")
        if variant is not None:
            raise ValueError("--variant can't be used with --protocol unpaired, which does not measure PSNR")
        if loaded.needs_hr:
            raise ValueError(f"{weights} must adapt to HR, which --protocol unpaired does not have")
        photos = _sources(folders)
    return evaluate_unpaired_photos(
        loaded.methods, photos, loaded.scale, output=output, niqe=niqe, border=border, limit=limit, files=files
    )


def _lpips(vgg16: Path | None, linear: Path | None) -> "Callable[[Tensor, Tensor], Tensor]":
    from mrda.evaluation.lpips import LPIPS
    from mrda.upscale.upscaler import default_device

    device = default_device()
    metric = LPIPS(vgg16, linear).to(device)
    return lambda sr, hr: metric(sr.to(device), hr.to(device))


def _split(data: Sequence[Path], peers: Sequence[Path], more: Sequence[Path]) -> tuple[list[Path], list[Path]]:
    """Return folders and peers; values after the first one of either option arrive in `more`."""
    files = [path for path in more if peers and not os.path.isdir(path)]
    return [*data, *(path for path in more if path not in files)], [*peers, *files]


def _check_method(
    method: str | None, weights: Path | None, mln: Path | None, steps: int | None, peers: Sequence[Path]
) -> None:
    if method not in (None, *_METHODS):
        refuse(f"--method is {method!r}, but must be one of {', '.join(_METHODS)}")
    if method == "bicubic" and weights is not None:
        refuse("--method bicubic uses no weights: leave out -w")
    if weights is not None:
        return
    if method not in (None, "bicubic") or (method is None and not peers):
        refuse(NO_WEIGHTS)
    for option, value in (("--mln", mln), ("--steps", steps)):
        if value is not None:
            refuse(f"{option} is {value}, but is only used with weights: give some with -w")


def _check_outputs(files: dict[str, Path | None]) -> None:
    taken: dict[Path, str] = {}
    for option, path in files.items():
        check_output_file(option, path)
        if path is None:
            continue
        other = taken.setdefault(path.resolve(), option)
        if other != option:
            refuse(f"{option} and {other} are the same file, {path}")


def _load(
    weights: Path | None,
    mln: Path | None,
    steps: int | None,
    method: str | None,
    peer_files: Sequence[Path],
    scale: int | None,
) -> _Loaded:
    from mrda.evaluation.methods_loading import load_method
    from mrda.evaluation.peers import load_peers
    from mrda.upscale.upscaler import default_device

    device = default_device()
    methods: dict[str, Method] = {}
    blur_size, needs_hr, name, network = None, False, "", None
    if weights is not None:
        loaded = load_method(weights, mln=mln, steps=steps, device=device)
        if method not in (None, loaded.name):
            raise ValueError(f"--method is {method}, but {weights} holds the network of {loaded.name}")
        if scale not in (None, loaded.scale):
            raise ValueError(f"--scale is {scale}, but {weights} upscales by {loaded.scale}")
        methods[loaded.name], scale = loaded.method, loaded.scale
        blur_size, needs_hr, name, network = loaded.blur_size, loaded.needs_hr, loaded.name, loaded.network
    for peer in load_peers(peer_files, scale=scale, taken=_METHODS, device=device):
        methods[peer.name], scale = peer.method, peer.scale
    return _Loaded(methods, 4 if scale is None else scale, blur_size, needs_hr, name, network)


def _conditions(protocol: str, scale: int, noise: Sequence[float] | None) -> "list[Condition]":
    from mrda.evaluation.protocols import conditions

    return conditions(protocol, scale, noise_levels=noise or None)


def _check_choices(options: Mapping[str, tuple[str | None, Sequence[str]]]) -> None:
    """Raise ValueError for an option, given with its value and its choices, that is none of them."""
    for option, (value, choices) in options.items():
        if value is not None and value not in choices:
            named = " or ".join(choices) if len(choices) == 2 else f"one of {', '.join(choices)}"
            raise ValueError(f"{option} is {value!r}, but must be {named}")


def _check_goes_with(what: str, is_so: bool, options: Mapping[str, object]) -> None:
    """Refuse options that require another option or a certain protocol."""
    other = what if what.startswith("--") else f"--protocol {what}"
    for option, value in options.items():
        if value is not None and not is_so:
            refuse(f"{option} can only be used with {other}")


def _check_found_photos(
    protocol: str,
    loaded: _Loaded,
    weights: Path | None,
    noise: Sequence[float] | None,
    downsample: str | None,
    idr: Sequence[str] | None,
) -> None:
    """Refuse what protocols without degradation can't use: real photos have no known kernel, noise or downsampling."""
    if loaded.blur_size is not None:
        raise ValueError(
            f"{weights} requires the blur kernel, which is unknown for the photos of --protocol {protocol}"
        )
    for option, value in (("--noise", noise), ("--downsample", downsample), ("--idr", idr)):
        if value:
            raise ValueError(f"{option} can't be used with --protocol {protocol}, which does not degrade the photos")


def _check_kernels(blur_size: int | None, weights: Path | None, degradations: "Iterable[Condition]") -> None:
    """Check that all kernels have the size that an oracle needs; without blur it is given a delta of that size."""
    for condition in degradations:
        size = blur_size if condition.kernel is None else condition.kernel.shape[-1]
        if blur_size not in (None, size):
            raise ValueError(
                f"{weights} requires blur kernels of {blur_size}x{blur_size}, "
                f"but those of the protocol are {size}x{size}"
            )


def _sources(data: Sequence[Path]) -> "dict[str, Sequence[Source]]":
    """List the photos of each folder, by the folder's name."""
    from mrda.photo.images import find_images

    return {name: find_images([folder]) for name, folder in _named(data).items()}


def _pairs(data: Sequence[Path], scale: int) -> "dict[str, Sequence[Pair]]":
    """List the LR and HR photos of each folder, by the folder's name."""
    from mrda.evaluation.paired import find_pairs

    return {name: find_pairs(folder, scale) for name, folder in _named(data).items()}


def _named(data: Sequence[Path]) -> dict[str, Path]:
    folders: dict[str, Path] = {}
    for folder in data:
        check_folder(folder)
        name = folder.resolve().name
        if name in folders:
            raise ValueError(f"two --data folders are named {name}: rename one, so that their scores can be told apart")
        folders[name] = folder
    return folders
