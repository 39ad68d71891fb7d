"""Every kind of file that is written, on disks that fill up at any byte of it: whole, or the old one untouched."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from disks import files_of, whole_or_not
from PIL import Image, ImageCms

from mrda.core.files import atomic_write, write_csv, write_text
from mrda.evaluation.niqe import PristineModel, save_pristine
from mrda.networks import MRDAStudent, convert_weights, save_network
from mrda.paper.figures.canvas import new_figure, save_figure
from mrda.photo.files import Photo, write_photo
from mrda.photo.images import write_image
from mrda.upscale.jobs import Job
from mrda.upscale.manifest import Manifest
from mrda.upscale.upscaler import Upscaler

RANDOM = np.random.default_rng(0)
DEEP = RANDOM.integers(0, 65536, (150, 120, 4), dtype=np.uint16)
PIXELS = (DEEP >> 8).astype(np.uint8)
EXIF = b"II*\0\x08\0\0\0\x01\0\x3b\x01\x02\0\x06\0\0\0\x1a\0\0\0\0\0\0\0Jorg\0\0"


def student():
    torch.manual_seed(0)
    return MRDAStudent(scale=2, num_feat=8, num_blocks=1, den_width=4)


def photo(format, pixels):
    icc = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    like = Photo(pixels, icc=icc, exif=EXIF, dpi=(300.0, 300.0))
    return lambda path: write_photo(path, [pixels[:70], pixels[70:]], len(pixels), like, format=format)


def picture(path):
    write_image(path, PIXELS[..., :3])


def checkpoint(path):
    with atomic_write(path) as file:
        torch.save({"moments": [torch.rand(50, 50) for _ in range(5)], "step": 3}, file)


def converted(path):
    save_network(student(), path.parent.parent / "own.safetensors")
    convert_weights(path.parent.parent / "own.safetensors", path)


def figure(path):
    drawn = new_figure(2, 1)
    drawn.subplots().plot([0, 1], [1, 0])
    save_figure(drawn, path)


def tables(path):
    write_csv(path, ["image", "psnr_y"], [(f"photo {number}", number / 7) for number in range(400)])


KINDS = {
    "a.png": photo("png", PIXELS[..., :3]),
    "deep.png": photo("png", DEEP),
    "a.jpg": photo("jpg", PIXELS[..., :3]),
    "gray.jpg": photo("jpg", PIXELS[..., 0]),
    "a.webp": photo("webp", PIXELS),
    "a.tif": photo("tiff", PIXELS[..., :3]),
    "deep.tif": photo("tiff", DEEP[..., :3]),
    **{f"picture.{suffix}": picture for suffix in ("png", "jpg", "webp", "tif", "bmp", "ppm", "gif", "jp2")},
    "weights.safetensors": lambda path: save_network(student(), path),
    "weights.pth": converted,
    "state.pt": checkpoint,
    "niqe.npz": lambda path: save_pristine(PristineModel(torch.zeros(36), torch.eye(36)), path),
    "figure.png": figure,
    "scores.csv": tables,
    "scores.json": lambda path: write_text(path, json.dumps({"psnr_y": list(range(3000))})),
}


@pytest.mark.parametrize("name", KINDS)
def test_a_file_is_whole_or_the_old_one_stays(tmp_path, name):
    folder = tmp_path / "folder"
    folder.mkdir()
    write, path = KINDS[name], folder / name
    write(path)
    length = path.stat().st_size
    last = range(max(0, length - 65536), length, 9973)  # Pillow's encoders write blocks of this size by themselves
    sizes = sorted({0, 1, 100, length // 3, *last, length - 4096, length - 100, length - 1, length, length + 1} - {-1})
    counts = whole_or_not(write, path, length, [size for size in sizes if size >= 0])
    assert counts["whole"] == 2
    assert counts["refused"] >= 6


def test_both_graphs_of_an_export_or_none(tmp_path):
    export = pytest.importorskip("mrda.export")
    folder = tmp_path / "folder"
    folder.mkdir()
    for file in export.files(folder, "torch-export"):
        file.write_bytes(b"old")
    for size in (1000, 60_000):
        with files_of(size), pytest.raises(OSError, match="File too large"):
            export.export_student(student(), folder, "torch-export")
        assert {file.name: file.read_bytes() for file in folder.iterdir()} == {"den.pt2": b"old", "rdan.pt2": b"old"}


def test_a_manifest_keeps_what_it_has(tmp_path):
    upscaler = Upscaler(student(), device="cpu")
    jobs = [Job(tmp_path / f"{number}.png", tmp_path, Path(f"{number}_x2.png"), "png") for number in range(3)]
    for job in jobs:
        job.target.touch()
    path = tmp_path / "m.jsonl"
    assert Manifest(path, upscaler).add(jobs[0]) is None
    length = path.stat().st_size
    for size in range(length, 2 * length + 1, 7):
        manifest = Manifest(path, upscaler)
        with files_of(size):
            reason = manifest.add(jobs[1])
        assert (reason is None) == (size >= 2 * length), size
        assert reason is None or "would be larger than" in reason
        assert manifest.add(jobs[2]) is None
        again = Manifest(path, upscaler)
        assert [again.has(job) for job in jobs] == [True, reason is None, True]
        path.write_bytes(path.read_bytes()[:length])


def test_a_manifest_of_a_disk_that_is_full_twice_is_still_one(tmp_path):
    upscaler = Upscaler(student(), device="cpu")
    job, path = Job(tmp_path / "a.png", tmp_path, Path("a_x2.png"), "png"), tmp_path / "m.jsonl"
    for _ in range(2):
        with files_of(20):
            assert Manifest(path, upscaler).add(job) is not None
    assert Manifest(path, upscaler).add(job) is None
    job.target.touch()
    assert Manifest(path, upscaler).has(job)


def test_the_picture_is_the_one_that_pillow_reads(tmp_path):
    picture(tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as image:
        np.testing.assert_array_equal(image, PIXELS[..., :3])
