import json
import sys

import pytest
import torch

from mrda.core.randomness import generator
from mrda.degradations import CommonOptions, RealDegradation
from mrda.paper.studies import degradations

OURS = ["mrda_per_batch", "mrda_per_image"]


def control(count, seed):
    return RealDegradation(4, common=CommonOptions(per="image")).draw(count, generator(seed, "control"))


def test_all_follow_one_draw_of_what_a_batch_shares():
    draw = control(3, 5)
    first = degradations.of_first_image(draw)
    assert (draw.count, first.count) == (3, 1)
    for name in ("second_blur", "sinc_first", "mode", "place"):
        assert getattr(first, name) == getattr(draw, name)
    for part, whole in ((first.first, draw.first), (first.second, draw.second)):
        assert (part.factor, part.mode, part.gaussian) == (whole.factor, whole.mode, whole.gaussian)
        assert torch.equal(part.level, whole.level[:1])
        assert torch.equal(part.kernel.sigma1, whole.kernel.sigma1[:1])
    images = degradations.photos(3, 48)
    for run in degradations.ours(images, draw, 5).values():
        assert run().lr.shape == (3, 3, 12, 12)


def test_the_peers_do_the_same_work():
    cv2 = pytest.importorskip("cv2", reason="needs opencv-python-headless")
    images = degradations.photos(3, 48)
    for seed in range(8):
        found = degradations.peers(cv2, images, control(3, seed), seed)
        assert list(found) == list(degradations.PEERS)
        results = [run() for run in found.values()]
        for lr, lr_up in results:
            assert lr.shape == (3, 3, 12, 12)
            assert lr_up.shape == (3, 3, 48, 48)
            for image in (lr, lr_up):
                assert image.min() >= 0
                assert image.max() <= 1
                torch.testing.assert_close((255 * image).round() / 255, image, rtol=0, atol=1e-7)
        for one, other in zip(*results, strict=True):
            assert torch.equal(one, other)  # threads change no random number


def test_kernels_lose_the_zeros_around_them():
    kernel = torch.zeros(7, 7, dtype=torch.float64)
    kernel[2:5, 2:5] = torch.arange(9).reshape(3, 3)
    assert degradations.trimmed(kernel.numpy()).tolist() == [[0, 1, 2], [3, 4, 5], [6, 7, 8]]


def test_records_without_the_peers_say_why(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(sys.modules, "cv2", None)
    monkeypatch.setattr(degradations, "ROUNDS", 1)
    degradations.main(["--batch", "2", "--size", "48", "--seeds", "1", "--json", str(tmp_path / "out.json")])
    records = json.loads((tmp_path / "out.json").read_text())
    assert [record["provider"] for record in records] == [*OURS, *degradations.PEERS]
    assert all(record["ms"] > 0 for record in records[:2])
    assert all("pip install opencv-python-headless" in record["absent"] for record in records[2:])
    assert "opencv: not measured" in capsys.readouterr().out


def test_speedups_are_those_of_the_mean_times():
    pytest.importorskip("cv2", reason="needs opencv-python-headless")
    records = degradations.measure(2, 48, 2, rounds=1)
    assert [record["provider"] for record in records] == [*OURS, *degradations.PEERS]
    opencv = records[2]["ms"]
    for record in records:
        assert record["times_as_fast_as_opencv"] == pytest.approx(opencv / record["ms"], rel=1e-12)


@pytest.mark.parametrize("options", [["--batch", "0"], ["--size", "50"], ["--size", "4"], ["--seeds", "0"]])
def test_a_wrong_option_is_one_sentence(options, capsys):
    with pytest.raises(SystemExit):
        degradations.main(options)
    assert "--batch and --seeds must be at least 1" in capsys.readouterr().err
