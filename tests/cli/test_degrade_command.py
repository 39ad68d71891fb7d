import numpy as np
import pytest
import torch
from commands import one_sentence, refused, run
from PIL import Image

import mrda.cli.degrade  # noqa: F401
from mrda.degradations import CommonOptions, RealDegradation, RealOptions, RoundOptions
from mrda.degradations.classic import ClassicDegradation, ClassicOptions
from mrda.photo.images import read_rgb, to_tensor

CLASSIC = ("--preset", "toy", "--set", "degradation.noise_range=[5,25]", "--set", "degradation.kernel=anisotropic")
REAL = ("--preset", "toy", "--set", "degradation.type=real")


@pytest.fixture
def photo(tmp_path):
    """A photo of an odd size, 47x61."""
    rows, columns = np.mgrid[:47, :61]
    waves = np.stack([128 + 100 * np.sin(rows * 0.3 + columns * 0.2 * k) for k in (1, 2, 3)], -1)
    path = tmp_path / "photo.png"
    Image.fromarray(waves.astype(np.uint8)).save(path)
    return path


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


def levels(path):
    with Image.open(path) as image:
        assert image.format == "PNG"
        return np.asarray(image)


def as_levels(lr):
    return (255 * lr[0]).round().byte().permute(1, 2, 0).numpy()


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def test_lr_of_a_classic_configuration(photo, out):
    result = run("degrade", photo, *CLASSIC, "--seed", 3, "-o", out)
    assert result.exit_code == 0, result.stderr
    degradation = ClassicDegradation(2, ClassicOptions(kernel="anisotropic", noise_range=(5, 25)))
    expected = degradation(to_tensor(read_rgb(photo))[..., :46, :60], seeded(3)).lr
    assert np.array_equal(levels(out / "photo_lr.png"), as_levels(expected))
    assert [path.name for path in out.iterdir()] == ["photo_lr.png"]


def test_lr_of_a_real_configuration(photo, out):
    options = (
        "--set",
        "real.jpeg_range=[35,36]",
        "--set",
        "real.usm=true",
        "--set",
        "real.queue_size=180",
        "--set",
        "degradation.per=image",
    )
    result = run("degrade", photo, *REAL, *options, "--seed", 4, "-o", out)
    assert result.exit_code == 0, result.stderr
    options = RealOptions(first=RoundOptions(jpeg_range=(35, 36)), usm=True)
    degradation = RealDegradation(2, options, CommonOptions(per="image"), patch_size=None)
    expected = degradation(to_tensor(read_rgb(photo)), seeded(4)).lr
    assert expected.shape == (1, 3, 23, 30)
    assert np.array_equal(levels(out / "photo_lr.png"), as_levels(expected))


@pytest.mark.parametrize(("options", "rows"), [(CLASSIC, 2), (REAL, 4)])
def test_the_grid_has_a_panel_for_each_step(options, rows, photo, out):
    # The photo, HR, blur, shrunk, noise; or for real: photo, HR, LR and 9 or 10 steps.
    assert run("degrade", photo, *options, "--grid", "-o", out).exit_code == 0
    assert sorted(path.name for path in out.iterdir()) == ["photo_lr.png", "photo_steps.png"]
    height, width, channels = levels(out / "photo_steps.png").shape
    assert (width, channels) == (4 * 266 + 10, 3)
    assert height == rows * (266 + 36) + 10


@pytest.mark.parametrize("options", [CLASSIC, REAL])
def test_the_seed_decides(options, photo, tmp_path):
    files = []
    for index, seed in enumerate((7, 7, 8)):
        run("degrade", photo, *options, "--seed", seed, "--grid", "-o", tmp_path / str(index))
        files.append([(tmp_path / str(index) / f"photo_{kind}.png").read_bytes() for kind in ("lr", "steps")])
    assert files[0] == files[1]
    assert all(one != other for one, other in zip(files[0], files[2], strict=True))


