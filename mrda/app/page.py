# SPDX-License-Identifier: Apache-2.0
"""The web page, and its server."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import gradio as gr
import numpy as np
from PIL import Image

from mrda.app.work import LOOKED_AT, Enlarged, Weights, enlarge
from mrda.core.faults import reason
from mrda.upscale.upscaler import is_out_of_memory

LARGEST_SCALE = 4
"""Largest enlargement; together with the limit of the photos' pixels it limits those of the results."""
FILE_OVERHEAD = 16 * 2**20
"""Bytes that a file may have besides its pixels, such as metadata."""
_FONT = ("system-ui", "sans-serif")  # fonts of the user's machine: gradio's own mixes two in headings

_PRIVATE: dict[str, Any] = {
    **dict.fromkeys(("run_history", "enable_monitoring", "share", "ssr_mode"), False),
    "footer_links": [],
}


def build_page(choices: Mapping[str, Weights], *, max_pixels: int) -> gr.Blocks:
    """Build the page, which upscales one photo at a time for all its users.

    Args:
        choices: weights by the names that the page shows; the first is the default.
        max_pixels: photos with more pixels are refused.
    """
    first = next(iter(choices))
    tracker = gr.Progress()
    stops: dict[str | None, threading.Event] = {}  # of the photos being upscaled, by session

    def upscale(
        source: str | None, name: str, scale: float, request: gr.Request, progress: gr.Progress = tracker
    ) -> Iterator[tuple[Any, ...]]:
        if source is None:
            raise _refusal("Choose a photo first.")
        weights = choices[name]
        stop = stops[request.session_hash] = threading.Event()
        try:
            progress(0, desc="Preparing the blur estimate")
            probe = weights.probe
            # Gradio has made its own copy of the result when this continues after the yield.
            with tempfile.TemporaryDirectory() as temporary:
                file, folder, shown = Path(source), Path(temporary), _PageProgress(progress, stop)
                result = enlarge(
                    weights.upscaler, file, folder, scale=scale, max_pixels=max_pixels, probe=probe, progress=shown
                )
                yield _shown(result, weights)
        except _StoppedError:
            raise _refusal("You stopped the upscaling.") from None
        except ValueError as error:
            raise _refusal(_sentence(str(error))) from None
        except OSError as error:  # of the folder for the result
            raise _refusal(_sentence(f"the server can't write the result: {reason(error)}")) from None
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            raise _refusal("There is not enough memory for a photo of this size.") from None
        finally:
            del stops[request.session_hash]

    def stop(request: gr.Request) -> None:
        if event := stops.get(request.session_hash):
            event.set()

    with gr.Blocks(title="MRDA", analytics_enabled=False, delete_cache=(3600, 24 * 3600)) as page:
        gr.Markdown(
            f"# MRDA\nUpscale a photo of up to {max_pixels:,} pixels. The network adapts to how the photo was degraded."
        )
        with gr.Row():
            with gr.Column(scale=1, min_width=280):
                photo = gr.File(label="Photo", type="filepath")
                name = gr.Dropdown(list(choices), value=first, label="Weights")
                scale = gr.Slider(1, LARGEST_SCALE, value=choices[first].upscaler.scale, step=0.5, label="Scale")
                start_button = gr.Button("Upscale", variant="primary")
                stop_button = gr.Button("Stop")
            with gr.Column(scale=3):
                slider = gr.ImageSlider(
                    label="Before (bicubic interpolation) and after",
                    format="png",
                    interactive=False,
                    buttons=["fullscreen"],
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
    """Serve the page from background threads; no data is sent anywhere but to the browsers that open it.

    Returns:
        The address of the page.

    Raises:
        OSError: the host or port can't be listened on.
    """
    _, address, _ = page.launch(
        server_name=f"[{host}]" if ":" in host else host,
        server_port=port,
        theme=gr.themes.Default(font=_FONT, font_mono=("monospace",)),
        max_file_size=8 * max_pixels + FILE_OVERHEAD,
        quiet=True,
        prevent_thread_lock=True,
        **_PRIVATE,
    )
    return str(address)


def _refusal(sentence: str) -> gr.Error:
    return gr.Error(sentence, title="Not upscaled", duration=None, print_exception=False)


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."


class _StoppedError(Exception):
    """The user has stopped the upscaling or closed the page."""


class _PageProgress:
    """Shows the upscaling of a photo on the page, and raises `_StoppedError` once `stop` is set."""

    def __init__(self, show: gr.Progress, stop: threading.Event) -> None:
        self.show, self.stop, self.done = show, stop, 0.0

    @contextmanager
    def task(self, description: str, total: float | None) -> Iterator[Self]:
        """Start from zero."""
        self.done = 0.0
        yield self

    def advance(self, amount: float = 1, *, note: str = "") -> None:
        """Move the bar on by a share of the photo."""
        if self.stop.is_set():
            raise _StoppedError
        self.done += amount
        self.show(min(1.0, self.done), desc="Upscaling")


def _nothing() -> tuple[Any, ...]:
    """Return the page's empty result."""
    return gr.ImageSlider(None), gr.DownloadButton(visible=False), gr.Markdown(visible=False), gr.Image(visible=False)


def _shown(result: Enlarged, weights: Weights) -> tuple[Any, ...]:
    """Return the page's components for a result, in the order of `_nothing`."""
    width, height = result.size
    return (
        gr.ImageSlider((result.before, result.after)),
        gr.DownloadButton(f"Download {result.file.name} ({width} x {height})", value=result.file, visible=True),
        gr.Markdown(_said(result, weights), visible=True),
        _modulation(result, weights.upscaler.scale),
    )


def _said(result: Enlarged, weights: Weights) -> str:
    """Return the notes below a result, as Markdown."""
    lines = [_sentence(notice) for notice in result.notices]
    if result.after.size != result.size:
        lines.append(
            f"Shown at {result.after.width} x {result.after.height} pixels; the download has the full resolution."
        )
    if result.blur is not None:
        lines.append(
            f"**Estimated blur: about {result.blur:.1f} px** (standard deviation of a Gaussian, in pixels of the photo "
            f"enlarged x{weights.upscaler.scale}). On synthetic test images this estimate is off by "
            f"{weights.probe.error:.1f} px on average; on photos it is less accurate."
        )
    if weights.trained_on is not None:
        lines.append(f"These weights were trained on {weights.trained_on}.")
    return "\n".join(f"- {line}" for line in lines)


def _modulation(result: Enlarged, scale: int) -> gr.Image:
    """Draw the map in gray, at the size of that part of the enlarged photo."""
    if result.modulation is None:
        return gr.Image(visible=False)
    low, high = float(result.modulation.min()), float(result.modulation.max())
    levels = np.rint(np.interp(result.modulation, (low, high), (0, 255))).astype(np.uint8)
    height, width = levels.shape
    return gr.Image(
        Image.fromarray(levels).resize((scale * width, scale * height), Image.Resampling.BILINEAR),
        label=f"Modulation map of the centre (at most {LOOKED_AT} px): {low:.2f} is black, {high:.2f} is white",
        visible=True,
    )
