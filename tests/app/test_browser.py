"""The page as a person sees it, in a headless Chromium of the system."""

import functools
import threading
import time

import chromium
import numpy as np
import pytest
from PIL import Image

from mrda.app.work import enlarge
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


@pytest.fixture
def tab(browser, address):
    tab = browser.new_page()
    tab.goto(address)
    start(tab).wait_for()
    return tab


def start(tab):
    return tab.get_by_role("button", name="Enlarge", exact=True)


def stop(tab):
    return tab.get_by_role("button", name="Stop", exact=True)


def choose(tab, path):
    if tab.get_by_label("Clear").count():
        tab.get_by_label("Clear").first.click()
        tab.get_by_text("Your photo and the result will appear here.").wait_for()
    tab.set_input_files("input[type=file]", path)


def test_a_person_drops_photos_good_and_bad_and_keeps_the_result(tab, address, upscaler, photo, rgb, tmp_path):
    requests = []
    tab.on("request", lambda request: requests.append(request.url))
    for name, content in (("empty.png", b""), ("cut.png", photo.read_bytes()[:900])):
        (tmp_path / name).write_bytes(content)
        choose(tab, tmp_path / name)
        tab.get_by_role("alert").get_by_text(f"Cannot read {name}").wait_for()
    choose(tab, photo)
    playwright.expect(tab.get_by_alt_text("Your photo", exact=True)).to_be_visible()
    tab.get_by_text("48 x 36 pixels; it has noise").wait_for()
    assert not tab.get_by_role("alert").count()
    start(tab).click()
    with tab.expect_download() as download:
        tab.get_by_text("Download photo_x2.png").click()
    assert download.value.suggested_filename == "photo_x2.png"
    download.value.save_as(tmp_path / "kept.png")
    np.testing.assert_array_equal(read_photo(tmp_path / "kept.png").pixels, upscaler(rgb))
    for text in ("Your photo, only stretched to the new size", "The result"):
        size = tab.get_by_alt_text(text, exact=True).evaluate("image => [image.naturalWidth, image.naturalHeight]")
        assert size == [96, 72]
    tab.get_by_text("What the network saw in the photo").click()
    tab.get_by_text("This is a rough guess.").wait_for()
    tab.get_by_text("These weights learned from photos with nothing.").wait_for()
    playwright.expect(tab.get_by_alt_text("Map of the photo's centre in gray")).to_be_visible()

    tab.get_by_role("radio", name="other").check()
    playwright.expect(tab.get_by_label("number input for How many times as wide and high?")).to_have_value("3")

    # another photo takes the results of the last one away
    choose(tab, photo)
    tab.get_by_alt_text("Your photo", exact=True).wait_for()
    for gone in ("Download photo_x2.png", "What the network saw in the photo", "This is a rough guess."):
        playwright.expect(tab.get_by_text(gone)).to_be_hidden()
    assert [url for url in requests if not url.startswith((address, "data:", "blob:"))] == []


def test_the_keyboard_alone_is_enough_at_the_width_of_a_phone(tab, photo):
    tab.set_viewport_size({"width": 360, "height": 740})

    tab_to = functools.partial(chromium.tab_to, tab)

    with tab.expect_file_chooser() as chooser:
        tab_to("button[aria-label*='upload' i], button:has(input[type=file])")
        tab.keyboard.press("Enter")
    chooser.value.set_files(photo)
    tab.get_by_alt_text("Your photo", exact=True).wait_for()
    tab_to("input[value=other]")
    tab.keyboard.press("Space")
    playwright.expect(tab.get_by_role("radio", name="other")).to_be_checked()
    tab_to("button.primary")
    tab.keyboard.press("Enter")
    tab.get_by_text("Download photo_x3.png").wait_for()
    tab_to(".compare input")
    before = tab.locator(".compare").evaluate("part => part.style.getPropertyValue('--at')")
    tab.keyboard.press("End")
    assert before == "50%"
    assert tab.locator(".compare").evaluate("part => part.style.getPropertyValue('--at')") == "100%"
    assert tab.evaluate("document.documentElement.scrollWidth") <= 360


@pytest.fixture
def endless(monkeypatch):
    """An upscaling that ends when it is stopped; returns a semaphore of those that did."""
    ended = threading.Semaphore(0)

    def work(*_, progress, **__):
        try:
            with progress.task("", 1) as task:
                task.advance(0.5)
                while True:
                    task.advance(0)
                    time.sleep(0.01)
        finally:
            ended.release()

    monkeypatch.setattr("mrda.app.page.enlarge", work)
    return ended


def test_stop_and_closing_the_page_end_the_work(tab, photo, endless):
    playwright.expect(stop(tab)).to_be_disabled()
    choose(tab, photo)
    tab.get_by_alt_text("Your photo", exact=True).wait_for()
    for _ in range(2):
        start(tab).click()
        tab.get_by_text("Enlarging, about").wait_for()
        playwright.expect(start(tab)).to_be_disabled()
        if endless.acquire(blocking=False):
            raise AssertionError("it ended by itself")
        stop(tab).click()
        tab.get_by_text("Stopped. Press Enlarge to start again.").wait_for()
        assert endless.acquire(timeout=60)
        playwright.expect(stop(tab)).to_be_disabled(timeout=60_000)
    start(tab).click()
    tab.get_by_text("Enlarging, about").wait_for()
    tab.close()
    assert endless.acquire(timeout=60)


def test_another_photo_ends_the_work_on_the_last_one_and_stays(tab, photo, endless, tmp_path, monkeypatch):
    choose(tab, photo)
    tab.get_by_alt_text("Your photo", exact=True).wait_for()
    start(tab).click()
    tab.get_by_text("Enlarging, about").wait_for()
    Image.new("RGB", (20, 10)).save(tmp_path / "next.png")
    choose(tab, tmp_path / "next.png")
    assert endless.acquire(timeout=60)
    tab.get_by_text("20 x 10 pixels").wait_for()
    playwright.expect(start(tab)).to_be_enabled()
    playwright.expect(tab.get_by_alt_text("Your photo", exact=True)).to_be_visible()
    assert not tab.get_by_text("Stopped.").count()
    monkeypatch.setattr("mrda.app.page.enlarge", enlarge)
    start(tab).click()
    tab.get_by_text("Download next_x2.png").wait_for()
