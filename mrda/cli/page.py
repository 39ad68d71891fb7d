"""`mrda app`."""

import os
import signal
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from mrda.cli.app import app
from mrda.cli.common import refuse, refusing
from mrda.cli.upscale import load_upscaler, without_pillows_limit

if TYPE_CHECKING:
    from mrda.app.work import Weights


@app.command(
    "app",
    epilog="Example: mrda app -w runs/demo/student/weights.safetensors",
    short_help="Upscale photos on a web page of this machine.",
)
@without_pillows_limit()
def serve(
    weights: Annotated[
        list[Path] | None,
        typer.Option(
            "-w",
            "--weights",
            help="Weights to choose from, beside those of the package: .safetensors, the authors' .pth, or "
            "user/repository on the Hugging Face Hub; may be repeated.",
        ),
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen at; 0.0.0.0 lets the network in.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen at.", min=1, max=65535)] = 7860,
    dtype: Annotated[Literal["auto", "fp32", "bf16", "fp16"], typer.Option(help="Precision of the network.")] = "auto",
    device: Annotated[str | None, typer.Option(help="Such as cpu or cuda:1; a GPU where there is one.")] = None,
    max_pixels: Annotated[int, typer.Option(help="Pixels of the largest photo.", min=1)] = 25_000_000,
) -> None:
    """Serve a web page that upscales photos: before and after, the blur as it is estimated, the whole result to keep.

    Only this machine can open it, unless --host says otherwise. Photos and results are deleted when it ends.
    """
    from mrda.core.packages import require_package
    from mrda.upscale.weights import BUNDLED

    every = list(dict.fromkeys([*(weights or ()), *map(Path, BUNDLED)]))
    try:
        require_package("gradio", name="gradio", user="the web page", extra="app")
    except ModuleNotFoundError as error:
        refuse(str(error))
    with refusing():
        choices = _choices(every, dtype, device)
    with tempfile.TemporaryDirectory(prefix="mrda-app-") as folder:
        # Before gradio's import, which reads them. It asks itself whether it is there, through a proxy if one is named.
        os.environ |= {"GRADIO_TEMP_DIR": folder, "GRADIO_ANALYTICS_ENABLED": "False", "no_proxy": "*"}
        from mrda.app.page import build_page, launch

        page = build_page(choices, max_pixels=max_pixels)
        try:
            address = launch(page, host=host, port=port, max_pixels=max_pixels)
        except OSError:  # gradio's own, which says nothing else
            refuse(f"--host {host} --port {port} can't be listened at: it is taken or not of this machine, give others")
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that the folder goes then, too
        typer.echo(f"mrda: the page is at {address} until Ctrl-C", err=True)
        try:
            threading.Event().wait()
        finally:
            page.close(verbose=False)


def _choices(weights: list[Path], dtype: str, device: str | None) -> "dict[str, Weights]":
    """Weights by what the page calls them: a file's name, or its whole path where two have the same.

    Raises:
        ValueError: one can't be loaded, or does not upscale.
    """
    from mrda.app.probe import trained_on
    from mrda.app.work import Weights
    from mrda.upscale.weights import find_weights

    names = [path.stem if os.path.isfile(path) else str(path) for path in weights]
    return {
        str(path) if names.count(name) > 1 else name: Weights(
            load_upscaler(path, "auto", None, dtype, device), trained_on(find_weights(path))
        )
        for name, path in zip(names, weights, strict=True)
    }
