"""The page "Try it here" in a headless Chromium, beside Python's picture of the same photo."""

import functools
import http.server
import importlib.util
import io
import shutil
import sys
import threading

import numpy as np
import pytest
import torch
from blocks import REPOSITORY
from PIL import Image

from mrda.networks import MRDAStudent, save_network
from mrda.photo.images import read_rgb
from mrda.upscale.upscaler import Upscaler

sys.path.append(str(REPOSITORY / "tests" / "app"))
import chromium

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
markdown = pytest.importorskip("markdown", reason="needs the extra docs")
pytest.importorskip("onnxscript", reason="onnxscript is not installed: pip install './mrda[export]'")

PAGE = REPOSITORY / "docs" / "try"
TILE = 64
pytestmark = [
    pytest.mark.slow,
    pytest.mark.xdist_group("system"),
    pytest.mark.skipif(chromium.CHROMIUM is None, reason="no Chromium is found (Debian: apt-get install chromium)"),
]


def parts_module():
    spec = importlib.util.spec_from_file_location("parts", PAGE / "parts.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


parts = parts_module()


def page_without_parts(folder):
    """Put the page's own files into a folder, as the site has them."""
    shutil.copytree(PAGE, folder, ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    shutil.copy(REPOSITORY / "mrda" / "app" / "comparison.css", folder)
    text = (REPOSITORY / "docs" / "try.md").read_text(encoding="utf-8")
    html = markdown.markdown(text.split("---\n", 2)[2])
    (folder / "index.html").write_text(f"<!doctype html><meta name=viewport content=width=device-width>{html}")


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    torch.manual_seed(0)
    network = MRDAStudent(scale=2, num_feat=8, num_blocks=2, den_width=4)
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    save_network(network, path, license="CC0")
    return network, path


@pytest.fixture(scope="module")
def site(tmp_path_factory, network):
    """The page with the library and a tiny network of random weights."""
    folder = tmp_path_factory.mktemp("site") / "try"
    page_without_parts(folder)
    made = REPOSITORY / "build" / "try" / "ort"
    try:
        if all((made / name).exists() for name in parts.LIBRARY_FILES):
            shutil.copytree(made, folder / "ort")
        else:
            parts.copy_library(folder / "ort")
    except parts.MissingError as error:
        pytest.skip(str(error))
    model, path = network
    parts.write_facts(folder, {"tiny": parts.export(str(path), folder, title="Tiny", tile=TILE, pad=model.rdan.reach)})
    return folder


@pytest.fixture(scope="module")
def browser():
    with chromium.opened() as browser:
        yield browser


@pytest.fixture
def opened(browser):
    """A function that serves a folder and opens the page in it."""
    servers, tabs = [], []

    def open_page(folder, query="?engine=wasm", **options):
        handler = functools.partial(Quiet, directory=folder)
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        servers.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        tab = browser.new_page(**options)
        tabs.append(tab)
        tab.goto(f"http://127.0.0.1:{server.server_port}/{query}")
        return tab

    yield open_page
    for tab in tabs:
        tab.close()
    for server in servers:
        server.shutdown()
        server.server_close()


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture
def photo(tmp_path):
    """A part of a real photo, larger than two tiles, whose sides are no multiples of the encoder's stride."""
    Image.fromarray(read_rgb("skimage:chelsea")[60:177, 100:241]).save(tmp_path / "cat.png")
    return tmp_path / "cat.png"


def picture_of(tab, photo):
    tab.set_input_files("input[type=file]", photo)
    tab.get_by_role("button", name="Enlarge").click()
    link = tab.get_by_role("link", name="Download")
    playwright.expect(link.or_(tab.get_by_role("alert"))).to_be_visible(timeout=600_000)
    with tab.expect_download() as download:
        link.click()
    picture = Image.open(io.BytesIO(download.value.path().read_bytes()))
    assert picture.format == "PNG"
    assert picture.convert("RGBA").getextrema()[3] == (255, 255)
    return download.value.suggested_filename, np.asarray(picture.convert("RGB"))


def assert_alike(found, expected):
    assert found.shape == expected.shape
    different = (abs(found.astype(int) - expected) > 1).any(axis=2)
    assert different.mean() <= 1e-3, (different.mean(), abs(found.astype(int) - expected).max())


def test_the_picture_is_that_of_python(opened, site, network, photo):
    requests = []
    tab = opened(site)
    tab.on("request", lambda request: requests.append(request.url))
    name, found = picture_of(tab, photo)
    assert name == "cat_x2.png"
    expected = Upscaler(network[0], dtype=torch.float32)(np.asarray(Image.open(photo)))
    assert_alike(found, expected)
    assert_alike(found[:, -40:], expected[:, -40:])  # the end of the photo, and of its encoder's grid
    assert [url for url in requests if not url.startswith((tab.url.split("?")[0], "blob:", "data:"))] == []
    facts = tab.locator("[data-part=facts]").text_content()
    assert facts.startswith("282 x 234 pixels, made in ")
    assert "9 tiles of" in facts
    assert facts.endswith("the weights are under CC0.")
    for text in ("Your photo, only stretched to the new size", "The result"):
        size = tab.get_by_alt_text(text, exact=True).evaluate("image => [image.naturalWidth, image.naturalHeight]")
        assert size == [282, 234]


def test_a_photo_smaller_than_a_tile_is_mirrored(opened, site, network, tmp_path):
    part = read_rgb("skimage:chelsea")[60:90, 100:145]
    Image.fromarray(part).save(tmp_path / "small.png")
    _, found = picture_of(opened(site), tmp_path / "small.png")
    expected = Upscaler(network[0], dtype=torch.float32)(part)
    reach = 2 * network[0].rdan.reach
    assert_alike(found[:-reach, :-reach], expected[:-reach, :-reach])
    assert found.shape == expected.shape


NO_GPU = """
export * from "./ort.wasm.min.mjs";
const fail = async () => { throw new Error("the device is lost"); };
export const InferenceSession = { create: CREATE };
"""
"""A library for WebGPU that cannot run networks."""


@pytest.mark.parametrize(
    "create", ["fail", "async () => ({ outputNames: ['output'], run: fail })"], ids=["load", "run"]
)
def test_without_a_working_webgpu_the_main_processor_takes_over(opened, site, photo, tmp_path, create):
    shutil.copytree(site, tmp_path / "try")
    (tmp_path / "try" / "ort" / "ort.webgpu.min.mjs").write_text(NO_GPU.replace("CREATE", create))
    worker = tmp_path / "try" / "worker.js"
    gpu = 'Object.defineProperty(navigator, "gpu", { value: { requestAdapter: async () => ({}) } });\n'
    worker.write_text(gpu + worker.read_text())
    tab = opened(tmp_path / "try", query="")
    tab.evaluate("""{
        const stage = document.querySelector("[data-part=stage]");
        window.told = [];
        const watch = { childList: true, subtree: true, characterData: true };
        new MutationObserver(() => told.push(stage.textContent)).observe(stage, watch);
    }""")
    _, found = picture_of(tab, photo)
    _, expected = picture_of(opened(site), photo)
    assert (found == expected).all()
    facts = tab.locator("[data-part=facts]").text_content()
    assert " on the processor (9 tiles of" in facts
    assert facts.endswith(" The graphics processor failed, so the main one enlarged the photo.")
    during = "The graphics processor failed, so the main one enlarges: "
    assert any(text.startswith(during) for text in tab.evaluate("told"))


def test_what_cannot_be_enlarged_is_told_where_the_result_would_stand(opened, site, photo, tmp_path):
    tab = opened(site)
    (tmp_path / "milk.png").write_bytes(b"milk")
    (tmp_path / "half.png").write_bytes(photo.read_bytes()[:40])
    Image.new("1", (1025, 1024)).save(tmp_path / "large.png")
    Image.new("1", (4097, 1)).save(tmp_path / "long.png")
    for name, words in {
        "milk.png": "This browser cannot read milk.png: save it as JPEG or PNG and try that.",
        "half.png": "This browser cannot read half.png: save it as JPEG or PNG and try that.",
        "large.png": "large.png has 1,025 x 1,024 pixels, but this page takes up to 1,048,576, and 4,096 a side: "
        "mrda upscale takes photos of any size.",
        "long.png": "long.png has 4,097 x 1 pixels, but this page takes up to 1,048,576, and 4,096 a side: "
        "mrda upscale takes photos of any size.",
    }.items():
        tab.set_input_files("input[type=file]", tmp_path / name)
        playwright.expect(tab.locator("[data-part=stage] [role=alert]")).to_have_text(words)
        playwright.expect(tab.get_by_role("button", name="Enlarge")).to_be_disabled()
    tab.route("**/rdan.onnx", lambda route: route.abort())
    tab.set_input_files("input[type=file]", photo)
    tab.get_by_role("button", name="Enlarge").click()
    playwright.expect(tab.get_by_role("alert")).to_have_text(
        "The network cannot be downloaded: reload the page to try again."
    )
    tab.unroute("**/rdan.onnx")
    assert picture_of(tab, photo)[1].shape == (234, 282, 3)


def test_a_site_that_was_built_without_parts_says_so(opened, tmp_path):
    page_without_parts(tmp_path / "try")
    tab = opened(tmp_path / "try")
    playwright.expect(tab.get_by_role("alert")).to_contain_text("built without the network")
    playwright.expect(tab.get_by_role("button", name="Enlarge")).to_be_hidden()


def test_the_keyboard_alone_is_enough_at_the_width_of_a_phone(opened, site, photo):
    tab = opened(site, viewport={"width": 360, "height": 740})

    tab_to = functools.partial(chromium.tab_to, tab, presses=20)

    tab.get_by_text("Your photo and the result will appear here.").wait_for()
    with tab.expect_file_chooser() as chooser:
        tab_to("[data-part=drop]")  # meanwhile Chromium learns that the chooser is expected
        tab.keyboard.press("Enter")
    chooser.value.set_files(photo)
    tab.get_by_label("Your photo").wait_for()
    tab_to("[data-part=enlarge]")
    tab.keyboard.press("Enter")
    tab.get_by_role("link", name="Download").wait_for(timeout=60_000)
    tab_to(".compare input")
    at = "part => part.style.getPropertyValue('--at')"
    assert tab.locator(".compare").evaluate(at) == "50%"
    tab.keyboard.press("End")
    assert tab.locator(".compare").evaluate(at) == "100%"
    tab_to("[data-part=download]")
    with tab.expect_download():
        tab.keyboard.press("Enter")
    assert tab.evaluate("document.documentElement.scrollWidth") <= 360


def test_stop_and_another_photo_end_the_work(opened, site, photo):
    tab = opened(site)
    tab.route("**/rdan.onnx", lambda route: None)  # which then never ends
    tab.set_input_files("input[type=file]", photo)
    tab.get_by_role("button", name="Enlarge").click()
    tab.get_by_text("Downloading the network").wait_for()
    tab.get_by_role("button", name="Stop").click()
    tab.get_by_text("Stopped. Press Enlarge to start again.").wait_for()
    playwright.expect(tab.get_by_role("button", name="Stop")).to_be_disabled()
    tab.get_by_role("button", name="Enlarge").click()
    tab.get_by_text("Downloading the network").wait_for()
    tab.set_input_files("input[type=file]", photo)
    tab.get_by_label("Your photo").wait_for()
    assert not tab.get_by_text("Downloading the network").count()


def test_the_weights_of_the_package_with_the_tiles_of_the_page(opened, tmp_path):
    """The shipped network is as deep as published: tiles see less than it does, and the picture stays the same."""
    made = REPOSITORY / "build" / "try"
    if not (made / parts.FACTS).exists():
        pytest.skip("the page's networks are not there: make docs")
    page_without_parts(tmp_path / "try")
    shutil.copytree(made, tmp_path / "try", dirs_exist_ok=True)
    Image.fromarray(read_rgb("skimage:chelsea")[60:252, 100:310]).save(tmp_path / "cat.png")
    name, found = picture_of(opened(tmp_path / "try"), tmp_path / "cat.png")
    assert name == "cat_x4.png"
    upscaler = Upscaler.from_pretrained("mrda-x4", dtype=torch.float32, device="cpu")
    assert_alike(found, upscaler(np.asarray(Image.open(tmp_path / "cat.png"))))
