"""Files for the commands of the documentation: small networks and photos under the names that the pages use."""

import shutil

import numpy as np
import torch
from blocks import REPOSITORY
from PIL import Image

from mrda.networks import MLN, MRDAStudent, MRDATeacher, save_network, to_official

STUDENTS = ("W", "student", "weights", "t1", "s3", "s1", "s5", "runs/demo/student/weights", "runs/demo/student/best")
TEACHERS = ("teacher", "t2", "n0", "n1", "n5")
MLNS = ("meta", "A", "B", "C")
PHOTOS = ("photo.png", "photo.jpg", "other.png")
FOLDERS = {
    "photos": "png",
    "holiday": "jpg",
    "holiday/beach": "jpg",
    "scans": "tif",
    "archive": "png",
    "HR": "png",
    "VAL": "png",
    **dict.fromkeys(("Set5", "Set14", "B100", "Urban100", "RealSR/HR", "NTIRE2020/HR", "RealSRSet"), "png"),
}


def furnish(folder):
    """Put everything into an empty folder."""
    torch.manual_seed(0)
    sizes = {"scale": 4, "num_feat": 8, "num_blocks": 2, "den_width": 4}
    networks = {
        STUDENTS: MRDAStudent(**sizes),
        TEACHERS: MRDATeacher(**sizes, mln_feat=8),
        MLNS: MLN(scale=4, num_feat=8, num_body=2),
    }
    for names, network in networks.items():
        for name in names:
            path = folder / f"{name}.safetensors"
            path.parent.mkdir(parents=True, exist_ok=True)
            save_network(network, path)
    torch.save(to_official(networks[STUDENTS]), folder / "iso_ST.pth")
    for name in PHOTOS:
        photo(seed=1).save(folder / name)
    for name, suffix in FOLDERS.items():
        (folder / name).mkdir(parents=True)
        for seed in range(2):
            photo(seed).save(folder / name / f"{seed}.{suffix}")
    (folder / "pristine").mkdir()
    photo(0, side=700).save(folder / "pristine" / "sharp.png")  # NIQE wants many blocks of 96x96
    for name in ("RealSR", "NTIRE2020"):
        (folder / name / "LR").mkdir()
        for path in (folder / name / "HR").iterdir():
            with Image.open(path) as hr:
                hr.reduce(4).save(folder / name / "LR" / path.name)
    shutil.copytree(REPOSITORY / "benchmarks" / "results", folder / "benchmarks" / "results")


def photo(seed, side=48):
    """Structure at all sizes, in colour."""
    noise = np.random.default_rng(seed).normal(size=(side, side, 3))
    waves = np.fft.rfftfreq(side)[None, :, None] + np.abs(np.fft.fftfreq(side))[:, None, None]
    levels = np.fft.irfft2(np.fft.rfft2(noise, axes=(0, 1)) / (waves + 0.05), s=(side, side), axes=(0, 1))
    return Image.fromarray(np.uint8(np.clip(128 + 40 * levels / levels.std(), 0, 255)))


def names():
    """The variables that blocks of Python take for granted."""
    image = photo(0)
    batch, channels, side = 2, 4, 9
    return {
        "image": image,
        "array": np.asarray(image),
        "lr": torch.rand(1, 3, side, side),
        "input": torch.randn(batch, channels, side, side),
        "weight": torch.randn(batch, channels, 3, 3),
        "mask_weight": torch.randn(1, channels, 1, 1),
        "mask_bias": torch.zeros(1),
    }
