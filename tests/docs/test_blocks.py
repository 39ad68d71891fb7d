"""Every block of the documentation is run, with small networks and photos; see blocks.py for the exceptions."""

import re
import shutil

import pytest
import shell
from blocks import PAGES, STAND_INS, blocks, inline_code
from stand_ins import furnish, names

from mrda.config import TrainConfig
from mrda.config.base import option_paths
from mrda.config.names import FLAT_NAMES

EVERY = [block for page in PAGES for block in blocks(page)]
COMMANDS = [block for block in EVERY if block.language in ("sh", "bash")]
PYTHON = [block for block in EVERY if block.language == "python"]


@pytest.fixture(scope="module")
def furnished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("furnished")
    furnish(folder)
    return folder


@pytest.fixture(scope="module")
def folders():
    return {}


@pytest.fixture
def place(request, furnished, folders, tmp_path_factory, monkeypatch):
    """The folder that the blocks of a page share, with the files that the page describes."""
    page = request.getfixturevalue("block").page
    if page not in folders:
        folders[page] = tmp_path_factory.mktemp("page") / "folder"
        shutil.copytree(furnished, folders[page])
        for block in EVERY:
            if block.page == page and block.kind == "file":
                (folders[page] / block.note).write_text(block.text, encoding="utf-8")
    monkeypatch.chdir(folders[page])


@pytest.mark.slow
@pytest.mark.parametrize("block", COMMANDS, ids=str)
def test_commands(block, place, monkeypatch):
    for words in shell.lines(block.code):
        if block.kind == "skip":
            shell.check(words)
        else:
            shell.run(words, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("block", PYTHON, ids=str)
def test_python(block, place):
    code = compile(block.code, str(block), "exec")
    if block.kind == "run":
        exec(code, names())


def test_every_stand_in_of_a_page_replaces_something():
    for page, words in STAND_INS.items():
        text = "".join(block.text for block in EVERY if block.page == page)
        assert [old for old in words if old not in text] == [], page


def test_readme_has_no_comments_for_the_tests():
    assert [str(block) for block in EVERY if block.page == "README.md" and (block.kind != "run" or block.note)] == []


def test_no_block_escapes():
    languages = {"sh", "bash", "python", "text", "yaml", "json"}
    assert [f"{block}: {block.language!r}" for block in EVERY if block.language not in languages] == []
    assert [str(block) for block in EVERY if block.language == "yaml" and block.kind != "file"] == []
    for page in PAGES:
        fences = re.findall(r"^ *```", page.read_text(encoding="utf-8"), re.MULTILINE)
        assert len(fences) == 2 * sum(block.fenced for block in blocks(page)), page


def options_of(command):
    return {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)} | {"--help"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_in_the_text_have_these_options(page):
    for code in inline_code(page):
        if code.startswith("mrda "):
            command, rest = shell.subcommand(shell.lines(code)[0][1:])
            assert {word for word in rest if word.startswith("-") and word != "-"} <= options_of(command), code


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_configuration_keys_in_the_text_are_there(page):
    known = {*option_paths(TrainConfig), *FLAT_NAMES}
    sections = {path.partition(".")[0] for path in known if "." in path}
    for code in inline_code(page):
        found = re.match(rf"({'|'.join(sections)})\.([a-z]\w*)(?![\w.(])", code)
        if found and found[2] not in ("json", "safetensors", "md"):
            assert f"{found[1]}.{found[2]}" in known, code
