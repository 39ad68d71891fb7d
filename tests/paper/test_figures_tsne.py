import csv
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from mrda.degradations import isotropic_gaussian
from mrda.evaluation.protocols import isotropic_conditions
from mrda.evaluation.samples import Condition, make_sample
from mrda.networks import MLN, MRDAOracle, MRDAStudent, MRDATeacher, adaptation, save_network
from mrda.paper.figures.dasr import DASREncoder, load_dasr_encoder
from mrda.paper.figures.tsne import (
    HEADER,
    embed,
    load_representation,
    representations,
    require_sklearn,
    save_tsne,
)
from mrda.photo.images import read_rgb, to_tensor

SIZES = {"scale": 2, "num_feat": 8, "num_blocks": 1, "den_width": 4}


@pytest.fixture
def photos(tmp_path: Path) -> list[Path]:
    paths = []
    for number in range(3):
        levels = np.random.default_rng(number).integers(0, 256, (24, 30, 3), dtype=np.uint8)
        paths.append(tmp_path / f"{number}.png")
        Image.fromarray(levels).save(paths[-1])
    return paths


@pytest.fixture
def student(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    save_network(MRDAStudent(**SIZES), tmp_path / "student.safetensors")
    return tmp_path / "student.safetensors"


def the_sample(photo: Path, sigma: float, **options: float):
    condition = Condition(f"sigma={sigma:g}", isotropic_gaussian(sigma), **options)
    return make_sample(to_tensor(read_rgb(photo)), condition, 2, image=photo.stem)


def test_a_student_is_represented_by_its_raw_idr(student, photos):
    network = MRDAStudent(**SIZES)
    from safetensors.torch import load_file

    network.load_state_dict(load_file(student))
    scale, represent, adapts = load_representation(student)
    sample = the_sample(photos[0], 1.6)
    assert (scale, adapts) == (2, False)
    with torch.no_grad():
        torch.testing.assert_close(represent(sample), network.degradation(sample.lr)[0], rtol=0, atol=0)


def test_a_teacher_is_represented_after_the_adaptation_that_its_file_records(tmp_path, photos):
    torch.manual_seed(1)
    mln, teacher = MLN(scale=2, num_feat=6, num_body=1), MRDATeacher(mln_feat=6, **SIZES)
    save_network(mln, tmp_path / "mln.safetensors")
    recipe = '{"adaptation.inner_steps": 2, "adaptation.inner_lr": [0.5], "freeze_upscaler": "none"}'
    save_network(teacher, tmp_path / "teacher.safetensors", recipe=recipe)
    _, represent, adapts = load_representation(tmp_path / "teacher.safetensors", tmp_path / "mln.safetensors")
    assert adapts
    sample = the_sample(photos[0], 1.6)
    fast = adaptation.adapt(mln, sample.lr, sample.lr_up, sample.hr, steps=2, inner_lr=[0.5], freeze_upscaler=False)
    with torch.no_grad():
        expected = teacher.degradation(adaptation.features(mln, fast, sample.lr))[0]
    torch.testing.assert_close(represent(sample), expected, rtol=0, atol=0)


def test_every_photo_is_under_every_degradation(student, photos):
    wanted = isotropic_conditions([0.8, 2.4])
    represent = load_representation(student).represent
    found = list(representations([represent, represent], photos, wanted, 2))
    assert [(name, place) for name, place, _ in found] == [(str(n), place) for n in range(3) for place in range(2)]
    expected = represent(the_sample(photos[1], 2.4))
    for vector in found[3][2]:
        torch.testing.assert_close(vector, expected, rtol=0, atol=0)


def clouds(apart: float) -> tuple[list[torch.Tensor], list[str], list[int]]:
    draws = torch.Generator().manual_seed(0)
    labels = [number % 3 for number in range(24)]
    vectors = [torch.randn(5, generator=draws) + apart * label for label in labels]
    return vectors, [str(number // 3) for number in range(24)], labels


def test_the_silhouette_is_scikit_learns_and_the_plane_comes_again():
    from sklearn.metrics import silhouette_score

    vectors, names, labels = clouds(1.0)
    panels = [embed("S3", "blur", vectors, names, labels, ["a", "b", "c"], seed=seed) for seed in (0, 0, 1)]
    matrix = torch.stack(vectors).double().numpy()
    assert panels[0].silhouette == silhouette_score(matrix, labels)
    assert panels[0].silhouette_plane == silhouette_score(panels[0].points, labels)
    assert panels[0].perplexity == 8  # a third of 24 points
    np.testing.assert_array_equal(panels[0].points, panels[1].points)
    apart = embed("S3", "blur", clouds(20.0)[0], names, labels, ["a", "b", "c"])
    assert apart.silhouette > 0.5 > panels[0].silhouette
    assert apart.silhouette_plane > 0.5


def test_points_that_say_nothing_are_refused():
    vectors, names, labels = clouds(1.0)
    with pytest.raises(ValueError, match="S3 gives representations that are not finite"):
        embed("S3", "blur", [vector * float("nan") for vector in vectors], names, labels, ["a", "b", "c"])
    with pytest.raises(ValueError, match="S3 gives all photos the same representation"):
        embed("S3", "blur", [torch.ones(5)] * 24, names, labels, ["a", "b", "c"])
    with pytest.raises(ValueError, match="there are 24 points of 1 degradations"):
        embed("S3", "blur", vectors, names, [0] * 24, ["a"])


def test_the_picture_has_its_points_beside_it(tmp_path):
    vectors, names, labels = clouds(1.0)
    panel = embed("$S_3$", "blur", vectors, names, labels, ["a", "b", "c"])
    short = embed("short", "blur", [vector[:3] for vector in vectors], names, labels, ["a", "b", "c"])
    save_tsne([[panel, short], [panel]], tmp_path / "out.png", title="B100")
    with Image.open(tmp_path / "out.png") as image:
        assert image.size > (600, 600)
    with open(tmp_path / "out.csv", newline="", encoding="utf-8") as file:
        header, *cells = csv.reader(file)
    assert tuple(header) == (*HEADER, "z0", "z1", "z2", "z3", "z4")
    assert len(cells) == 3 * 24
    first = dict(zip(header, cells[0], strict=True))
    assert (first["panel"], first["photo"], first["condition"]) == ("$S_3$", "0", "a")
    assert float(first["x"]) == panel.points[0, 0]
    assert float(first["silhouette"]) == panel.silhouette
    width = len(HEADER)
    read = np.array([row[width:] for row in cells[48:]], dtype=np.float32)
    np.testing.assert_array_equal(read, torch.stack(vectors).numpy())
    assert cells[24][width:] == [*map(str, vectors[0][:3].numpy()), "", ""]


def test_a_missing_scikit_learn_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(ModuleNotFoundError, match=r"./mrda\[figures\]"):
        require_sklearn()


def test_weights_that_do_not_fit_are_refused(tmp_path, student):
    torch.manual_seed(0)
    save_network(MRDAOracle(**SIZES), tmp_path / "oracle.safetensors")
    save_network(MRDATeacher(mln_feat=6, **SIZES), tmp_path / "teacher.safetensors")
    save_network(MLN(scale=2, num_feat=4, num_body=1), tmp_path / "mln.safetensors")
    with pytest.raises(ValueError, match="holds an MRDAOracle, but must hold an MRDAStudent or an MRDATeacher"):
        load_representation(tmp_path / "oracle.safetensors")
    with pytest.raises(ValueError, match="holds an MRDATeacher, whose MLN must be given too"):
        load_representation(tmp_path / "teacher.safetensors")
    for wrong in (tmp_path / "mln.safetensors", student):
        with pytest.raises(ValueError, match="must hold an MLN of scale 2 and 6 features"):
            load_representation(tmp_path / "teacher.safetensors", wrong)


# DASR's encoder


def dasr_state(seed: int = 0) -> dict[str, torch.Tensor]:
    draws = torch.Generator().manual_seed(seed)
    state = {}
    widths = [3, 64, 64, 128, 128, 256, 256]
    for number, (before, after) in enumerate(pairwise(widths)):
        key = f"E.encoder_q.E.{3 * number}"
        state[f"{key}.weight"] = torch.randn(after, before, 3, 3, generator=draws) / (9 * before) ** 0.5
        state[f"{key}.bias"] = torch.randn(after, generator=draws)
        key = f"E.encoder_q.E.{3 * number + 1}"
        for name in ("weight", "bias", "running_mean"):
            state[f"{key}.{name}"] = torch.randn(after, generator=draws)
        state[f"{key}.running_var"] = torch.rand(after, generator=draws) + 0.5
        state[f"{key}.num_batches_tracked"] = torch.tensor(7)
    return state


def by_definition(state: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    x = 255 * x
    for number, stride in enumerate((1, 1, 2, 1, 2, 1)):
        conv, norm = f"E.encoder_q.E.{3 * number}", f"E.encoder_q.E.{3 * number + 1}"
        x = F.conv2d(x, state[f"{conv}.weight"], state[f"{conv}.bias"], stride=stride, padding=1)
        mean, variance = (state[f"{norm}.{name}"][:, None, None] for name in ("running_mean", "running_var"))
        x = (x - mean) / (variance + 1e-5).sqrt()
        x = x * state[f"{norm}.weight"][:, None, None] + state[f"{norm}.bias"][:, None, None]
        x = torch.where(x > 0, x, 0.1 * x)
    return x.mean(dim=(2, 3))


@pytest.mark.parametrize("prefix", ["", "module.", "E.", "module.E."])
def test_dasr_s_encoder_is_found_and_computes_by_its_definition(tmp_path, prefix):
    state = dasr_state()
    others = {"G.head.0.weight": torch.zeros(2), "E.encoder_k.E.0.weight": torch.zeros(2)}
    stored = {f"{prefix}{key}": value for key, value in {**state, **others}.items()}
    torch.save(stored, tmp_path / "dasr.pt")
    encoder = load_dasr_encoder(tmp_path / "dasr.pt")
    lr = torch.rand(2, 3, 9, 12, generator=torch.Generator().manual_seed(1))
    expected = by_definition({key: value.double() for key, value in state.items()}, lr.double())
    # Six layers of float32 sums, whose errors are a few eps of the largest value each.
    budget = 6 * 8 * torch.finfo().eps * float(expected.abs().max())
    torch.testing.assert_close(encoder(lr).double(), expected, rtol=0, atol=budget)
    assert not encoder.training


def test_an_old_file_without_counters_will_do(tmp_path):
    state = {key: value for key, value in dasr_state().items() if not key.endswith("tracked")}
    torch.save(state, tmp_path / "dasr.pt")
    assert isinstance(load_dasr_encoder(tmp_path / "dasr.pt"), DASREncoder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"E.encoder_q.E.3.weight": None}, r"lacks E\.encoder_q\.E\.3\.weight of DASR's encoder"),
        ({"E.encoder_q.E.18.weight": torch.zeros(1)}, r"has the unknown E\.encoder_q\.E\.18\.weight"),
        ({"E.encoder_q.E.0.bias": torch.zeros(3)}, r"has the misshapen E\.encoder_q\.E\.0\.bias"),
        ({"E.encoder_q.E.0.bias": 3}, r"has int at E\.encoder_q\.E\.0\.bias"),
    ],
)
def test_a_file_with_another_encoder_is_refused(tmp_path, change, message):
    state = {key: value for key, value in {**dasr_state(), **change}.items() if value is not None}
    torch.save(state, tmp_path / "dasr.pt")
    with pytest.raises(ValueError, match=message):
        load_dasr_encoder(tmp_path / "dasr.pt")


def test_a_file_that_is_no_state_dict_is_refused(tmp_path):
    torch.save([1], tmp_path / "dasr.pt")
    with pytest.raises(ValueError, match="holds list, but must hold a state dict"):
        load_dasr_encoder(tmp_path / "dasr.pt")
