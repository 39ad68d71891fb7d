"""The study of the choice of the weights."""

import numpy as np
import pytest
import torch
from PIL import Image

from mrda.paper.studies import choice as study
from mrda.paper.studies.choice import BICUBIC, CONDITIONS, Condition
from mrda.photo.images import to_tensor
from mrda.upscale.choice import PURPOSES

CLEAN, NOISY, REAL = PURPOSES


class Exact:
    """Enlarges without a network; the weights for noisy photos smooth."""

    scale = 4

    def upscaler(self, name):
        return lambda lr: torch.nn.functional.interpolate(
            lr, scale_factor=4, mode="bilinear" if name == NOISY else "nearest"
        )


def photo(side=130):
    rows, columns = np.mgrid[:side, :side]
    return np.uint8(np.stack([rows + 20, columns + 40, (rows + columns) // 2], axis=2))


def test_every_condition_of_every_photo_is_a_record(tmp_path):
    for name in ("a", "b"):
        Image.fromarray(photo()).save(tmp_path / f"{name}.png")
    conditions = (Condition(), Condition(noise=20), Condition(quality=30))
    records = study.measure(Exact(), sorted(tmp_path.iterdir()), conditions)
    assert [(record["photo"], record["condition"]) for record in records] == [
        (name, condition) for name in "ab" for condition in ("clean", "noise 20", "JPEG 30")
    ]
    assert [record["chosen"] for record in records[:3]] == [CLEAN, NOISY, REAL]
    for record in records:
        assert set(record["psnr_y"]) == {BICUBIC, CLEAN, NOISY, REAL}
        assert all(15 < score < 100 for score in record["psnr_y"].values())


def test_files_have_the_noise_and_the_tables_that_are_said():
    hr = to_tensor(photo(128))
    clean = study.degraded(hr, Condition(), 0.0, 4, "a").pixels.astype(float)
    noisy = study.degraded(hr, Condition(noise=5), 0.0, 4, "a").pixels - clean
    assert noisy.std() == pytest.approx(5, rel=0.1)
    assert study.degraded(hr, Condition(quality=70), 0.0, 4, "a").jpeg_quality == 70
    assert np.abs(study.degraded(hr, Condition(), 2.4, 4, "a").pixels - clean).max() > 0


def test_photos_are_cut_and_spaced_evenly():
    assert study.middle(torch.zeros(1, 3, 1000, 50), 4).shape == (1, 3, study.SIDE, 48)
    assert study.some(list("abcdefgh"), 4) == list("aceg")
    assert study.some(list("ab"), 4) == list("ab")


def record(condition, bicubic, clean, noisy, chosen):
    return {
        "photo": "a",
        "condition": condition,
        "psnr_y": {BICUBIC: bicubic, CLEAN: clean, NOISY: noisy, REAL: bicubic - 1},
        "chosen": chosen,
    }


def test_right_is_what_is_best_in_the_mean_of_the_photos_that_the_limits_come_from():
    fitted = [record("clean", 20, 22, 21, CLEAN), record("JPEG 80", 20, 20.3, 20.35, NOISY)]
    checked = [
        record("clean", 20, 21, 22, CLEAN),  # right by the others' mean, though not for this photo
        record("clean", 20, 21, 22, NOISY),
        record("JPEG 80", 20, 21, 19, CLEAN),  # within a tenth of a decibel of the best
        record("JPEG 80", 20, 21, 19, BICUBIC),
    ]
    assert study.best_in_mean(fitted) == {"clean": {CLEAN}, "JPEG 80": {CLEAN, NOISY}}
    text = study.document({"fitted": fitted, "checked": checked})
    assert "| clean | 20.00 | +1.00 | +2.00 | -1.00 | +1.50 | 1 / 1 / 0 / 0 | 50% |" in text
    assert "| JPEG 80 | 20.00 | +1.00 | -1.00 | -1.00 | +0.50 | 1 / 0 / 0 / 1 | 50% |" in text
    assert "Right in 50% of 4 cases." in text
    assert "within 0.1 dB of it in 50% of the cases, and 0.50 dB below it in the mean" in text


def test_the_conditions_reach_from_none_to_strong():
    assert [str(condition) for condition in CONDITIONS[:2]] == ["clean", "noise 1"]
    assert str(CONDITIONS[-1]) == "JPEG 30"
