"""Weights between two files: exact at both ends, on the line in between, and never for weights without a partner."""

import hashlib

import numpy as np
import pytest
import torch
from commands import one_sentence, photo, refused, rgb, run, weights  # noqa: F401 (fixtures)
from PIL import Image
from safetensors.torch import load_file

import mrda.upscale.weights
from mrda.networks import DASR, MRDAStudent, MRDATeacher, read_metadata, save_network
from mrda.upscale.manifest import origin
from mrda.upscale.results import Results
from mrda.upscale.strength import between, check_strength, load_between, pair_of
from mrda.upscale.upscaler import Upscaler
from mrda.upscale.weights import PARTNERS, SUPERSEDED

TINY = {"scale": 2, "num_feat": 8, "num_blocks": 1, "den_width": 4}


def student(seed, **others):
    torch.manual_seed(seed)
    network = MRDAStudent(**TINY | others)
    for parameter in network.rdan.parameters():  # signed zeros, which no sum with the other's value keeps
        values = parameter.data.view(-1)
        values[0], values[-1] = (-0.0, 1.0) if seed % 2 == 0 else (1.0, -0.0)
    return network.half()


@pytest.fixture
def shipped(tmp_path, monkeypatch):
    """Puts networks in place of the package's weights: the pair clean and real, and alone."""
    folder = tmp_path / "shipped"
    folder.mkdir()
    monkeypatch.setattr(mrda.upscale.weights, "BUNDLED_FOLDER", folder)
    for name in list(PARTNERS):
        monkeypatch.delitem(PARTNERS, name)
    monkeypatch.setitem(PARTNERS, "clean", "real")

    def ship(name, network, **metadata):
        path = folder / f"{name}.safetensors"
        save_network(network, path, **metadata)
        monkeypatch.setitem(mrda.upscale.weights.BUNDLED, name, hashlib.sha256(path.read_bytes()).hexdigest())
        return path

    files = {"alone": ship("alone", student(2))}
    files["clean"] = ship("clean", student(0), license="A", data="x", stage="student", ancestor="1", step="7")
    files["real"] = ship("real", student(1), license="B", data="x", stage="student", ancestor="1", step="9")
    return ship, files


def bits(state):
    """The values as whole numbers, which tell -0 from 0."""
    return {key: value.float().view(torch.int32) for key, value in state.items()}


@pytest.mark.parametrize(("strength", "end"), [(0, "clean"), (0.0, "clean"), (1, "real"), (1.0, "real")])
@pytest.mark.parametrize("asked", ["clean", "real"])
def test_the_ends_are_the_files_to_the_bit(shipped, strength, end, asked):
    network, metadata = load_between(asked, strength)
    kept = bits(load_file(shipped[1][end]))
    for key, value in bits(network.state_dict()).items():
        assert torch.equal(value, kept[key]), key
    assert metadata == {k: v for k, v in read_metadata(shipped[1][end]).items() if k in metadata}
    assert metadata["step"] == {"clean": "7", "real": "9"}[end]


@pytest.mark.parametrize("strength", [0.25, 0.3, 0.9])
def test_in_between_each_value_is_on_the_line(shipped, strength):
    network, metadata = load_between("clean", strength)
    clean, real = (load_file(shipped[1][name]) for name in ("clean", "real"))
    moved = 0
    for key, value in network.state_dict().items():
        expected = (1 - strength) * clean[key].double().numpy() + strength * real[key].double().numpy()
        np.testing.assert_array_equal(value.numpy(), expected.astype(np.float32))
        same = (clean[key] == real[key]).numpy()
        np.testing.assert_array_equal(value.numpy()[same], clean[key].float().numpy()[same])
        moved += int((~same).sum())
    assert moved > 1000
    assert (metadata["license"], metadata["data"], metadata["stage"]) == ("A AND B", "x", "student")
    assert "step" not in metadata
    assert metadata["strength"] == f"{strength:g}, from clean to real"


def test_an_upscaler_has_the_strength_and_says_so_in_what_it_saves(shipped, tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (9, 8, 3), dtype=np.uint8)
    upscaler = Upscaler.from_pretrained("clean", device="cpu", strength=0.5)
    by_hand = between(*(Upscaler.from_pretrained(name, device="cpu").network for name in ("clean", "real")), 0.5)
    expected = Upscaler(by_hand, device="cpu")(image)
    np.testing.assert_array_equal(upscaler(image), expected)
    assert not np.array_equal(expected, Upscaler.from_pretrained("clean", device="cpu")(image))
    upscaler.save_pretrained(tmp_path / "half")
    again = Upscaler.from_pretrained(tmp_path / "half", device="cpu")
    np.testing.assert_array_equal(again(image), expected)
    assert read_metadata(tmp_path / "half" / "model.safetensors")["strength"] == "0.5, from clean to real"


@pytest.mark.parametrize("strength", [-0.01, 1.5, float("nan"), float("inf")])
def test_a_strength_outside_of_its_range_is_refused(shipped, strength):
    for function in (load_between, check_strength):
        with pytest.raises(ValueError, match=r"strength is .*, but must be from 0 to 1$"):
            function("clean", strength)
    with pytest.raises(ValueError, match="must be from 0 to 1"):
        between(student(0), student(1), strength)


def test_weights_without_a_partner_are_refused(shipped, tmp_path, monkeypatch):
    assert pair_of("real") == pair_of("clean") == ("clean", "real")
    for name in ("alone", shipped[1]["clean"], "unknown"):
        assert pair_of(name) is None
        with pytest.raises(ValueError, match=r"strength is for weights with a partner.* leave it out.*-w clean"):
            Upscaler.from_pretrained(name, strength=0.5)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "clean").write_bytes(shipped[1]["alone"].read_bytes())
    assert pair_of("clean") is None  # a file of that name comes first, as in find_weights
    monkeypatch.delitem(PARTNERS, "clean")
    with pytest.raises(ValueError, match="no weights of the package have one yet"):
        check_strength("real", 0.5)


