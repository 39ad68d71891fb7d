import pytest
import torch
from commands import one_sentence, refused, run
from safetensors.torch import load_file

from mrda.networks import MLN, MRDAOracle, MRDAStudent, read_metadata, save_network, to_official
from mrda.upscale.weights import find_weights

TINY = {"scale": 2, "num_feat": 4, "num_blocks": 1, "den_width": 2}


@pytest.fixture
def published(tmp_path):
    path = tmp_path / "published.pth"
    torch.save(to_official(MRDAStudent(**TINY)), path)
    return path


def test_there_and_back(tmp_path, published):
    ours, back = tmp_path / "ours.safetensors", tmp_path / "back.pth"
    result = run("convert", published, ours)
    assert result.exit_code == 0, result.stderr
    assert result.stdout == f"{ours}: MRDAStudent x2\n"
    result = run("convert", ours, back)
    assert result.exit_code == 0, result.stderr
    start, end = torch.load(published, weights_only=True), torch.load(back, weights_only=True)
    assert start.keys() == end.keys()
    assert all(torch.equal(start[key], end[key]) for key in start)


def test_a_wrapped_mln(tmp_path):
    state = to_official(MLN(scale=3, num_feat=2))
    torch.save({"state_dict": {f"module.{key}": tensor for key, tensor in state.items()}}, tmp_path / "meta.pt")
    result = run("convert", tmp_path / "meta.pt", tmp_path / "mln.safetensors")
    assert result.exit_code == 0, result.stderr
    assert "MLN x3" in result.stdout


def test_an_existing_file_stays_unless_told(tmp_path, published):
    ours = tmp_path / "ours.safetensors"
    ours.write_bytes(b"precious")
    result = run("convert", published, ours)
    assert result.exit_code == 2
    assert one_sentence(result.stderr)
    assert "exists already: give --overwrite to replace it" in result.stderr
    assert ours.read_bytes() == b"precious"
    assert run("convert", published, ours, "--overwrite").exit_code == 0
    assert load_file(ours)


@pytest.mark.parametrize("option", [[], ["--overwrite"]])
def test_the_source_is_not_overwritten(tmp_path, published, option):
    before = published.read_bytes()
    link = tmp_path / "link.safetensors"
    link.symlink_to(published)
    result = run("convert", published, link, *option)
    assert result.exit_code == 2
    assert one_sentence(result.stderr)
    assert "is the file to convert" in result.stderr
    assert published.read_bytes() == before


@pytest.mark.parametrize(
    ("network", "words"),
    [
        (MRDAStudent(**TINY, dyn_act="none"), "dyn_act='none'"),
        (MRDAStudent(**TINY, conv_type="dasr_da"), "conv_type='dasr_da'"),
        (MRDAOracle(**TINY), "MRDAOracle"),
    ],
)
def test_what_would_be_lost_is_refused(tmp_path, network, words):
    save_network(network, tmp_path / "ours.safetensors")
    out = tmp_path / "theirs.pth"
    refused(run("convert", tmp_path / "ours.safetensors", out), out, words)


def test_a_file_that_is_none_is_refused(tmp_path, published):
    out = tmp_path / "out.safetensors"
    refused(run("convert", tmp_path / "none.pth", out), out, "there is no weights file", "none.pth")
    (tmp_path / "garbage.pth").write_bytes(b"garbage")
    refused(run("convert", tmp_path / "garbage.pth", out), out, "garbage.pth", "cannot be read")
    refused(run("convert", published, tmp_path / "out.pth"), tmp_path / "out.pth", "the other a .safetensors file")


def test_names_of_the_packages_weights_are_taken_and_the_licence_goes_along(tmp_path):
    theirs, back = tmp_path / "iso.pth", tmp_path / "back.safetensors"
    result = run("convert", "mrda-x4", theirs)
    assert result.exit_code == 0, result.stderr
    assert run("convert", theirs, back).exit_code == 0
    bundled = read_metadata(find_weights("mrda-x4"))
    assert {"license", "data", "recipe", "stage", "step"} <= set(bundled)
    assert read_metadata(back) == bundled


def test_a_picture_is_called_that(tmp_path):
    (tmp_path / "photo.jpg").write_bytes(b"\xff\xd8\xff\xe0" + bytes(100))
    out = tmp_path / "out.safetensors"
    refused(run("convert", tmp_path / "photo.jpg", out), out, "photo.jpg", "it is a JPEG image")


def test_a_folder_that_is_none_is_refused(tmp_path, published):
    out = tmp_path / "none" / "ours.safetensors"
    refused(run("convert", published, out), out, "OUT must be a file in an existing folder")
