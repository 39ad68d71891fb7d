import csv
import hashlib
import json

import numpy as np
import pytest
import torch
from commands import one_sentence, run
from PIL import Image
from vgg_weights import linear_state, publish, random_state, write

from mrda.degradations.quantize import quantize
from mrda.degradations.resample import bicubic
from mrda.evaluation import lpips
from mrda.evaluation.methods import mln_method, oracle_method, teacher_method
from mrda.evaluation.metrics import psnr_y
from mrda.evaluation.niqe import PristineModel, load_pristine, niqe, save_pristine
from mrda.evaluation.paper import paper_rows
from mrda.evaluation.protocols import conditions
from mrda.evaluation.protocols import evaluate as measure
from mrda.networks import MLN, MRDAOracle, MRDATeacher, save_network
from mrda.photo.images import read_rgb, to_array, to_tensor
from mrda.upscale.upscaler import Upscaler

SIZES = {"scale": 2, "num_feat": 8, "num_blocks": 1, "den_width": 4}
RECIPE = json.dumps({"adaptation.inner_steps": 1, "meta.inner_steps": 2, "meta.inner_lr": [0.05]})
BICUBIC = ("--method", "bicubic", "--protocol", "bicubic", "--scale", 2)


@pytest.fixture
def folder(tmp_path, photo):
    folder = tmp_path / "SetA"
    folder.mkdir()
    photo.rename(folder / photo.name)
    return folder


