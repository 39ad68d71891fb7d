# SPDX-License-Identifier: Apache-2.0
"""The web page, and its server."""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import gradio as gr
import numpy as np
from PIL import Image

from mrda.app import stage
from mrda.app.work import LOOKED_AT, Enlarged, Seen, Weights, enlarge, look, preview
from mrda.core.durations import in_words
from mrda.core.faults import reason
from mrda.upscale.upscaler import is_out_of_memory

LARGEST_SCALE = 4
"""Largest enlargement; together with the limit of the photos' pixels it limits those of the results."""
FILE_OVERHEAD = 16 * 2**20
"""Bytes that a file may have besides its pixels, such as metadata."""
_FONT = ("system-ui", "sans-serif")  # fonts of the user's machine: gradio's own mixes two in headings

_TO_THE_STAGE = "() => document.getElementById('stage').scrollIntoView({block: 'nearest', behavior: 'smooth'})"

_PRIVATE: dict[str, Any] = {
    **dict.fromkeys(("run_history", "enable_monitoring", "share", "ssr_mode"), False),
    "footer_links": [],
}
_UNCOMPRESSED: dict[str, Any] = {"format": "PNG", "compress_level": 1}  # for pictures that go through no network


def build_page(choices: Mapping[str, Weights], *, max_pixels: int) -> gr.Blocks:
    """Build the page, which upscales one photo at a time for all its users.

    Args:
        choices: weights by the titles that the page shows, those of the package by the title of their purpose; the
            first is the default.
        max_pixels: photos with more pixels are refused.
    """
    first = next(iter(choices))
    tracker = gr.Progress()
    runs: dict[str | None, _Run] = {}  # by session, while they last

    def show(source: str | None, request: gr.Request) -> tuple[Any, ...]:
        """Show a photo as soon as it is there, in place of all that stood there before."""
        if run := runs.get(request.session_hash):
            run.replaced = True
            run.stop.set()
        if source is None:
            return _results(stage.hint("Your photo and the result will appear here."))
        try:
            seen = preview(Path(source), max_pixels)
        except ValueError as error:
            return _results(stage.error(_sentence(str(error))))
        width, height = seen.size
        return _results(stage.photo(seen.picture), facts=f"{width:,} x {height:,} pixels; {seen.choice.reason}.")

    def upscale(
        source: str | None,
        title: str,
        scale: float,
        strength: float,
        request: gr.Request,
        progress: gr.Progress = tracker,
    ) -> Iterator[tuple[Any, ...]]:
        if source is None:
            yield *_results(stage.error("Choose a photo first.")), *_buttons(idle=True)
            return
        run = runs[request.session_hash] = _Run(progress)
        yield *(gr.skip() for _ in _results(stage.hint(""))), *_buttons(idle=False)
        with tempfile.TemporaryDirectory() as temporary:
            try:
                run.phase("Reading the photo")
                result = enlarge(
                    choices[title].at(strength).upscaler,
                    Path(source),
                    Path(temporary),
                    scale=scale,
                    max_pixels=max_pixels,
                    progress=run,
                )
                run.phase("Preparing the comparison")
                shown = _shown(result, (title, strength), Path(temporary), time.monotonic() - run.start)
            except _StoppedError:
                shown = _results(stage.hint("Stopped. Press Enlarge to start again."))
            except ValueError as error:
                shown = _results(stage.error(_sentence(str(error))))
            except OSError as error:  # of the folder for the result
                shown = _results(stage.error(_sentence(f"the server can't write the result: {reason(error)}")))
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
                shown = _results(stage.error("There is not enough memory for a photo of this size."))
            finally:
                del runs[request.session_hash]
            # The page makes its own copies of the files before this continues.
            yield *((gr.skip() for _ in shown) if run.replaced else shown), *_buttons(idle=True)

    def stop(request: gr.Request) -> None:
        if run := runs.get(request.session_hash):
            run.stop.set()

    def stop_and_say(request: gr.Request) -> gr.Button:
        stop(request)
        return gr.Button("Stopping ...", interactive=False)

    def explain(source: str | None, used: tuple[str, float | None] | None) -> str:
        if source is None or used is None:
            return ""
        title, strength = used
        weights = choices[title].at(strength)
        try:
            return _explained(look(weights, Path(source), max_pixels), weights)
        except ValueError as error:
            return _sentence(str(error))

    with gr.Blocks(title="Enlarge photos", analytics_enabled=False, delete_cache=(3600, 24 * 3600)) as page:
        gr.Markdown(
            "# Make photos larger and sharper\n"
            f"Drop a small or soft photo (up to {max_pixels / 1e6:g} million pixels), and get it back up to "
            f"{LARGEST_SCALE} times as wide and high. It stays on the computer that runs this page."
        )
        with gr.Row():
            with gr.Column(scale=1, min_width=280):
                photo = gr.File(label="Your photo", type="filepath", height=140)
                kind = gr.Radio(list(choices), value=first, label="What is the photo like?")
                scale = gr.Slider(
                    1,
                    LARGEST_SCALE,
                    value=choices[first].upscaler.scale,
                    step=0.5,
                    label="How many times as wide and high?",
                )
                strength = gr.Slider(
                    0,
                    1,
                    step=0.05,
                    label="How much noise and compression?",
                    info="0 keeps the most detail of clean photos; 1 is for photos that have suffered.",
                    **_strength(choices[first]),
                )
                start_button, stop_button = _buttons(idle=True)
            with gr.Column(scale=3, min_width=320):
                shown = stage.stage()
                download = gr.DownloadButton(visible=False, variant="primary")
                facts = gr.Markdown(visible=False)
                with gr.Accordion("What the network saw in the photo", open=False, visible=False) as fold:
                    explanation = gr.HTML()
        used = gr.State(None)
        results = [shown, download, facts, fold, explanation, used]
        run = start_button.click(
            upscale,
            [photo, kind, scale, strength],
            [*results, start_button, stop_button],
            api_name="upscale",
            show_progress_on=shown,
            concurrency_limit=1,
        )
        quietly: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden", "queue": False}
        start_button.click(None, js=_TO_THE_STAGE)  # which is below the buttons on a phone
        run.failure(lambda: _buttons(idle=True), outputs=[start_button, stop_button], **quietly)
        stop_button.click(stop_and_say, outputs=stop_button, **quietly)
        photo.change(show, photo, results, **quietly)
        kind.change(
            lambda title: (choices[title].upscaler.scale, gr.Slider(**_strength(choices[title]))),
            kind,
            [scale, strength],
            **quietly,
        )
        fold.expand(explain, [photo, used], explanation, api_visibility="private")
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


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."


