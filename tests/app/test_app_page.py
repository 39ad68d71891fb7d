"""The page by gradio's client, in one process and without a browser."""

import re

import numpy as np
import pytest
from at_strength import at_strength
from PIL import Image

from mrda.app.work import Weights
from mrda.photo.files import read_photo

gradio_client = pytest.importorskip("gradio_client", reason="gradio is not installed: pip install './mrda[app]'")
httpx = pytest.importorskip("httpx")

from mrda.app.page import _strength  # noqa: E402  # which imports gradio

pytestmark = pytest.mark.xdist_group("system")


@pytest.fixture
def upscale(address, tmp_path):
    """Answers with what the page shows: the stage, the download and the line of facts."""
    client = gradio_client.Client(address, verbose=False, download_files=str(tmp_path / "downloads"))

    def ask(photo, scale=2.0, name="tiny", strength=()):
        file = None if photo is None else gradio_client.handle_file(photo)
        return client.predict(file, name, scale, *strength, api_name="/upscale")[:3]

    return ask


def test_a_photo_comes_back_whole_with_what_is_shown_of_it(upscale, upscaler, photo, rgb):
    stage, download, facts = upscale(photo)
    with Image.open(stage["before"]) as before, Image.open(stage["after"]) as after:
        np.testing.assert_array_equal(np.asarray(after), upscaler(rgb))
        assert before.size == after.size
    assert download["label"] == "Download photo_x2.png (96 x 72 pixels)"
    np.testing.assert_array_equal(read_photo(download["value"]).pixels, upscaler(rgb))
    assert re.fullmatch(r"It took \d+ seconds?\.", facts["value"])


def test_weights_and_scale_can_be_chosen(upscale, photo):
    assert upscale(photo, name="other", scale=3.0)[1]["label"] == "Download photo_x3.png (144 x 108 pixels)"
    assert upscale(photo, scale=1.5)[1]["label"] == "Download photo_x1.5.png (72 x 54 pixels)"


def test_a_pair_is_upscaled_at_the_strength_of_the_slider_and_others_without(upscale, upscaler, photo, rgb):
    for name, strength, expected in (
        ("paired", (), upscaler),
        ("paired", (0.0,), upscaler),
        ("paired", (0.25,), at_strength(0.25)),
        ("paired", (1.0,), at_strength(1.0)),
        ("tiny", (0.25,), upscaler),
    ):
        _, download, _ = upscale(photo, name=name, strength=strength)
        np.testing.assert_array_equal(read_photo(download["value"]).pixels, expected(rgb))
    with pytest.raises(gradio_client.exceptions.AppError):
        upscale(photo, name="paired", strength=(1.5,))


def test_the_slider_of_the_strength_is_there_for_weights_with_a_partner_alone(upscaler):
    weights, made = Weights(upscaler, None), []
    assert _strength(weights) == {"value": 0.0, "visible": False}
    assert weights.at(0.5) is weights
    pair = Weights(upscaler, None, 1.0, lambda strength: made.append(strength) or at_strength(strength))
    assert _strength(pair) == {"value": 1.0, "visible": True}
    assert pair.at(None) is pair.at(1.0) is pair
    assert pair.at(0.5) is pair.at(0.5)
    assert pair.at(0.25).strength == 0.25
    assert made == [0.5, 0.25]


def test_the_choice_by_the_photo_is_said(upscale, tmp_path):
    ramp = np.uint8(np.mgrid[:48, :48].sum(axis=0))
    for name, options, facts in (
        ("clean.png", {}, "It looks clean, so it was enlarged as a clean photo. "),
        ("worn.jpg", {"quality": 5}, "no network improves such photos yet, so it was only stretched. "),
    ):
        Image.fromarray(ramp).save(tmp_path / name, **options)
        stage, _, said = upscale(tmp_path / name, name="Choose for me", scale=1.0)
        assert facts in said["value"], stage


def test_a_16_bit_photo_and_a_large_one_are_compared(upscale, tmp_path, monkeypatch):
    Image.fromarray(np.arange(48 * 36, dtype=np.uint16).reshape(36, 48) * 30).save(tmp_path / "deep.png")
    monkeypatch.setattr("mrda.app.work.SHOWN_PIXELS", 48 * 36)
    stage, download, facts = upscale(tmp_path / "deep.png")
    with Image.open(stage["after"]) as after:
        assert after.size == (48, 36)
    assert read_photo(download["value"]).pixels.dtype == np.uint16
    assert "Shown at 48 x 36 pixels; the download has all of them." in facts["value"]


def test_only_what_gradio_watches_over_is_left(upscale, photo, tmp_path, monkeypatch):
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    upscale(photo)
    assert list((tmp_path / "gradio").glob("*/photo_x2.png"))
    photo.write_bytes(b"")
    assert "error" in upscale(photo)[0]
    assert not list((tmp_path / "temporary").glob("tmp*"))


def test_an_error_stands_where_the_result_would_beside_nothing_stale(upscale, photo, tmp_path):
    (tmp_path / "empty.png").touch()
    (tmp_path / "cut.png").write_bytes(photo.read_bytes()[:900])
    Image.new("L", (80, 51)).save(tmp_path / "large.png")
    postscript = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 24 16\n%%EndComments\n{} loop\n%%EOF\n"
    (tmp_path / "postscript.jpg").write_bytes(postscript)
    for name, reason in (
        ("postscript.jpg", "Cannot read postscript.jpg: it is PostScript, a program that draws, and no photo"),
        ("empty.png", "Cannot read empty.png: the file is empty"),
        ("cut.png", "Cannot read cut.png: "),
        ("large.png", "it has 80 x 51 = 4,080 pixels, more than the 4,000 that are allowed"),
    ):
        stage, download, facts = upscale(tmp_path / name)
        assert list(stage) == ["error"]
        assert reason in stage["error"]
        assert not download["visible"]
        assert not facts["visible"]
    assert upscale(photo)[1]["label"].startswith("Download photo_x2.png")


def test_no_photo_other_weights_and_other_scales_are_refused(upscale, photo):
    assert upscale(None)[0] == {"error": "Choose a photo first."}
    with pytest.raises(gradio_client.exceptions.AppError, match="/etc/passwd"):
        upscale(photo, name="/etc/passwd")
    with pytest.raises(gradio_client.exceptions.AppError):
        upscale(photo, scale=1000.0)


def test_too_little_memory_is_told(upscale, photo, monkeypatch):
    def short(*_, **__):
        raise MemoryError

    monkeypatch.setattr("mrda.app.page.enlarge", short)
    assert upscale(photo)[0] == {"error": "There is not enough memory for a photo of this size."}


def test_a_file_that_is_too_large_for_any_photo_is_not_taken(address):
    for size, status in ((8 * 4000 + 2**24, 200), (8 * 4000 + 2**24 + 1, 413)):
        answer = httpx.post(f"{address}gradio_api/upload", files={"files": ("huge.png", bytes(size))})
        assert answer.status_code == status


def test_nothing_is_told_to_others(address):
    assert httpx.get(f"{address}config").json()["analytics_enabled"] is False
    assert re.findall(r'(?:src|href)="(?:https?:)?//', httpx.get(address).text) == []
