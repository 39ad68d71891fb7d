"""The page by gradio's client, in one process and without a browser."""

import re

import numpy as np
import pytest
import torch
from PIL import Image

from mrda.photo.files import read_photo
from mrda.photo.images import to_tensor

gradio_client = pytest.importorskip("gradio_client", reason="gradio is not installed: pip install 'mrda-kernels[app]'")
httpx = pytest.importorskip("httpx")
pytestmark = pytest.mark.xdist_group("system")


@pytest.fixture
def upscale(address, tmp_path):
    client = gradio_client.Client(address, verbose=False, download_files=str(tmp_path / "downloads"))

    def ask(photo, scale=2.0, name="tiny"):
        file = None if photo is None else gradio_client.handle_file(photo)
        return client.predict(file, name, scale, api_name="/upscale")

    return ask


def test_a_photo_comes_back_whole_with_what_is_shown_of_it(upscale, upscaler, photo, rgb):
    slider, download, said, modulation = upscale(photo)
    before, after = (Image.open(path) for path in slider["value"])
    np.testing.assert_array_equal(np.asarray(after), upscaler(rgb))
    assert before.size == after.size
    assert download["label"] == "Download photo_x2.png (96 x 72)"
    np.testing.assert_array_equal(read_photo(download["value"]).pixels, upscaler(rgb))
    assert "Estimated blur: about 1.5 px" in said["value"]
    assert "These weights were trained on nothing." in said["value"]
    with torch.no_grad():
        lr = to_tensor(rgb)
        masks = upscaler.network.rdan.modulation_map(lr, upscaler.network.degradation(lr))[0, 0]
    low, high = masks.min(), masks.max()
    assert f"{low:.2f} is black, {high:.2f} is white" in modulation["label"]
    with Image.open(modulation["value"]) as map:
        assert map.size == (96, 72)
        shown = np.asarray(map.resize((48, 36), Image.Resampling.BOX)).astype(float)
    assert np.corrcoef(shown.ravel(), masks.ravel())[0, 1] > 0.9


def test_weights_and_scale_can_be_chosen(upscale, photo):
    download, said = upscale(photo, name="other", scale=3.0)[1:3]
    assert download["label"] == "Download photo_x3.png (144 x 108)"
    assert "These weights were trained on nothing else." in said["value"]
    assert upscale(photo, scale=1.5)[1]["label"] == "Download photo_x1.5.png (72 x 54)"


def test_only_what_gradio_watches_over_is_left(upscale, photo, tmp_path, monkeypatch):
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    upscale(photo)
    assert list((tmp_path / "gradio").glob("*/photo_x2.png"))
    photo.write_bytes(b"")
    with pytest.raises(gradio_client.exceptions.AppError):
        upscale(photo)
    assert not list((tmp_path / "temporary").glob("tmp*"))


def test_bad_photos_get_a_message_and_the_page_lives_on(upscale, photo, tmp_path):
    (tmp_path / "empty.png").touch()
    (tmp_path / "cut.png").write_bytes(photo.read_bytes()[:900])
    Image.new("L", (80, 51)).save(tmp_path / "large.png")
    postscript = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 24 16\n%%EndComments\n{} loop\n%%EOF\n"
    (tmp_path / "postscript.jpg").write_bytes(postscript)
    for name, reason in (
        ("postscript.jpg", r"Cannot read postscript\.jpg: it is PostScript, a program that draws, and no photo"),
        ("empty.png", r"Cannot read empty\.png: the file is empty"),
        ("cut.png", r"Cannot read cut\.png: "),
        ("large.png", "it has 80 x 51 = 4,080 pixels, more than the 4,000 that are allowed"),
    ):
        with pytest.raises(gradio_client.exceptions.AppError, match=reason):
            upscale(tmp_path / name)
    assert upscale(photo)[1]["label"].startswith("Download photo_x2.png")


def test_no_photo_other_weights_and_other_scales_are_refused(upscale, photo):
    with pytest.raises(gradio_client.exceptions.AppError, match="Choose a photo first"):
        upscale(None)
    with pytest.raises(gradio_client.exceptions.AppError, match="/etc/passwd"):
        upscale(photo, name="/etc/passwd")
    with pytest.raises(gradio_client.exceptions.AppError):
        upscale(photo, scale=1000.0)


def test_too_little_memory_is_told(upscale, photo, monkeypatch):
    def short(*_, **__):
        raise MemoryError

    monkeypatch.setattr("mrda.app.page.enlarge", short)
    with pytest.raises(gradio_client.exceptions.AppError, match="There is not enough memory for a photo of this size"):
        upscale(photo)


def test_a_file_that_is_too_large_for_any_photo_is_not_taken(address):
    for size, status in ((8 * 4000 + 2**24, 200), (8 * 4000 + 2**24 + 1, 413)):
        answer = httpx.post(f"{address}gradio_api/upload", files={"files": ("huge.png", bytes(size))})
        assert answer.status_code == status


def test_nothing_is_told_to_others(address):
    assert httpx.get(f"{address}config").json()["analytics_enabled"] is False
    assert re.findall(r'(?:src|href)="(?:https?:)?//', httpx.get(address).text) == []
