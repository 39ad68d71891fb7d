# SPDX-License-Identifier: Apache-2.0
"""`mrda app`."""

import logging
import os
import signal
import tempfile
import threading
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mrda.cli.app import app
from mrda.cli.common import Device, DType, refuse, refusing
from mrda.cli.upscale import upscaler_options, without_pillows_limit

if TYPE_CHECKING:
    from mrda.app.work import Weights
    from mrda.upscale.upscaler import Upscaler

_log = logging.getLogger(__name__)


@app.command(
    "app",
    epilog="Example: mrda app -w runs/demo/student/weights.safetensors",
    short_help="Upscale photos on a local web page.",
)
@without_pillows_limit()
def serve(
    weights: Annotated[
        list[Path] | None,
        typer.Option(
            "-w",
            "--weights",
            metavar="WEIGHTS",
            help="Weights to offer before those of the package: .safetensors, the authors' .pth, or user/repository "
            "on the Hugging Face Hub; may be repeated.",
        ),
    ] = None,
    host: Annotated[
        str,
        typer.Option(help="Address to listen on; 0.0.0.0 makes the page reachable from the network.", metavar="HOST"),
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.", min=1, max=65535, metavar="N")] = 7860,
    dtype: DType = "auto",
    device: Device = None,
    max_pixels: Annotated[
        int, typer.Option(help="Refuse photos with more pixels than this.", min=1, metavar="N")
    ] = 25_000_000,
) -> None:
    """Serve a web page that upscales photos, compares before and after, and offers the result for download.

    Only this machine can open it, unless you change --host. Photos and results are deleted when the command ends.
    """
    from mrda.core.packages import require_package

    try:
        require_package("gradio", name="gradio", user="the web page", extra="app")
    except ModuleNotFoundError as error:
        refuse(str(error))
    with refusing():
        choices = _choices(weights or [], upscaler_options("auto", None, dtype, device))
    with tempfile.TemporaryDirectory(prefix="mrda-app-") as folder:
        # Gradio reads these when it is imported. It checks its own server, which must not go through a proxy.
        os.environ |= {"GRADIO_TEMP_DIR": folder, "GRADIO_ANALYTICS_ENABLED": "False", "no_proxy": "*"}
        from mrda.app.page import build_page, launch

        page = build_page(choices, max_pixels=max_pixels)
        try:
            address = launch(page, host=host, port=port, max_pixels=max_pixels)
        except OSError:  # gradio's own error, which gives no reason
            refuse(
                f"can't listen on --host {host} --port {port}: the port is taken, or the address is not one of this "
                "machine; choose others"
            )
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that the folder is deleted then, too
        _log.info("the page is at %s; press Ctrl-C to stop", address)
        try:
            threading.Event().wait()
        finally:
            page.close(verbose=False)


def _choices(weights: list[Path], options: dict[str, Any]) -> "dict[str, Weights]":
    """Load weights by the titles that the page shows: those that were given, then those of the package.

    A file's title is its name, or its whole path if two files have the same name.

    Raises:
        ValueError: some can't be loaded, or are not those of a student.
    """
    from mrda.app.probe import trained_on
    from mrda.app.work import AUTO_TITLE, Weights
    from mrda.upscale.auto import AutoUpscaler
    from mrda.upscale.choice import PURPOSES
    from mrda.upscale.strength import pair_of
    from mrda.upscale.upscaler import Upscaler
    from mrda.upscale.weights import current_name, find_weights

    given = [path for path in dict.fromkeys(weights) if current_name(str(path)) not in PURPOSES]
    names = [path.stem if os.path.isfile(path) else str(path) for path in given]
    choices = {
        str(path) if names.count(name) > 1 else name: Weights(
            Upscaler.from_pretrained(path, **options), trained_on(find_weights(path))
        )
        for name, path in zip(names, given, strict=True)
    }
    auto = AutoUpscaler(**options)
    choices[AUTO_TITLE] = Weights(auto, None)
    for name, purpose in PURPOSES.items():
        own, load = None, None
        if (pair := pair_of(name)) is not None:
            own = float(pair.index(name)) if purpose.strength is None else purpose.strength
            load = partial(_at_strength, name, options)
        choices[purpose.title] = Weights(auto.upscaler(name), trained_on(find_weights(name)), own, load)
    return choices


def _at_strength(name: str, options: dict[str, Any], strength: float) -> "Upscaler":
    from mrda.upscale.upscaler import Upscaler

    return Upscaler.from_pretrained(name, strength=strength, **options)
