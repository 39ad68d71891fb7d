import csv
import json

import numpy as np
import pytest
import torch
from commands import one_sentence, run
from PIL import Image

from mrda.degradations.kernels import anisotropic_gaussian
from mrda.evaluation.methods import blind_method, mln_method
from mrda.evaluation.peers import Peer
from mrda.evaluation.protocols import conditions, evaluate
from mrda.evaluation.samples import Condition
from mrda.networks import MLN, MRDAStudent, MRDATeacher, save_network
from mrda.networks.prepared import PreparedRDAN
from mrda.upscale.upscaler import Upscaler

pytest.importorskip("matplotlib")

SMALL = {"scale": 2, "num_feat": 8, "num_blocks": 1, "den_width": 4}


@pytest.fixture
def folder(tmp_path, photo):
    folder = tmp_path / "SetA"
    folder.mkdir()
    photo.rename(folder / "a.png")
    levels = np.random.default_rng(1).integers(0, 256, (26, 33, 3), dtype=np.uint8)
    Image.fromarray(levels).save(folder / "b.png")
    return folder


@pytest.fixture(scope="module")
def networks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("networks")
    torch.manual_seed(0)
    for name, network in {
        "mln": MLN(scale=2, num_feat=6, num_body=1),
        "teacher": MRDATeacher(mln_feat=6, **SMALL),
        "static": MRDAStudent(conv_type="static", **SMALL),
        "x3": MLN(scale=3, num_feat=6, num_body=1),
    }.items():
        save_network(network, folder / f"{name}.safetensors", recipe=json.dumps({"meta.inner_lr": [0.5]}))
    return {path.stem: path for path in folder.iterdir()}


def rows_of(path):
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def is_picture(path):
    with Image.open(path) as picture:
        picture.load()
        return picture.format == "PNG"


def test_adaptation_draws_both_panels(tmp_path, folder, networks, weights):
    out = tmp_path / "f.png"
    mln, teacher = networks["mln"], networks["teacher"]
    arguments = [f"--mln=one={mln}", "--steps", 2, "--sweep", f"1={teacher}", f"0={teacher}", "--sweep-mln", mln]
    arguments += ["--students", f"1={weights}", "--protocol", "bicubic", "--data", folder, "-o", out]
    result = run("figures", "adaptation", *arguments, "--mln", f"two={mln}", f"three={mln}")
    assert result.exit_code == 0, result.stderr
    assert is_picture(out)
    means = [row for row in rows_of(tmp_path / "f.csv") if row["image"] == "(mean)"]
    assert [(row["panel"], row["series"], row["steps"]) for row in means] == [
        ("a", "bicubic interpolation", ""),
        *(("a", name, str(step)) for name in ("one", "two", "three") for step in range(3)),
        *(("b", "mrda_t", "0"), ("b", "mrda_t", "1"), ("b", "mrda_s", "1")),
    ]
    assert {row["inner_lr"] for row in means if row["series"] == "one"} == {"0.5"}


def test_adaptation_is_measured_as_evaluate_does(tmp_path, folder, networks):
    out = tmp_path / "f.png"
    result = run("figures", "adaptation", "--mln", f"m={networks['mln']}", "--steps", 1, "--inner-lr", "2,1",
                 "--data", folder, "-o", out)  # fmt: skip
    assert result.exit_code == 0, result.stderr
    torch.manual_seed(0)
    network = MLN(scale=2, num_feat=6, num_body=1)
    methods = {"1": mln_method(network, steps=1, inner_lr=(2.0, 1.0))}
    expected = list(evaluate(methods, sorted(folder.iterdir()), "gaussian8", 2))
    measured = {(row["series"], row["steps"], row["image"], row["condition"]): float(row["psnr_y"])
                for row in rows_of(tmp_path / "f.csv")}  # fmt: skip
    for one in expected:
        series = ("bicubic interpolation", "") if one.method == "bicubic" else ("m", "1")
        # Some pixel may be rounded the other way, in another memory format: see the tests of the library.
        assert measured[(*series, one.image, one.condition)] == pytest.approx(one.psnr_y, abs=1e-3)
    assert len(expected) == 2 * 8 * 2


def test_modulation_of_hr_and_of_lr(tmp_path, folder, weights):
    out = tmp_path / "f.png"
    for extra, sigma, size in (((), "", ("60", "48")), (("--sigma", 1.2), "1.2", ("30", "24"))):
        result = run("figures", "modulation", "-w", weights, folder / "a.png", folder / "b.png", *extra, "-o", out)
        assert result.exit_code == 0, result.stderr
        assert is_picture(out)
        rows = rows_of(tmp_path / "f.csv")
        assert [row["photo"] for row in rows] == ["a", "b"]
        assert (rows[0]["sigma"], (rows[0]["width"], rows[0]["height"])) == (sigma, size)
        assert all(bool(row["psnr_y"]) == bool(sigma) for row in rows)