class _StoppedError(Exception):
    """The user has stopped the upscaling, chosen another photo or closed the page."""


class _Run:
    """An upscaling: shows how far it is, and raises `_StoppedError` once `stop` is set.

    Attributes:
        stop: set to end it.
        replaced: True if its photo is no longer on the page, where its result then must not appear.
        start: the time when it began, by `time.monotonic`.
    """

    def __init__(self, show: gr.Progress) -> None:
        self.stop, self.replaced, self.start = threading.Event(), False, time.monotonic()
        self._show, self._done = show, 0.0

    def phase(self, description: str) -> None:
        """Show what is being done."""
        self._check()
        self._show(None, desc=description)

    @contextmanager
    def task(self, description: str, total: float | None) -> Iterator[Self]:
        """Start from zero."""
        self._done, self._began = 0.0, time.monotonic()
        yield self

    def advance(self, amount: float = 1, *, note: str = "") -> None:
        """Move the bar on by a share of the photo."""
        self._check()
        self._done += amount
        if self._done >= 1:
            self._show(None, desc="Writing the result")
        elif self._done > 0:
            left = (time.monotonic() - self._began) * (1 / self._done - 1)
            self._show(self._done, desc=f"Enlarging, about {in_words(left)} left")

    def _check(self) -> None:
        if self.stop.is_set():
            raise _StoppedError


