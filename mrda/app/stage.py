# SPDX-License-Identifier: Apache-2.0
"""The part of the page where the photo, the comparison with its result, or an error stands."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image

COMPARISON = Path(__file__).with_name("comparison.css")
"""The style of the comparison, which the page of the documentation has too."""
_TEMPLATE = """
{{#if value.error}}
<p class="error" role="alert">{{value.error}}</p>
{{else}}{{#if value.after}}
<div class="compare" style="--at: 50%">
  <img src="{{value.before.url}}" alt="Your photo, only stretched to the new size">
  <img class="after" src="{{value.after.url}}" alt="The result">
  <span class="line"></span><span class="left">only stretched</span><span class="right">result</span>
  <input type="range" min="0" max="100" step="0.5" value="50"
    aria-label="Compare: the stretched photo on the left of the line, the result on the right">
</div>
{{else}}{{#if value.photo}}
<img class="photo" src="{{value.photo}}" alt="Your photo">
{{else}}
<p class="hint">{{value.hint}}</p>
{{/if}}{{/if}}{{/if}}
"""
_STYLE = """
p { margin: 0; padding: 4.5rem 1rem; text-align: center; font-size: 1.1rem; border-radius: 8px; }
.hint { border: 1px dashed var(--border-color-primary); color: var(--body-text-color-subdued); }
.error { border: 1px solid var(--error-border-color, #b91c1c); background: var(--error-background-fill, #fef2f2);
  color: var(--error-text-color, #b91c1c); }
.photo { display: block; max-width: 100%; max-height: 75vh; margin: 0 auto; border-radius: 4px; }
"""
_SCRIPT = """
element.addEventListener('input', event => {
  if (event.target.type === 'range') {
    event.target.parentElement.style.setProperty('--at', event.target.value + '%');
  }
});
"""


def stage() -> gr.HTML:
    """Build the part of the page; its values are those of the functions below."""
    return gr.HTML(
        hint("Your photo and the result will appear here."),
        html_template=_TEMPLATE,
        css_template=_STYLE + COMPARISON.read_text(encoding="utf-8"),
        js_on_load=_SCRIPT,
        min_height=180,
        elem_id="stage",
    )


def hint(sentence: str) -> dict[str, Any]:
    """Return the value that shows a sentence in place of a photo."""
    return {"hint": sentence}


def error(sentence: str) -> dict[str, Any]:
    """Return the value that shows an error, which screen readers say at once."""
    return {"error": sentence}


def photo(picture: Image.Image) -> dict[str, Any]:
    """Return the value that shows the photo."""
    return {"photo": data_url(picture, "JPEG", quality=90)}


def comparison(before: Path, after: Path) -> dict[str, Any]:
    """Return the value that shows the stretched photo and the result, with a line to move between them.

    The page makes its own copies of the files.
    """
    return {"before": _file(before), "after": _file(after)}


def data_url(picture: Image.Image, format: str, **options: Any) -> str:
    """Return a picture as the address of itself, for pictures so small that they need no file."""
    file = io.BytesIO()
    picture.save(file, format, icc_profile=picture.info.get("icc_profile"), **options)
    return f"data:image/{format.lower()};base64,{base64.b64encode(file.getvalue()).decode()}"


def _file(path: Path) -> dict[str, Any]:
    return gr.FileData(path=str(path)).model_dump()