def test_compare_with_peers(tmp_path, folder, weights, monkeypatch):
    def load_peers(paths, *, scale, taken, device):
        assert (scale, tuple(taken)) == (2, ("bicubic", "mrda_s"))
        return [Peer(path.stem, 2, lambda sample: sample.lr_up * 0.5) for path in paths]

    monkeypatch.setattr("mrda.evaluation.peers.load_peers", load_peers)
    out = tmp_path / "f.png"
    options = ("--kernel", "2,0.5,30", "--noise", 5, "--crop", "3,2,16")
    peers = [tmp_path / name for name in ("p.pth", "q.pth")]
    for path in peers:
        torch.save({}, path)
    asked = [word for path in peers for word in ("--peers", path)]
    result = run("figures", "compare", "-w", weights, *asked, folder, *options, "-o", out)
    assert result.exit_code == 0, result.stderr
    assert is_picture(out)
    condition = Condition("l1=2 l2=0.5 theta=30", anisotropic_gaussian(2.0, 0.5, np.pi / 6), 5.0)
    peer = {"p": lambda sample: sample.lr_up * 0.5}
    methods = {**peer, "q": peer["p"], "mrda_s": blind_method(Upscaler.from_pretrained(weights))}
    expected = list(evaluate(methods, sorted(folder.iterdir()), [condition], 2))
    rows = rows_of(tmp_path / "f.csv")
    assert [(row["photo"], row["method"], float(row["psnr_y"])) for row in rows] == [
        (one.image, one.method, one.psnr_y) for one in expected
    ]
    assert {(row["crop_x"], row["crop_y"], row["crop_size"], row["noise"]) for row in rows} == {("3", "2", "16", "5.0")}


@pytest.mark.parametrize("blur", [(), ("--sigma", 1.2)])
def test_compare_without_peers(tmp_path, folder, weights, blur):
    result = run("figures", "compare", "-w", weights, folder / "a.png", *blur, "-o", tmp_path / "f.png")
    assert result.exit_code == 0, result.stderr
    rows = rows_of(tmp_path / "f.csv")
    assert {row["condition"] for row in rows} == {"sigma=1.2" if blur else conditions("bicubic", 2)[0].name}
    assert [row["method"] for row in rows] == ["bicubic", "mrda_s"]


def test_large_photos_are_cropped_and_this_is_said(tmp_path, folder, weights, networks):
    out = tmp_path / "f.png"
    for command in (
        ("compare", "-w", weights, folder / "a.png"),
        ("modulation", "-w", weights, folder / "a.png"),
        ("adaptation", "--mln", f"m={networks['mln']}", "--protocol", "bicubic", "--data", folder),
    ):
        result = run("figures", *command, "--max-size", 24, "-o", out)
        assert result.exit_code == 0, result.stderr
        used = "12 x 12" if command[0] == "modulation" else "24 x 24"
        assert f"a.png is 30 x 24 pixels, of which the central {used} are used (--max-size 24" in result.stderr
        if command[0] != "adaptation":
            (row, *_) = rows_of(tmp_path / "f.csv")
            assert (row["width"], row["height"], row["cropped"]) == ("24", "24", "true")