def _buttons(*, idle: bool) -> tuple[gr.Button, gr.Button]:
    """Return the buttons that start and stop: the one that would do nothing is off."""
    return gr.Button("Enlarge", variant="primary", interactive=idle), gr.Button("Stop", interactive=not idle)


def _strength(weights: Weights) -> dict[str, Any]:
    """Return value and visibility of the slider of the strength, which only weights with a partner have."""
    return {"value": weights.strength or 0.0, "visible": weights.strength is not None}


def _results(
    value: dict[str, Any],
    download: tuple[str, Path] | None = None,
    facts: str | None = None,
    used: tuple[str, float | None] | None = None,
) -> tuple[Any, ...]:
    """Return all components that a photo or a result changes, in the order of the page.

    Args:
        value: what the stage shows.
        download: text of the button, and its file.
        facts: the line below.
        used: title and strength of the weights whose view of the photo can be unfolded.
    """
    label, file = download or (None, None)
    return (
        value,
        gr.DownloadButton(label or "Download", value=file, visible=download is not None),
        gr.Markdown(facts or "", visible=facts is not None),
        gr.Accordion(open=False, visible=used is not None),
        "",
        used,
    )


def _shown(result: Enlarged, asked: tuple[str, float], folder: Path, seconds: float) -> tuple[Any, ...]:
    """Return the components for a result of a title and a strength, with its pictures in files of ``folder``."""
    before, after = folder / "before.png", result.file
    result.before.save(before, **_UNCOMPRESSED)
    if result.after.size != result.size:
        after = folder / "after.png"
        result.after.save(after, **_UNCOMPRESSED)
    width, height = result.size
    used: tuple[str, float | None] | None = asked
    if (choice := result.choice) is not None:
        used = None if choice.purpose is None else (choice.purpose.title, None)
    return _results(
        stage.comparison(before, after),
        (f"Download {result.file.name} ({width:,} x {height:,} pixels)", result.file),
        " ".join(_said(result, seconds)),
        used,
    )


def _said(result: Enlarged, seconds: float) -> Iterator[str]:
    """Yield the sentences below a result."""
    if (choice := result.choice) is not None:
        if choice.purpose is None:
            yield _sentence(f"{choice.reason}: no network improves such photos yet, so it was only stretched")
        else:
            yield _sentence(f"{choice.reason}, so it was enlarged as a {choice.purpose.title.lower()}")
    yield f"It took {in_words(seconds)}."
    if result.after.size != result.size:
        yield f"Shown at {result.after.width:,} x {result.after.height:,} pixels; the download has all of them."
    for notice in result.notices:
        yield _sentence(notice)


def _explained(seen: Seen, weights: Weights) -> str:
    """Return what a network saw, as HTML."""
    parts = []
    if seen.blur is not None:
        parts.append(
            f"<p>Before it was made small, the photo was about as soft as a blur of <b>{seen.blur:.1f} pixels</b> of "
            "the enlarged picture makes it. This is a rough guess.</p>"
        )
    if weights.trained_on is not None:
        parts.append(f"<p>These weights learned from photos with {weights.trained_on}.</p>")
    if seen.modulation is not None:
        low, high = float(seen.modulation.min()), float(seen.modulation.max())
        drawn = Image.fromarray(np.rint(np.interp(seen.modulation, (low, high), (0, 255))).astype(np.uint8))
        parts.append(
            f'<figure><img src="{stage.data_url(drawn, "PNG")}" alt="Map of the photo\'s centre in gray" '
            f'style="max-width: min(100%, 24rem)"><figcaption>Modulation: where the network adapts to this blur much '
            f"(white, {high:.2f}) and little (black, {low:.2f}), in the photo's centre of at most {LOOKED_AT} pixels."
            "</figcaption></figure>"
        )
    return "".join(parts) or "<p>Nothing that could be shown.</p>"