@pytest.mark.parametrize(
    ("other", "metadata", "words"),
    [
        (student(1, num_blocks=2), {}, r"differ in num_blocks \(1 and 2\)"),
        (MRDATeacher(**TINY, mln_feat=2), {}, "a MRDAStudent and a MRDATeacher, but must be students of one kind"),
        (student(1), {"ancestor": "2"}, "trained from different weights"),
    ],
)
@pytest.mark.parametrize("strength", [0, 0.5, 1])
def test_what_is_no_pair_is_refused_at_any_strength(shipped, other, metadata, words, strength):
    shipped[0]("real", other, **metadata)
    with pytest.raises(ValueError, match=rf"nothing between the weights clean and real: .*{words}") as raised:
        load_between("clean", strength)
    assert "\n" not in str(raised.value)


def test_a_missing_partner_is_told(shipped):
    shipped[1]["real"].unlink()
    with pytest.raises(ValueError, match="the weights real of this package can't be read"):
        load_between("clean", 0.5)


def test_networks_of_other_kinds_have_nothing_between_them():
    with pytest.raises(ValueError, match="nothing between the networks"):
        between(student(0), DASR(scale=2), 0.5)


def test_the_command_upscales_at_a_strength_and_does_not_mix_two(shipped, tmp_path, photo, rgb):  # noqa: F811
    out, manifest = tmp_path / "out", tmp_path / "done.jsonl"

    def upscaled(*more):
        result = run("upscale", photo, "-o", out, "-w", "clean", "--device", "cpu", "--manifest", manifest, *more)
        assert result.exit_code == 0, result.stderr
        with Image.open(out / "photo_x2.png") as image:
            return "1 skipped" in result.stdout, np.asarray(image)

    for strength in (0.25, 0.75):
        skipped, image = upscaled("--strength", strength)
        assert not skipped
        expected = Upscaler.from_pretrained("clean", device="cpu", strength=strength)(rgb)
        np.testing.assert_array_equal(image, expected)
    assert upscaled("--strength", 0.75)[0]
    assert not upscaled()[0]
    assert upscaled("--strength", 0)[0]  # the same weights, to the bit
    origins = [origin(Upscaler.from_pretrained("clean", device="cpu", strength=s))["weights"] for s in (0, 0.5, 0.51)]
    assert len(set(origins)) == 3


def test_a_run_on_a_cluster_refuses_results_of_another_strength(shipped, tmp_path):
    first, second = (origin(Upscaler.from_pretrained("clean", device="cpu", strength=s)) for s in (0.25, 0.5))
    Results(tmp_path).record(first)
    Results(tmp_path).check(first, [], False)
    with pytest.raises(ValueError, match=r"results of other weights, strength or scale \(.mrda-run.json says so\)"):
        Results(tmp_path).check(second, [], False)


def test_the_commands_refuse_in_a_sentence(shipped, tmp_path, photo, monkeypatch):  # noqa: F811
    out = tmp_path / "out"
    called = ("upscale", photo, "-o", out)
    refused(run(*called, "-w", "alone", "--strength", 0.5), out, "--strength is for weights with a partner, and alone")
    refused(run(*called, "-w", "clean", "--strength", 1.5), out, "--strength is 1.5, but must be from 0 to 1")
    refused(run(*called, "-w", "clean", "--strength", "nan"), out, "--strength is nan, but must be from 0 to 1")
    refused(
        run(*called, "--strength", 0.5), out, "without -w the weights depend on the photo: name them, such as -w clean"
    )
    monkeypatch.delitem(PARTNERS, "clean")
    refused(run(*called, "--strength", 0.5), out, "no weights of the package have one yet")
    result = run("frames", "--size", "4x4", "-w", "alone", "--strength", 0.5)
    assert (result.exit_code, one_sentence(result.stderr)) == (2, True)


def test_graphs_are_exported_at_a_strength(shipped, tmp_path, monkeypatch):
    pytest.importorskip("onnx")
    got = []
    monkeypatch.setattr("mrda.export.export_student", lambda network, *_, **o: got.append((network, o)) or 0.0)
    result = run("export", "-w", "real", "--strength", 0.25, "-o", tmp_path / "graphs")
    assert result.exit_code == 0, result.stderr
    ((network, options),) = got
    expected = load_between("clean", 0.25)[0].state_dict()
    assert all(torch.equal(value, expected[key]) for key, value in network.state_dict().items())
    assert options["metadata"]["strength"] == "0.25, from clean to real"
    refused(run("export", "-w", "alone", "--strength", 0.25, "-o", tmp_path / "none"), tmp_path / "none", "partner")


def test_a_former_name_finds_its_successor_and_its_pair(shipped, monkeypatch, caplog):
    monkeypatch.setitem(SUPERSEDED, "former", "clean")
    mrda.upscale.weights._tell_superseded.cache_clear()
    for _ in range(2):
        assert mrda.upscale.weights.find_weights("former") == shipped[1]["clean"]
    assert pair_of("former") == ("clean", "real")
    assert [record.getMessage() for record in caplog.records] == [
        "the weights former are superseded by clean, which are used instead: name those from now on"
    ]


def test_pairs_of_the_package_are_pairs_of_its_weights():
    for pair in PARTNERS.items():
        assert set(pair) <= set(mrda.upscale.weights.BUNDLED)
        assert load_between(pair[0], 0.5)
    for former, current in SUPERSEDED.items():
        assert former not in mrda.upscale.weights.BUNDLED
        assert current in mrda.upscale.weights.BUNDLED
