"""The page as a person sees it, in a headless Chromium of the system."""

import threading
import time

import chromium
import numpy as np
import pytest
from PIL import Image

from mrda.photo.files import read_photo

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.xdist_group("system"),
    pytest.mark.skipif(chromium.CHROMIUM is None, reason="no Chromium is found (Debian: apt-get install chromium)"),
]


@pytest.fixture
def browser():
    with chromium.opened() as browser:
        yield browser


def test_a_person_drops_photos_good_and_bad_and_keeps_the_result(browser, address, upscaler, photo, rgb, tmp_path):
    bad = {"empty.png": b"", "cut.png": photo.read_bytes()[:900]}
    for name, content in bad.items():
        (tmp_path / name).write_bytes(content)
    tab = browser.new_page()
    requests = []
    tab.on("request", lambda request: requests.append(request.url))
    tab.goto(address)

    def upscale(path):
        if tab.get_by_label("Clear").count():
            tab.get_by_label("Clear").first.click()
        tab.set_input_files("input[type=file]", path)
        tab.get_by_text(path.name, exact=False).first.wait_for()
        tab.get_by_role("button", name="Upscale", exact=True).click()

    for name, reason in (("empty.png", "the file is empty"), ("cut.png", "cannot read cut.png")):
        upscale(tmp_path / name)
        tab.get_by_text(reason, exact=False).wait_for()
        assert not tab.get_by_text("Download").count()
    upscale(photo)
    tab.get_by_text("estimated blur").wait_for()
    before, after = tab.locator("img[src*='gradio_api/file=']").all()[:2]
    assert before.evaluate("image => [image.naturalWidth, image.naturalHeight]") == [96, 72]
    assert after.evaluate("image => [image.naturalWidth, image.naturalHeight]") == [96, 72]
    with tab.expect_download() as download:
        tab.get_by_text("Download photo_x2.png").click()
    assert download.value.suggested_filename == "photo_x2.png"
    download.value.save_as(tmp_path / "kept.png")
    np.testing.assert_array_equal(read_photo(tmp_path / "kept.png").pixels, upscaler(rgb))

    tab.get_by_label("Weights").click()
    tab.get_by_role("option", name="other").click()
    playwright.expect(tab.get_by_label("number input for Scale")).to_have_value("3")

    # another photo takes the results of the last one away
    Image.fromarray(rgb).save(tmp_path / "other.png")
    tab.get_by_label("Clear").first.click()
    tab.get_by_text("estimated blur").wait_for(state="hidden")
    assert [url for url in requests if not url.startswith((address, "data:", "blob:"))] == []


def test_stop_and_closing_the_page_end_the_work(browser, address, photo, monkeypatch):
    ended = threading.Semaphore(0)

    def endless(*_, progress, **__):
        try:
            with progress.task("", 1) as task:
                task.advance(0.5)
                while True:
                    task.advance(0)
                    time.sleep(0.01)
        finally:
            ended.release()

    monkeypatch.setattr("mrda.app.page.enlarge", endless)
    tab = browser.new_page()
    tab.goto(address)
    tab.set_input_files("input[type=file]", photo)
    tab.get_by_text("photo.png").first.wait_for()
    for _ in range(2):
        tab.get_by_role("button", name="Upscale", exact=True).click()
        tab.get_by_text("upscaling - 50.0%").wait_for()
        if ended.acquire(blocking=False):
            raise AssertionError("it ended by itself")
        tab.get_by_role("button", name="Stop", exact=True).click()
        tab.get_by_text("You stopped the upscaling.", exact=True).last.wait_for()
        assert ended.acquire(timeout=60)
    tab.get_by_role("button", name="Upscale", exact=True).click()
    tab.get_by_text("upscaling - 50.0%").wait_for()
    tab.close()
    assert ended.acquire(timeout=60)