@pytest.fixture
def pairs(tmp_path):
    """Real pairs of the folder SetR at scale 2: a and b."""
    generator = np.random.default_rng(0)
    for kind, names, size in (("LR", "ab", 12), ("HR", "ab", 24)):
        (tmp_path / "SetR" / kind).mkdir(parents=True)
        for name in names:
            pixels = generator.integers(0, 256, (size, size, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "SetR" / kind / f"{name}.png")
    return tmp_path / "SetR"


@pytest.fixture(scope="module")
def networks(tmp_path_factory):
    """Weights files of a teacher, its MLN, and an oracle, and what is in them."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("networks")
    made = {
        "teacher": MRDATeacher(mln_feat=6, **SIZES),
        "mln": MLN(scale=2, num_feat=6, num_body=2),
        "oracle": MRDAOracle(**SIZES),
        "small": MRDAOracle(blur_size=7, **SIZES),
    }
    for name, network in made.items():
        save_network(network, folder / f"{name}.safetensors", recipe=RECIPE)
    return {name: (folder / f"{name}.safetensors", network) for name, network in made.items()}


def scores_of(path):
    return json.loads(path.read_text())["datasets"]


def test_evaluate_prints_a_table_and_writes_json(tmp_path, folder, weights):
    scores = tmp_path / "scores.json"
    result = run("evaluate", "-w", weights, "--data", folder, "--json", scores)
    assert result.exit_code == 0, result.stderr
    assert list(json.loads(scores.read_text())) == ["datasets"]
    datasets = scores_of(scores)
    assert list(datasets) == ["SetA"]
    assert list(datasets["SetA"]) == ["bicubic", "mrda_s"]
    for method, summary in datasets["SetA"].items():
        assert set(summary) == {"psnr_y", "ssim_y", "per_condition"}
        assert len(summary["per_condition"]) == 8
        assert "sigma=0.8" in summary["per_condition"]
        row = f"| SetA | {method} | {summary['psnr_y']:.2f} | {summary['ssim_y']:.4f} |"
        assert row in result.stdout


def test_evaluate_measures_what_the_upscaler_makes(tmp_path, folder, weights):
    scores = tmp_path / "scores.json"
    assert run("evaluate", "-w", weights, "--protocol", "bicubic", "--data", folder, "--json", scores).exit_code == 0
    hr = to_tensor(read_rgb(folder / "photo.png"))
    lr = ((255 * bicubic(hr, 0.5)).round().clamp(0, 255)) / 255
    sr = Upscaler.from_pretrained(weights)(lr)
    # The metric rounds SR to 8 bits; the same network on the same LR.
    assert scores_of(scores)["SetA"]["mrda_s"]["psnr_y"] == float(psnr_y(sr, hr, 2))


@pytest.mark.parametrize(("name", "label"), [("teacher", "mrda_t"), ("mln", "mln"), ("oracle", "mrda_t3")])
def test_the_method_follows_from_the_file(tmp_path, folder, networks, name, label):
    scores = tmp_path / "scores.json"
    path, network = networks[name]
    mln_path, mln = networks["mln"]
    more = ("--mln", mln_path) if name == "teacher" else ()
    arguments = ("-w", path, *more, "--data", folder, "--json", scores)
    result = run("evaluate", *arguments, "--method", label)
    assert result.exit_code == 0, result.stderr
    datasets = scores_of(scores)
    assert list(datasets["SetA"]) == ["bicubic", label]
    assert run("evaluate", *arguments).exit_code == 0
    assert scores_of(scores) == datasets
    method = {
        "teacher": lambda: teacher_method(network, mln, steps=1),
        "mln": lambda: mln_method(network, steps=2, inner_lr=[0.05]),
        "oracle": lambda: oracle_method(network),
    }[name]()
    expected = [
        record.psnr_y
        for record in measure({"ours": method}, [folder / "photo.png"], "gaussian8", 2)
        if record.method == "ours"
    ]
    found = [summary["psnr_y"] for summary in datasets["SetA"][label]["per_condition"].values()]
    # Channels-last convolutions sum in another order, so that a few of the 2160 values round to the next 8-bit level:
    # beside errors of some 60 levels, each moves the mean square by 120 in 2160 * 3600, which is less than 1e-4 dB.
    assert found == pytest.approx(expected, abs=1e-3)


def test_steps_of_adaptation_can_be_chosen(tmp_path, folder, networks):
    scores = tmp_path / "scores.json"
    path, mln = networks["mln"]
    for steps in (0, 3):
        result = run(
            "evaluate", "-w", path, "--steps", steps, "--protocol", "bicubic", "--data", folder, "--json", scores
        )
        assert result.exit_code == 0, result.stderr
        method = mln_method(mln, steps=steps, inner_lr=[0.05])
        expected = list(measure({"mln": method}, [folder / "photo.png"], "bicubic", 2))[1].psnr_y
        assert scores_of(scores)["SetA"]["mln"]["psnr_y"] == pytest.approx(expected, abs=1e-3)


def test_evaluate_bicubic_needs_no_weights(tmp_path, folder):
    scores = tmp_path / "scores.json"
    result = run(
        "evaluate", "--method", "bicubic", "--protocol", "bicubic", "--scale", 3, "--data", folder, "--json", scores
    )
    assert result.exit_code == 0, result.stderr
    assert list(scores_of(scores)["SetA"]) == ["bicubic"]


def test_evaluate_takes_several_folders(tmp_path, folder):
    other = tmp_path / "SetB"
    other.mkdir()
    Image.new("RGB", (40, 40), "red").save(other / "red.png")
    for arguments in (("--data", folder, other), ("--data", folder, "--data", other)):
        result = run("evaluate", *BICUBIC, *arguments)
        assert result.exit_code == 0, result.stderr
        assert "| SetA | bicubic |" in result.stdout
        assert "| SetB | bicubic |" in result.stdout


def test_the_csv_has_every_measurement_and_the_markdown_file_the_table(tmp_path, folder, weights):
    Image.linear_gradient("L").resize((40, 40)).save(folder / "ramp.png")
    lines, table, scores = tmp_path / "s.csv", tmp_path / "s.md", tmp_path / "s.json"
    files = ("--csv", lines, "--markdown", table, "--json", scores)
    result = run("evaluate", "-w", weights, "--data", folder, *files)
    assert result.exit_code == 0, result.stderr
    assert table.read_text() == result.stdout
    with open(lines, newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["dataset"], row["image"], row["condition"], row["method"]) for row in rows] == [
        ("SetA", image, condition.name, method)
        for image in ("photo", "ramp")
        for condition in conditions("gaussian8", 2)
        for method in ("bicubic", "mrda_s")
    ]
    for method, summary in scores_of(scores)["SetA"].items():
        mean = np.mean([float(row["psnr_y"]) for row in rows if row["method"] == method])
        assert summary["psnr_y"] == pytest.approx(mean, rel=1e-12)
    assert {path.name for path in tmp_path.iterdir()} == {"SetA", "s.csv", "s.md", "s.json"}


def test_the_papers_rows_stand_beside_ours(tmp_path, folder):
    folder = folder.rename(tmp_path / "set14")
    bicubic_alone = ("--method", "bicubic", "--data", folder)
    result = run("evaluate", *bicubic_alone)
    assert result.exit_code == 0, result.stderr
    for row in paper_rows("Set14", "gaussian8", 4):
        assert f"| set14 | {row.method} (paper) | {row.psnr_y:.2f} | {row.ssim_y:.4f} |" in result.stdout
    result = run("evaluate", *bicubic_alone, "--protocol", "mrda9", "--noise", 20)
    assert result.exit_code == 0, result.stderr
    assert "| set14 | MRDA_S (paper) | 20 | 24.66 | - |" in result.stdout
    assert "| set14 | MRDA_S (paper) | 20 | 24.71 | 24.79 |" in result.stdout
    assert "inferred" in result.stdout
    assert "(paper)" not in run("evaluate", *bicubic_alone, "--scale", 2).stdout


def test_noise_levels_are_chosen_and_seeded(tmp_path, folder):
    scores = tmp_path / "scores.json"

    def measured(*arguments):
        base = ("--method", "bicubic", "--scale", 2, "--protocol", "dasr9", "--data", folder, "--json", scores)
        result = run("evaluate", *base, *arguments)
        assert result.exit_code == 0, result.stderr
        return scores_of(scores)["SetA"]["bicubic"]["per_condition"]

    everything = measured()
    assert len(everything) == 27
    some = measured("--noise", 10, "--noise", 0)
    assert some == {name: value for name, value in everything.items() if not name.endswith("noise=5")}
    assert len(some) == 18
    other = measured("--seed", 1)
    assert all((other[name] == everything[name]) == name.endswith("noise=0") for name in everything)


def test_options_reach_the_measurement(tmp_path, folder):
    scores = tmp_path / "scores.json"
    for options, words in (
        ({"downsample": "sfold"}, ("--downsample", "sfold")),
        ({"border": "mirror"}, ("--border", "mirror")),
        ({"variant": "matlab"}, ("--variant", "matlab")),
    ):
        assert run("evaluate", *BICUBIC, "--data", folder, "--json", scores, *words).exit_code == 0
        (record,) = measure({}, [folder / "photo.png"], "bicubic", 2, **options)
        found = scores_of(scores)["SetA"]["bicubic"]
        assert (found["psnr_y"], found["ssim_y"]) == (record.psnr_y, record.ssim_y)
        (plain,) = measure({}, [folder / "photo.png"], "bicubic", 2)
        assert record != plain


def test_photos_of_one_stem_have_rows_of_their_own(tmp_path):
    folder, table = tmp_path / "set", tmp_path / "a.csv"
    folder.mkdir()
    for name, level in (("I.jpg", 40), ("I.jpeg", 90), ("b.png", 200)):
        picture = np.full((32, 32, 3), level, np.uint8)
        picture[::3] = 0
        Image.fromarray(picture).save(folder / name)
    for protocol in ("bicubic", "unpaired"):
        more = ["-o", tmp_path / "pictures"] if protocol == "unpaired" else []
        command = ["evaluate", "--method", "bicubic", "--protocol", protocol, "--data", folder, "--csv", table, *more]
        result = run(*command)
        assert result.exit_code == 0, result.stderr
        assert [line.split(",")[1] for line in table.read_text().splitlines()[1:]] == ["I.jpeg", "I.jpg", "b"]
    pictures = tmp_path / "pictures" / "set" / "bicubic"
    assert sorted(path.name for path in pictures.iterdir()) == ["I.jpeg.png", "I.jpg.png", "b.png"]


def test_a_limit_takes_the_first_photos_and_is_told(tmp_path, folder):
    for name in ("a", "b"):
        Image.new("RGB", (30, 30), "red").save(folder / f"{name}.png")
    lines = tmp_path / "s.csv"
    result = run("evaluate", *BICUBIC, "--data", folder, "--limit", 2, "--csv", lines)
    assert result.exit_code == 0, result.stderr
    assert [line.split(",")[1] for line in lines.read_text().splitlines()] == ["image", "a", "b"]
    assert "SetA: means over 2 of 3 photos." in result.stdout
    assert "means over" not in run("evaluate", *BICUBIC, "--data", folder, "--limit", 3).stdout


def test_real_pairs(tmp_path, pairs, weights, networks):
    scores = tmp_path / "scores.json"
    real = ("--protocol", "real", "--data", pairs, "--json", scores)
    result = run("evaluate", "-w", weights, *real)
    assert result.exit_code == 0, result.stderr
    datasets = scores_of(scores)
    assert list(datasets["SetR"]) == ["bicubic", "mrda_s"]
    expected = []
    for name in "ab":
        lr, hr = (to_tensor(read_rgb(pairs / kind / f"{name}.png")) for kind in ("LR", "HR"))
        expected.append(float(psnr_y(bicubic(lr, 2), hr, 4, "matlab")))
    assert datasets["SetR"]["bicubic"]["per_condition"]["real"]["psnr_y"] == pytest.approx(np.mean(expected), abs=1e-9)
    for more, label in (
        (("-w", networks["mln"][0]), "mln"),
        (("-w", networks["teacher"][0], "--mln", networks["mln"][0]), "mrda_t"),
    ):
        assert run("evaluate", *more, *real).exit_code == 0
        assert list(scores_of(scores)["SetR"]) == ["bicubic", label]
    Image.new("RGB", (23, 24)).save(pairs / "HR" / "a.png")
    result = run("evaluate", "-w", weights, *real)
    assert result.exit_code == 1
    assert one_sentence(result.stderr)
    assert "23x24 pixels, but must be 24x24" in result.stderr
    assert "SetR: means over 1 of 2 photos." in result.stdout


def test_div2krk(tmp_path, pairs, weights):
    whole = tmp_path / "DIV2KRK"
    (pairs / "LR").rename(pairs / "lr_x2")
    (pairs / "HR").rename(pairs / "gt")
    pairs.rename(whole)
    for letter, number in (("a", 1), ("b", 10)):
        (whole / "lr_x2" / f"{letter}.png").rename(whole / "lr_x2" / f"im_{number}.png")
        (whole / "gt" / f"{letter}.png").rename(whole / "gt" / f"img_{number}_gt.png")
    (whole / "gt_k_x2").mkdir()
    scores, lines = tmp_path / "scores.json", tmp_path / "lines.csv"
    arguments = ("-w", weights, "--protocol", "div2krk", "--data", whole, "--json", scores, "--csv", lines)
    result = run("evaluate", *arguments)
    assert result.exit_code == 0, result.output
    assert "DANv2 (DAN's paper)" in result.stdout
    hr = to_tensor(read_rgb(whole / "gt" / "img_10_gt.png"))
    sr = bicubic(to_tensor(read_rgb(whole / "lr_x2" / "im_10.png")), 2)
    found = next(row for row in csv.DictReader(lines.open()) if row["image"] == "10" and row["method"] == "bicubic")
    assert float(found["psnr_y"]) == pytest.approx(float(psnr_y(sr, hr, 2, "matlab")), abs=1e-9)  # two pixels left out
    assert json.loads(scores.read_text())["datasets"]["DIV2KRK"]["bicubic"]["per_condition"].keys() == {"div2krk"}


def test_what_the_idr_is_worth(folder, weights):
    base = ("evaluate", "-w", weights, "--data", folder, "--protocol", "gaussian8", "--limit", 1)
    result = run(*base, "--idr", "own", "--idr", "mean", "--idr", "other")
    assert result.exit_code == 0, result.output
    for idr in ("mean", "other"):
        assert f"mrda_s, IDR {idr}" in result.stdout
        assert f"SetA: with the {idr} IDR in place of each photo's own, mrda_s loses" in result.stdout.replace(
            "\n", " "
        )


def test_lpips_of_real_pairs(tmp_path, pairs, monkeypatch):
    torch.save(linear_state(), tmp_path / "linear.pth")
    vgg16, checksum = write(tmp_path, "vgg16", random_state("vgg16"))
    publish(monkeypatch, "vgg16", checksum)
    digest = hashlib.sha256((tmp_path / "linear.pth").read_bytes()).hexdigest()
    monkeypatch.setattr(lpips, "LINEAR_WEIGHTS", lpips.LINEAR_WEIGHTS._replace(sha256=digest[:8]))
    scores, lines = tmp_path / "scores.json", tmp_path / "s.csv"
    folder = pairs.rename(tmp_path / "NTIRE2020-T1")
    base = ("--method", "bicubic", "--protocol", "real", "--data", folder, "--json", scores, "--csv", lines)
    files = ("--lpips", "--vgg16", vgg16, "--lpips-linear", tmp_path / "linear.pth")
    result = run("evaluate", *base, *files, "--scale", 2)
    assert result.exit_code == 0, result.stderr
    metric = lpips.LPIPS(vgg16, tmp_path / "linear.pth")
    expected = []
    for name in "ab":
        lr, hr = (to_tensor(read_rgb(folder / kind / f"{name}.png")) for kind in ("LR", "HR"))
        expected.append(float(metric(quantize(bicubic(lr, 2)), hr)))
    found = scores_of(scores)["NTIRE2020-T1"]["bicubic"]
    assert found["lpips"] == found["per_condition"]["real"]["lpips"] == pytest.approx(np.mean(expected), rel=1e-6)
    assert lines.read_text().startswith("dataset,image,condition,method,psnr_y,ssim_y,lpips\n")
    assert f"| {found['ssim_y']:.4f} | {found['lpips']:.4f} |" in result.stdout


def test_without_lpips_weights_the_user_is_told_where_they_are(tmp_path, pairs, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    monkeypatch.setattr(lpips.importlib.util, "find_spec", lambda name: None)
    result = run("evaluate", *BICUBIC[:2], "--protocol", "real", "--scale", 2, "--data", pairs, "--lpips")
    assert result.exit_code == 2
    assert one_sentence(result.stderr)
    for words in (lpips.LINEAR_WEIGHTS.url, str(tmp_path / "hub" / "checkpoints")):
        assert words in result.stderr


def test_photos_without_hr(tmp_path, weights, networks):
    model = tmp_path / "model.npz"
    save_pristine(PristineModel(torch.zeros(36).double(), torch.eye(36).double()), model)
    for name, size in (("SetA", 100), ("SetB", 96)):
        (tmp_path / name).mkdir()
        Image.effect_noise((size, size), 60).save(tmp_path / name / "noise.png")
    output, files = tmp_path / "out" / "deep", [tmp_path / f"s.{kind}" for kind in ("json", "csv", "md")]
    folders = ("--data", tmp_path / "SetA", tmp_path / "SetB", "-o", output, "--protocol", "unpaired")
    tables = [
        word for kind, file in zip(("--json", "--csv", "--markdown"), files, strict=True) for word in (kind, file)
    ]
    result = run("evaluate", "-w", weights, *folders, "--niqe", model, *tables)
    assert result.exit_code == 0, result.stderr
    with open(files[1], newline="") as file:
        rows = list(csv.DictReader(file))
    upscaler, loaded = Upscaler.from_pretrained(weights), load_pristine(model)
    for row, (folder, method) in zip(
        rows, [(folder, method) for folder in ("SetA", "SetB") for method in ("bicubic", "mrda_s")], strict=True
    ):
        assert (row["dataset"], row["image"], row["method"]) == (folder, "noise", method)
        lr = to_tensor(read_rgb(tmp_path / folder / "noise.png"))
        sr = bicubic(lr, 2) if method == "bicubic" else upscaler(lr)
        picture = read_rgb(output / folder / method / "noise.png")
        assert np.array_equal(picture, to_array(sr))
        assert float(row["niqe"]) == float(niqe(to_tensor(picture), loaded))
        summary = scores_of(files[0])[folder][method]
        assert summary == {"niqe": float(row["niqe"]), "per_image": {"noise": float(row["niqe"])}}
        assert f"| {folder} | {method} | 1 | {float(row['niqe']):.4f} |" in result.stdout
    assert files[2].read_text() == result.stdout
    result = run("evaluate", *BICUBIC[:2], *folders)
    assert result.exit_code == 0, result.stderr
    assert "| SetA | bicubic | 1 | - |" in result.stdout


def test_photos_without_hr_that_fail_are_told(tmp_path):
    model = tmp_path / "model.npz"
    save_pristine(PristineModel(torch.zeros(36).double(), torch.eye(36).double()), model)
    (tmp_path / "SetA").mkdir()
    Image.effect_noise((60, 30), 60).save(tmp_path / "SetA" / "a.png")
    Image.effect_noise((30, 15), 60).save(tmp_path / "SetA" / "small.png")
    (tmp_path / "SetA" / "z.png").write_text("milk")
    base = ("evaluate", *BICUBIC[:2], "--data", tmp_path / "SetA", "-o", tmp_path / "out", "--protocol", "unpaired")
    result = run(*base, "--niqe", model)
    assert result.exit_code == 1
    small, bad = result.stderr.splitlines()
    assert "small.png: image is 120x60 pixels, but NIQE requires at least 96x96" in small
    assert "z.png: it is not an image" in bad
    assert "SetA: 1 of 3 photos." in result.stdout
    assert run(*base, "--niqe", model, "--limit", 1).exit_code == 0


def test_evaluate_does_the_others_when_photos_fail(tmp_path, folder):
    (folder / "bad.png").write_text("milk, bread\n")
    Image.new("RGB", (8, 8)).save(folder / "small.png")
    result = run("evaluate", "--method", "bicubic", "--scale", 2, "--data", folder)
    assert result.exit_code == 1
    lines = result.stderr.splitlines()
    assert len(lines) == 2
    assert "bad.png" in lines[0]
    assert "small.png" in lines[1]
    assert "| SetA | bicubic |" in result.stdout
    assert "SetA: means over 1 of 3 photos." in result.stdout


def test_a_photo_that_fails_halfway_does_not_count(tmp_path, folder, monkeypatch):
    from mrda.evaluation import protocols

    Image.new("RGB", (40, 40), "red").save(folder / "red.png")
    make = protocols.make_sample

    def failing(hr, condition, *rest, image, **options):
        if (image, condition.name) == ("photo", "sigma=1.029"):
            raise ValueError("no luck")
        return make(hr, condition, *rest, image=image, **options)

    monkeypatch.setattr(protocols, "make_sample", failing)
    lines = tmp_path / "s.csv"
    result = run("evaluate", "--method", "bicubic", "--scale", 2, "--data", folder, "--csv", lines)
    assert result.exit_code == 1
    assert result.stderr == f"mrda: {folder / 'photo.png'}: no luck\n"
    assert {line.split(",")[1] for line in lines.read_text().splitlines()} == {"image", "red"}


def test_running_out_of_memory_is_reported(folder, monkeypatch):
    from mrda.evaluation import protocols

    def failing(*_, **__):
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(protocols, "make_sample", failing)
    result = run("evaluate", *BICUBIC, "--data", folder)
    assert result.exit_code == 1
    assert one_sentence(result.stderr)
    assert "photo.png: there is not enough memory" in result.stderr


def test_evaluate_refuses_wrong_usage(tmp_path, folder, pairs, weights, networks):
    same_name = tmp_path / "other" / "SetA"
    same_name.mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(same_name / "a.png")
    lonely = tmp_path / "lonely"
    for kind, name in (("LR", "a"), ("HR", "a"), ("HR", "b")):
        (lonely / kind).mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(lonely / kind / f"{name}.png")
    teacher, mln, oracle, small = (networks[name][0] for name in ("teacher", "mln", "oracle", "small"))
    data = ("--data", folder)
    student = (*data, "-w", weights)
    bicubic_alone = (*data, "--method", "bicubic")
    real = ("--data", pairs, "--protocol", "real", "--scale", 2, "--method", "bicubic")
    unpaired = ("--protocol", "unpaired", "-o", tmp_path / "new")
    for arguments, word in (
        ((*data,), "-w WEIGHTS"),
        ((*data, "--method", "mrda_t"), "-w WEIGHTS"),
        ((*data, "-w", tmp_path / "gone.safetensors"), "gone.safetensors"),
        ((*student, "--scale", 4), "--scale is 4"),
        ((*student, "--scale", 0), "--scale is 0"),
        ((*student, "--method", "lanczos"), "lanczos"),
        ((*student, "--method", "mrda_t"), "--method is mrda_t"),
        ((*student, "--method", "mln"), "holds the network of mrda_s"),
        ((*student, "--method", "bicubic"), "no weights"),
        ((*student, "--mln", mln), "only a teacher uses an MLN"),
        ((*student, "--steps", 3), "steps is 3"),
        (
            (*student, "--protocol", "gaussian9"),
            "--protocol is 'gaussian9', but must be one of gaussian8, mrda9, dasr9, dasr-iso, wide, bicubic, real, ",
        ),
        ((*student, "--noise", 10), "gaussian8 has no noise levels"),
        ((*student, "--protocol", "mrda9", "--noise", 5), "noise is 5"),
        ((*student, "--downsample", "nearest"), "--downsample is 'nearest', but must be bicubic or sfold"),
        ((*student, "--border", "wrap"), "--border is 'wrap', but must be clamp or mirror"),
        ((*student, "--variant", "rec709"), "--variant is 'rec709', but must be released or matlab"),
        ((*student, "--limit", 0), "--limit is 0"),
        ((*data, "-w", teacher), "mln is missing"),
        ((*data, "-w", teacher, "--mln", weights), "holds an MRDAStudent"),
        ((*data, "-w", mln, "--steps", -1), "steps is -1"),
        ((*data, "-w", small), "blur kernels of 7x7, but those of the protocol are 21x21"),
        ((*bicubic_alone, "--scale", 5), "5"),
        ((*bicubic_alone, "--scale", 0), "scale is 0"),
        ((*bicubic_alone, "--mln", mln), "--mln"),
        ((*bicubic_alone, "--steps", 3), "--steps"),
        ((*bicubic_alone, "--json", tmp_path / "no" / "s.json"), "--json"),
        ((*bicubic_alone, "--json", tmp_path / ("x" * 300)), "--json"),
        ((*bicubic_alone, "--csv", tmp_path / "no" / "s.csv"), "--csv"),
        ((*bicubic_alone, "--csv", tmp_path), "--csv"),
        ((*bicubic_alone, "--markdown", tmp_path / "no" / "s.md"), "--markdown"),
        ((*bicubic_alone, "--json", tmp_path / "s", "--csv", folder / ".." / "s"), "--csv and --json are the same"),
        (("--data", "x" * 300, "--method", "bicubic"), "xxx"),
        ((*data, same_name, "--method", "bicubic"), "SetA"),
        (("--data", tmp_path / "nowhere", "--method", "bicubic"), "nowhere"),
        ((*real, "--noise", 10), "--noise can't be used with --protocol real"),
        ((*real, "--downsample", "bicubic"), "--downsample can't be used with --protocol real"),
        ((*real, "--idr", "mean"), "--idr can't be used with --protocol real"),
        ((*data, "-w", weights, "--idr", "none"), "--idr is 'none', but must be one of own, mean, other"),
        ((*bicubic_alone, "--idr", "mean"), "--idr requires -w with a network that reads the degradation from LR"),
        ((*data, *real[2:]), "must hold the folder LR"),
        (("--data", lonely, *real[2:]), "b.png has no counterpart named b in the LR folder"),
        (("--data", pairs, "--protocol", "real", "-w", oracle), "requires the blur kernel"),
        ((*bicubic_alone, "--lpips"), "--lpips can only be used with --protocol real"),
        ((*real, "--vgg16", mln), "--vgg16 can only be used with --lpips"),
        ((*real, "--lpips", "--lpips-linear", tmp_path / "gone"), "gone"),
        ((*real, "-o", tmp_path / "new"), "--output can only be used with --protocol unpaired"),
        ((*real, "--niqe", mln), "--niqe can only be used with --protocol unpaired"),
        ((*bicubic_alone, *unpaired[:2]), "requires -o DIR, a folder for the pictures"),
        ((*bicubic_alone, *unpaired, "--niqe", tmp_path / "gone.npz"), "no pristine model"),
        ((*bicubic_alone, *unpaired, "--niqe", mln), "can't be read"),
        ((*bicubic_alone, *unpaired, "--noise", 10), "--noise can't be used with --protocol unpaired"),
        ((*bicubic_alone, *unpaired, "--variant", "matlab"), "--variant can't be used with --protocol unpaired"),
        ((*bicubic_alone, *unpaired[:2], "-o", weights), "can't be created"),
        ((*data, "-w", mln, *unpaired), "must adapt to HR"),
        ((*data, "-w", teacher, "--mln", mln, *unpaired), "must adapt to HR"),
        ((*data, "-w", oracle, *unpaired), "requires the blur kernel"),
    ):
        result = run("evaluate", *arguments)
        assert result.exit_code == 2, (arguments, result.output)
        assert one_sentence(result.stderr), result.stderr
        assert word in result.stderr, (arguments, result.stderr)
    assert not list(tmp_path.glob("*s"))
    assert not (tmp_path / "new").exists()
