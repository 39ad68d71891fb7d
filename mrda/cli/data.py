# SPDX-License-Identifier: Apache-2.0
"""`mrda data prepare`, `mrda data download`, `mrda data list`."""

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mrda.cli.app import add_group
from mrda.cli.common import OutputFolder, print_table, refuse
from mrda.core.faults import reason
from mrda.core.progress import TerminalProgress

if TYPE_CHECKING:
    from mrda.data.datasets import Archive, Dataset

_log = logging.getLogger(__name__)

commands = add_group(
    "data",
    help="Download photo sets, and prepare a cache if there are too many photos for the memory.",
    short_help="Download photos and prepare them for training.",
)


@commands.command(
    epilog="Example: mrda data prepare photos/DIV2K_train_HR photos/Flickr2K -o df2k --min-size 256",
    short_help="Make a patch cache from photos.",
)
def prepare(
    sources: Annotated[list[str], typer.Argument(help="Photos, or folders of photos.", metavar="SOURCE")],
    cache: Annotated[Path, typer.Option("-o", "--output", help="Folder to create for the cache.", metavar="DIR")],
    size: Annotated[
        int, typer.Option("--size", help="Side of the tiles in pixels; smaller photos are kept whole.", metavar="N")
    ] = 480,
    overlap: Annotated[
        int | None,
        typer.Option("--overlap", help="Pixels that neighbouring tiles share (default: half of --size).", metavar="N"),
    ] = None,
    min_size: Annotated[
        int, typer.Option("--min-size", help="Skip photos with a side of fewer pixels.", metavar="N")
    ] = 1,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing cache.")] = False,
) -> None:
    """Check photos, drop duplicates, and cut the rest into overlapping tiles that training reads from the disk.

    Then train with --set data.sources=[DIR]. The cache is written completely or not at all. Files that can't be read
    are listed and skipped; the exit code is then 1.
    """
    from mrda.data.prepare import prepare as make_cache

    progress = TerminalProgress()
    try:
        result = make_cache(
            sources, cache, size=size, overlap=overlap, min_size=min_size, overwrite=overwrite, progress=progress
        )
    except ValueError as error:
        refuse(str(error))
    except OSError as error:
        _log.error("cannot write %s: %s; nothing was kept of it", cache, reason(error))
        raise typer.Exit(1) from None
    for failure in result.failures:
        _log.warning(failure)
    for why in result.left_out:
        _log.warning("left out: %s", why)
    counts = result.counts
    typer.echo(f"{cache}: {counts.photos:,} photos in {counts.tiles:,} tiles, {_bytes(counts.bytes)}")
    raise typer.Exit(1 if result.failures else 0)


@commands.command(
    epilog="Example: mrda data download DIV2K_train_HR Flickr2K -o photos",
    short_help="Download photo sets.",
)
def download(
    names: Annotated[list[str], typer.Argument(help="Names of sets, see mrda data list.", metavar="NAME")],
    output: OutputFolder,
    keep_archives: Annotated[
        bool, typer.Option("--keep-archives", help="Keep the archives after unpacking them.")
    ] = False,
) -> None:
    """Download photo sets into DIR/NAME and verify their published checksums.

    An interrupted download is resumed the next time if the file has a published checksum. The photos belong to their
    owners: their terms are on the pages that mrda data list shows.
    """
    from mrda.data.download import download as get
    from mrda.data.fetch import DownloadError

    wanted = _datasets(names)
    done = []
    progress = TerminalProgress(in_bytes=True)
    for number, dataset in enumerate(wanted, start=1):
        later = wanted if keep_archives else [other for other in wanted[number:] if not (output / other.name).exists()]
        keep = {archive.url for other in later for archive in other.archives}
        try:
            folder = get(dataset, output, progress=progress, keep=keep)
        except DownloadError as error:
            _log.error(str(error))
        except OSError as error:
            _log.error("cannot write %s: %s", error.filename or output, reason(error))
        else:
            done.append(f"{dataset.name}: {folder}")
    for line in done:
        typer.echo(line)
    raise typer.Exit(1 if len(done) < len(wanted) else 0)


@commands.command("list", short_help="List the photo sets that can be downloaded.")
def list_sets() -> None:
    """List the photo sets that `mrda data download` knows, and where they come from."""
    from mrda.data.datasets import DATASETS

    lines = ["| name | for | photos | download | checked by | from | terms |", "|---|---|---:|---:|---|---|---|"]
    for dataset in DATASETS.values():
        about = f"| {dataset.name} | {dataset.use} | {dataset.pictures:,} |"
        if not dataset.archives:
            lines.append(f"{about} | | on request from its owners | {dataset.home} |")
        for archive in dataset.archives:
            size = "" if archive.size is None else _bytes(archive.size)
            lines.append(f"{about} {size} | {_checks(archive)} | {archive.url} | {dataset.home} |")
            about = "| or | | |"
    print_table("\n".join(lines) + "\n")


def _datasets(names: list[str]) -> "list[Dataset]":
    """Look up sets by name, ignoring case and repetitions."""
    from mrda.data.datasets import DATASETS

    known = {name.lower(): dataset for name, dataset in DATASETS.items()}
    wanted = {}
    for name in names:
        dataset = known.get(name.lower())
        if dataset is None:
            refuse(f"there is no photo set {name!r}; choose from {', '.join(DATASETS)}")
        if not dataset.archives:
            refuse(f"{dataset.name} must be requested from its owners, see {dataset.home}")
        wanted[dataset.name] = dataset
    return list(wanted.values())


def _checks(archive: "Archive") -> str:
    kinds = [kind for kind, value in (("SHA-256", archive.sha256), ("MD5", archive.md5)) if value is not None]
    return ", ".join(kinds) or "no published checksum"


def _bytes(count: int) -> str:
    """Format a number of bytes in decimal units, such as 3.5 GB."""
    value = float(count)
    for unit in ("B", "kB", "MB"):
        if value < 1000:
            return f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:,.1f} GB"
