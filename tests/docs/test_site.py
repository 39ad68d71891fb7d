import html
import re
import subprocess
import sys

import pytest
from blocks import PAGES, REPOSITORY

import mrda.config

pytest.importorskip("mkdocs", reason="needs the extra docs")


def test_every_section_of_the_configuration_has_its_place():
    page = (REPOSITORY / "docs" / "api" / "configuration.md").read_text()
    sections = {name for name in mrda.config.__all__ if name.endswith("Config")}
    assert {name for name in sections if f"::: mrda.config.{name}\n" not in page} == set()


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    result = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return folder


@pytest.mark.slow
def test_every_page_is_on_the_site_and_in_its_menu(site):
    menu = (site / "index.html").read_text()
    for page in PAGES[1:]:
        name = page.relative_to(REPOSITORY / "docs").with_suffix("").as_posix()
        if name != "index":
            assert (site / name / "index.html").exists()
            assert f'href="{name}/"' in menu


@pytest.mark.slow
def test_descriptions_of_arguments_and_options_come_from_the_code(site):
    assert "one per sample and channel" in (site / "api" / "kernels" / "index.html").read_text()
    assert "Every random draw of the run" in (site / "api" / "configuration" / "index.html").read_text()


@pytest.mark.slow
def test_options_of_components_have_their_choices_and_defaults_in_the_configuration(site):
    page = (site / "api" / "configuration" / "index.html").read_text()
    text = " ".join(html.unescape(re.sub(r"<[^>]+>", "", page)).split())
    assert "border: Literal['clamp', 'mirror'] = 'clamp'" in text
    assert "kernel_size: Int = 21 Side of the blur kernels" in text
    assert "blur_kernel_size: Int = 21 Side of the largest kernel" in text
    assert "jpeg: Literal['libjpeg', 'simulated'] = 'libjpeg'" in text
    assert "noise_range: tuple[float, float] = (1.0, 25.0)" in text


@pytest.mark.slow
def test_records_that_pages_link_to_are_published(site):
    assert 'href="../benchmarks/results/jpeg.json"' in (site / "jpeg" / "index.html").read_text()
    assert (site / "benchmarks" / "results" / "jpeg.json").exists()


@pytest.mark.slow
def test_the_page_that_enlarges_photos_has_what_is_there_of_its_parts(site):
    published = {path.name for path in (site / "try").iterdir()}
    assert {"page.js", "worker.js", "tiles.js", "page.css", "comparison.css", "index.html"} <= published
    assert "parts.py" not in published
    assert ("facts.json" in published) == (REPOSITORY / "build" / "try" / "facts.json").exists()