def test_each_photo_starts_from_the_seed(photo, out, tmp_path):
    twin = tmp_path / "twin.png"
    twin.write_bytes(photo.read_bytes())
    assert run("degrade", photo, twin, *REAL, "-o", out).exit_code == 0
    assert (out / "twin_lr.png").read_bytes() == (out / "photo_lr.png").read_bytes()


def test_photos_that_fail_are_told_and_the_others_done(photo, out, tmp_path):
    (tmp_path / "broken.png").write_bytes(photo.read_bytes()[:200])
    Image.new("RGB", (9, 50)).save(tmp_path / "thin.png")
    result = run("degrade", tmp_path, *REAL, "-o", out)
    assert result.exit_code == 1
    assert "broken.png" in result.stderr
    assert "1 of 3 photos degraded into" in result.stderr
    assert "thin.png: hr has shape (1, 3, 50, 9), but must be at least 11 pixels" in " ".join(result.stderr.split())
    assert [path.name for path in out.iterdir()] == ["photo_lr.png"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--preset", "demo", "--set", "seed=3"), ("give --seed for that of the photos",)),
        (("--preset", "classic"), ("config 'classic' is neither a file nor one of the package's",)),
        ((*REAL, "--set", "real.jpeg_rang=[1,2]"), ("did you mean 'real.jpeg_range'",)),
        ((*REAL, "--set", "real.jpeg_range=[1,200]"), ("within 1 and 100",)),
    ],
)
def test_a_wrong_configuration_is_refused(options, words, photo, out):
    refused(run("degrade", photo, *options, "-o", out), out, *words)


def test_a_configuration_and_its_preset_are_named_as_for_training(photo, out, tmp_path):
    file = tmp_path / "own.yaml"
    file.write_text("extends: toy\npresets: {official: {degradation: {kernel: anisotropic}}}\n")
    for folder, options in {"own": ("--preset", file), "official": ("--config", file, "--preset", "official")}.items():
        result = run("degrade", photo, *options, "-o", out / folder)
        assert result.exit_code == 0, result.stderr
        kernel = "anisotropic" if folder == "official" else "isotropic"
        # The released code's own choices, of those that make LR.
        options = {"theta_range": (0, np.pi / 180)} if folder == "official" else {}
        expected = ClassicDegradation(2, ClassicOptions(kernel=kernel, **options))(
            to_tensor(read_rgb(photo))[..., :46, :60], seeded(0)
        )
        assert np.array_equal(levels(out / folder / "photo_lr.png"), as_levels(expected.lr))
    refused(run("degrade", photo, "-o", out / "none"), out / "none", "--preset is missing: name a configuration")


def test_two_photos_of_one_name_are_both_degraded(photo, out, tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "photo.jpg").write_bytes(photo.read_bytes())
    result = run("degrade", photo, tmp_path / "a", *REAL, "-o", out)
    assert result.exit_code == 0, result.stderr
    assert sorted(path.name for path in out.iterdir()) == ["photo_jpg_lr.png", "photo_png_lr.png"]


def test_a_name_that_is_too_long_is_this_photo_s_fault(photo, out, tmp_path):
    long = tmp_path / ("n" * 250 + ".png")
    long.write_bytes(photo.read_bytes())
    result = run("degrade", long, photo, *REAL, "-o", out)
    assert result.exit_code == 1
    assert result.stderr.splitlines()[0].endswith(f"{out / long.stem}_lr.png: its name is too long")
    assert [path.name for path in out.iterdir()] == ["photo_lr.png"]


def test_wrong_files_are_refused(photo, out, tmp_path):
    result = run("degrade", photo, *REAL, "-o", photo)
    assert result.exit_code == 2
    assert one_sentence(result.stderr)
    assert "is a file" in result.stderr
    result = run("degrade", photo, *REAL, "-o", photo / "inside")
    assert result.exit_code == 2
    assert one_sentence(result.stderr)
