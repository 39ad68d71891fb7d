"""The page itself, and the server that shows it to this machine."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
from PIL import Image

from mrda.app.work import LOOKED_AT, Enlarged, Weights, enlarge
from mrda.upscale.upscaler import is_out_of_memory

LARGEST_SCALE = 4
"""Of the results; with the limit of the photos' pixels it limits those of the results."""
FILE_OVERHEAD = 16 * 2**20
"""Bytes that a file may have beside its pixels."""
_FONT = ("system-ui", "sans-serif")  # of the machine: gradio's own gives headings letters of two fonts


def build_page(choices: Mapping[str, Weights], *, max_pixels: int) -> gr.Blocks:
    """Build the page, which upscales one photo at a time, whoever asks.

    Args:
        choices: weights by the names that the page shows; the first is chosen.
        max_pixels: of the largest photo.
    """
    first = next(iter(choices))
    tracker = gr.Progress()
    stops: dict[str | None, threading.Event] = {}  # of the photos being upscaled, by the open page

    def upscale(
        source: str | None, name: str, scale: float, request: gr.Request, progress: gr.Progress = tracker
    ) -> Iterator[tuple[Any, ...]]:
        if source is None:
            raise _refusal("choose a photo first")
        weights = choices[name]
        stop = stops[request.session_hash] = threading.Event()

        def tell(share: float) -> None:
            if stop.is_set():
                raise _StoppedError
            progress(share, desc="upscaling")

        try:
            progress(0, desc="reading known blurs")
            probe = weights.probe
            # When it goes on after the yield, gradio has a copy of its own.
            with tempfile.TemporaryDirectory() as folder:
                result = enlarge(
                    weights.upscaler,
                    Path(source),
                    Path(folder),
                    scale=scale,
                    max_pixels=max_pixels,
                    probe=probe,
                    progress=tell,
                )
                yield _shown(result, weights)
        except _StoppedError:
            raise _refusal("stopped") from None
        except ValueError as error:
            raise _refusal(str(error)) from None
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            raise _refusal("there is not enough memory for a photo of its size") from None
        finally:
            del stops[request.session_hash]

    def stop(request: gr.Request) -> None:
        if event := stops.get(request.session_hash):
            event.set()

    with gr.Blocks(title="MRDA", analytics_enabled=False, delete_cache=(3600, 24 * 3600)) as page:
        gr.Markdown(f"# MRDA\nUpscale a photo of up to {max_pixels:,} pixels, however it was degraded.")
        with gr.Row():
            with gr.Column(scale=1, min_width=280):
                photo = gr.File(label="Photo", type="filepath")
                name = gr.Dropdown(list(choices), value=first, label="Weights")
                scale = gr.Slider(
                    1, LARGEST_SCALE, value=choices[first].upscaler.scale, step=0.5, label="How much larger"
                )
                start_button = gr.Button("Upscale", variant="primary")
                stop_button = gr.Button("Stop")
            with gr.Column(scale=3):
                slider = gr.ImageSlider(
                    label="Before (bicubic) and after", format="png", interactive=False, buttons=["fullscreen"]
                )
                download = gr.DownloadButton(visible=False, variant="primary")
                said = gr.Markdown(visible=False)
                modulation = gr.Image(format="png", interactive=False, visible=False, buttons=[])
        results = [slider, download, said, modulation]
        start_button.click(
            upscale, [photo, name, scale], results, api_name="upscale", show_progress_on=slider, concurrency_limit=1
        )
        quietly: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden", "queue": False}
        stop_button.click(stop, **quietly)
        photo.change(_nothing, outputs=results, **quietly)
        name.change(lambda chosen: choices[chosen].upscaler.scale, name, scale, **quietly)
        page.unload(stop)
    return page


def launch(page: gr.Blocks, *, host: str, port: int, max_pixels: int) -> str:
    """Serve the page from threads of its own; nothing but what it is asked for leaves the machine.

    Returns:
        Its address.

    Raises:
        OSError: nothing can listen there.
    """
    _, address, _ = page.launch(
        server_name=f"[{host}]" if ":" in host else host,
        server_port=port,
        theme=gr.themes.Default(font=_FONT, font_mono=("monospace",)),
        max_file_size=8 * max_pixels + FILE_OVERHEAD,
        footer_links=[],
        run_history=False,
        enable_monitoring=False,
        share=False,
        ssr_mode=False,
        quiet=True,
        prevent_thread_lock=True,
    )
    return str(address)


def _refusal(sentence: str) -> gr.Error:
    return gr.Error(sentence, title="Not upscaled", duration=None, print_exception=False)


class _StoppedError(Exception):
    """Nobody wants the result any more."""


def _nothing() -> tuple[Any, ...]:
    """What the page shows where there is no result."""
    return gr.ImageSlider(None), gr.DownloadButton(visible=False), gr.Markdown(visible=False), gr.Image(visible=False)


def _shown(result: Enlarged, weights: Weights) -> tuple[Any, ...]:
    """What the page shows of a result, in the places of `_nothing`."""
    width, height = result.size
    return (
        gr.ImageSlider((result.before, result.after)),
        gr.DownloadButton(f"Download {result.file.name} ({width} x {height})", value=result.file, visible=True),
        gr.Markdown(_said(result, weights), visible=True),
        _modulation(result, weights.upscaler.scale),
    )


def _said(result: Enlarged, weights: Weights) -> str:
    """What the page says of a result, as Markdown."""
    lines = [f"- {notice}" for notice in result.notices]
    if result.after.size != result.size:
        lines.append(f"- shown reduced to {result.after.width} x {result.after.height}; the download is whole")
    if result.blur is None:
        lines.append("- no estimate of the blur: these weights do not tell blurs apart")
    else:
        lines.append(
            f"- **estimated blur: a Gaussian of about {result.blur:.1f} px** (standard deviation, in pixels of the "
            f"photo enlarged x{weights.upscaler.scale}), by what the network reads from the photo. Of drawn scenes "
            f"such an estimate is {weights.probe.error:.1f} px off on average, of photos more"
        )
    lines.append(f"- the weights were trained on {weights.trained_on}")
    return "\n".join(lines)


def _modulation(result: Enlarged, scale: int) -> gr.Image:
    """The map in gray, as large as that part of the enlarged photo."""
    if result.modulation is None:
        return gr.Image(visible=False)
    low, high = float(result.modulation.min()), float(result.modulation.max())
    levels = np.rint(np.interp(result.modulation, (low, high), (0, 255))).astype(np.uint8)
    height, width = levels.shape
    return gr.Image(
        Image.fromarray(levels).resize((scale * width, scale * height), Image.Resampling.BILINEAR),
        label=f"Modulation map of the centre, up to {LOOKED_AT} px: from {low:.2f} (black) to {high:.2f} (white)",
        visible=True,
    )