@pytest.mark.parametrize("command", ["adaptation", "modulation", "compare"])
def test_what_fails_midway_is_one_sentence_and_leaves_nothing(tmp_path, folder, weights, networks, command):
    whole = (folder / "a.png").read_bytes()
    (folder / "a.png").write_bytes(whole[: len(whole) // 2])
    out = tmp_path / "f.png"
    arguments = ("-w", weights, folder)
    if command == "adaptation":
        arguments = ("--mln", f"m={networks['mln']}", "--data", folder)
    result = run("figures", command, *arguments, "-o", out)
    assert result.exit_code == 1
    assert one_sentence(result.stderr), result.stderr
    assert "a.png" in result.stderr
    assert not out.exists()
    assert not (tmp_path / "f.csv").exists()


def test_too_little_memory_is_said(tmp_path, folder, weights, monkeypatch):
    def too_much(*_, **__):
        raise torch.OutOfMemoryError("no")

    monkeypatch.setattr(PreparedRDAN, "__call__", too_much)
    result = run("figures", "compare", "-w", weights, folder, "-o", tmp_path / "f.png")
    assert result.exit_code == 1
    assert one_sentence(result.stderr)
    assert "--max-size" in result.stderr


def test_missing_matplotlib_is_said_before_the_work(tmp_path, folder, weights, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    result = run("figures", "compare", "-w", weights, folder, "-o", tmp_path / "f.png")
    assert result.exit_code == 2
    assert one_sentence(result.stderr)
    assert "mrda[figures]" in result.stderr


def test_wrong_usage_is_refused(tmp_path, folder, weights, networks):
    (tmp_path / "tiny").mkdir()
    Image.new("RGB", (9, 30)).save(tmp_path / "tiny" / "t.png")
    Image.new("RGB", (40, 40)).save(tmp_path / "a.png")
    out, mln, teacher = tmp_path / "f.png", networks["mln"], networks["teacher"]
    named = ("--mln", f"m={mln}")
    data = ("--data", folder)
    photo = folder / "a.png"
    student = ("-w", weights)
    cases = {
        "adaptation": [
            (data, "nothing to draw"),
            ((*named, "--data", tmp_path / "nowhere"), "--data must be a folder"),
            ((*named, "--data", tmp_path / "tiny"), "t.png is 9 x 30"),
            ((*data, "--mln", mln), "NAME=FILE"),
            ((*data, "--mln", "m="), "NAME=FILE"),
            ((*data, *named, f"m={mln}"), "given twice"),
            ((*data, "--mln", f"bicubic interpolation={mln}"), "dashed line"),
            ((*data, "--mln", "m=gone.safetensors"), "gone.safetensors"),
            ((*data, "--mln", f"m={weights}"), "must hold an MLN"),
            ((*data, *named, f"n={networks['x3']}"), "scales [2, 3]"),
            ((*data, *named, "--steps", -1), "--steps is -1"),
            ((*data, *named, "--protocol", "gaussian9"), "gaussian9"),
            ((*data, *named, "--inner-lr", "1e-2,x"), "--inner-lr"),
            ((*data, *named, "--inner-lr", "0"), "--inner-lr"),
            ((*data, *named, "--max-size", 8), "--max-size is 8"),
            ((*data, "--sweep", f"1={teacher}"), "--sweep-mln"),
            ((*data, *named, "--sweep-mln", mln), "--sweep"),
            ((*data, "--sweep", f"a={teacher}", "--sweep-mln", mln), "N=FILE"),
            ((*data, "--sweep", f"1={teacher}", f"01={teacher}", "--sweep-mln", mln), "given twice"),
            ((*data, "--sweep", f"1={mln}", "--sweep-mln", mln), "must hold an MRDATeacher"),
            ((*data, "--students", f"1={teacher}"), "must hold an MRDAStudent"),
        ],
        "modulation": [
            ((photo,), "-w WEIGHTS"),
            ((*student, "gone.png"), "gone.png"),
            (("-w", networks["static"], photo), "'static'"),
            (("-w", mln, photo), "MRDAStudent"),
            ((*student, photo, "--sigma", -1), "sigma"),
            ((*student, photo, "--sigma", "nan"), "sigma"),
            ((*student, tmp_path / "tiny", "--sigma", 1), "t.png is 9 x 30"),
            ((*student, photo, "--max-size", 1), "--max-size is 1"),
            ((*student, photo, tmp_path / "a.png"), "both named a"),
        ],
        "compare": [
            ((photo,), "-w WEIGHTS"),
            ((*student, "gone.png"), "gone.png"),
            (("-w", mln, photo), "MRDAStudent"),
            ((*student, photo, "--sigma", 1, "--kernel", "1,1,0"), "two blurs"),
            ((*student, photo, "--sigma", -1), "sigma"),
            ((*student, photo, "--kernel", "1,1"), "--kernel"),
            ((*student, photo, "--kernel", "1,-1,0"), "--kernel"),
            ((*student, photo, "--kernel", "1,1,inf"), "--kernel"),
            ((*student, photo, "--noise", -1), "--noise"),
            ((*student, photo, "--noise", "nan"), "--noise"),
            ((*student, photo, "--crop", "1,2"), "--crop"),
            ((*student, photo, "--crop", "1,2,0"), "--crop"),
            ((*student, photo, "--crop", "1.5,2,3"), "--crop"),
            ((*student, photo, "--max-size", 4), "--max-size is 4"),
            ((*student, photo, "--peers", "gone.pth"), "gone.pth"),
        ],
    }
    for command, arguments in cases.items():
        usable = {"adaptation": (*named, *data)}.get(command, (*student, photo))
        bad_outputs = [tmp_path / "f.jpg", tmp_path / "no" / "f.png", tmp_path / f"{'x' * 300}.png"]
        for words, word, output in (
            *((words, word, out) for words, word in arguments),
            *((usable, "-o", output) for output in bad_outputs),
        ):
            result = run("figures", command, *words, "-o", output)
            assert result.exit_code == 2, (command, words, result.output)
            assert one_sentence(result.stderr), result.stderr
            assert word in result.stderr, result.stderr
            assert not out.exists()


def test_crop_that_a_photo_has_no_room_for(tmp_path, folder, weights):
    result = run("figures", "compare", "-w", weights, folder, "--crop", "20,0,16", "-o", tmp_path / "f.png")
    assert result.exit_code == 1
    assert one_sentence(result.stderr)
    assert "x=20" in result.stderr
