"""JPEG: the codec on tensors against libjpeg itself, and Real-ESRGAN's approximation against its formulas."""

import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import features

from mrda.degradations import jpeg as module
from mrda.degradations.jpeg import _encoded, _tensor_codec, jpeg
from mrda.photo.images import find_images, read_rgb, to_tensor

turbo = pytest.mark.skipif(
    not features.check_feature("libjpeg_turbo"), reason="Pillow has another libjpeg than libjpeg-turbo here"
)


def photo(name="astronaut", height=120, width=160, top=20, left=150):
    pytest.importorskip("skimage", reason="needs the photographs that come with scikit-image")
    return to_tensor(read_rgb(f"skimage:{name}"))[..., top : top + height, left : left + width]


def noise(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def decibels(a, b):
    error = (a - b).square().mean().item()
    return math.inf if error == 0 else -10 * math.log10(error)


@turbo
@pytest.mark.parametrize("name", ["astronaut", "chelsea", "coffee"])
@pytest.mark.parametrize(("height", "width"), [(128, 128), (119, 155), (101, 66), (50, 121)])
def test_the_tensor_codec_is_libjpeg_to_the_bit_on_photos(name, height, width):
    image = photo(name, height, width)
    qualities = torch.tensor([1.0, 30, 49, 50, 71, 95, 100])
    images = image.expand(len(qualities), -1, -1, -1)
    assert torch.equal(_tensor_codec(images, qualities), _encoded(images, qualities))


@turbo
@pytest.mark.parametrize("height", [1, 2, 5, 8, 17])
@pytest.mark.parametrize("width", [1, 2, 3, 4, 5, 6, 15, 16, 33])
def test_the_tensor_codec_is_libjpeg_to_the_bit_at_any_size(height, width):
    images, qualities = noise(3, 3, height, width), torch.tensor([30.0, 60, 95])
    assert torch.equal(_tensor_codec(images, qualities), _encoded(images, qualities))


@turbo
@pytest.mark.parametrize("kind", ["flat", "black and white", "gray"])
def test_the_tensor_codec_is_libjpeg_to_the_bit_where_halves_and_overflows_are_common(kind):
    images = {
        "flat": noise(25, 3, 1, 1).expand(25, 3, 16, 16),  # all coefficients but one are 0, and halves frequent
        "black and white": noise(25, 3, 16, 16).round(),
        "gray": noise(25, 1, 16, 16).expand(25, 3, 16, 16),
    }[kind]
    for first in range(1, 101, 25):
        qualities = torch.arange(first, first + 25).float()
        assert torch.equal(_tensor_codec(images, qualities), _encoded(images, qualities))


@pytest.mark.skipif("MRDA_DATA" not in os.environ, reason="MRDA_DATA names no folder of photo sets")
@pytest.mark.parametrize("dataset", ["Set5", pytest.param("Set14", marks=pytest.mark.slow)])
def test_the_tensor_codec_is_close_to_libjpeg_on_real_photos(dataset):
    folder = Path(os.environ["MRDA_DATA"]) / dataset
    if not folder.is_dir():
        pytest.skip(f"{folder} is missing")
    for source in find_images([folder]):
        image = to_tensor(read_rgb(source))
        for quality in torch.tensor([[30.0], [62.0], [95.0]]):
            assert decibels(_tensor_codec(image, quality), _encoded(image, quality)) >= 45, (source, quality)


@pytest.mark.parametrize("codec", [_tensor_codec, _encoded])
def test_libjpegs_output_has_8_bits_and_input_is_rounded_to_them(codec):
    images, quality = noise(2, 3, 24, 40), torch.tensor([50.0])
    result = codec(images, quality)
    assert torch.equal(result, (255 * result).round() / 255)
    assert torch.equal(result, codec((255 * images).round() / 255, quality))
    assert torch.equal(codec(images * 3 - 1, quality), codec((images * 3 - 1).clamp(0, 1), quality))


def test_on_the_cpu_the_real_encoder_works_and_elsewhere_its_arithmetic(monkeypatch):
    assert module._codec_for("libjpeg", torch.device("cpu")) is _encoded
    assert module._codec_for("libjpeg", torch.device("cuda", 1)) is _tensor_codec
    assert module._codec_for("simulated", torch.device("cpu")) is module._simulated
    asked = []
    monkeypatch.setattr(module, "_codec_for", lambda codec, device: asked.append((codec, device)) or _tensor_codec)
    jpeg(torch.zeros(1, 3, 8, 8), torch.ones(1))
    assert asked == [("libjpeg", torch.device("cpu"))]


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["highest", "medium"])
def test_on_a_gpu_the_result_is_that_of_the_cpu(precision):
    images, quality = noise(4, 3, 61, 90), torch.tensor([30, 50, 75, 95])
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)  # "medium" lets products of float32 be TF32's or worse
    try:
        result = jpeg(images.cuda(), quality.cuda())
        simulated = jpeg(images.cuda(), quality.cuda(), codec="simulated")
    finally:
        torch.set_float32_matmul_precision(before)
    assert torch.equal(result.cpu(), jpeg(images, quality))
    assert torch.equal(jpeg(images.cuda(), 10 * quality.cuda()).cpu(), jpeg(images, torch.tensor([100])))
    # A fused multiply-add rounds once less: some units of float32's last place; TF32 would be off by 0.01.
    torch.testing.assert_close(simulated.cpu(), jpeg(images, quality, codec="simulated"), rtol=0, atol=1e-5)


@pytest.mark.parametrize("codec", [_tensor_codec, _encoded, module._simulated])
def test_each_image_has_its_own_quality(codec):
    images, qualities = noise(3, 3, 20, 37), torch.tensor([30.0, 62, 95])
    together = codec(images, qualities)
    alone = [codec(image[None], quality[None]) for image, quality in zip(images, qualities, strict=True)]
    assert torch.equal(together, torch.cat(alone))
    assert torch.equal(codec(images, qualities[:1]), codec(images, qualities[:1].expand(3)))
    errors = (together - images).square().mean((1, 2, 3))
    assert errors[0] > errors[1] > errors[2]


@pytest.mark.parametrize("quality", [30.4, 29.6, 30])
def test_libjpeg_rounds_quality_to_an_integer(quality):
    images = noise(1, 3, 16, 16)
    assert torch.equal(jpeg(images, torch.tensor([quality])), _encoded(images, torch.tensor([30.0])))
    assert torch.equal(
        _tensor_codec(images, torch.tensor([float(quality)])), _tensor_codec(images, torch.tensor([30.0]))
    )


def simulated(image, quality):
    """One image (3, H, W) in float64, block by block; also how far the nearest coefficient is from a rounding tie."""
    factor = (5000 / quality if quality < 50 else 200 - 2 * quality) / 100
    height, width = image.shape[1:]
    padded = np.pad(255 * image, ((0, 0), (0, -height % 16), (0, -width % 16)))
    ycc = np.einsum("ij,jhw->ihw", RGB_TO_YCC, padded)
    planes = [ycc[0] - 128, *(plane.reshape(plane.shape[0] // 2, 2, -1, 2).mean((1, 3)) for plane in ycc[1:])]
    basis = np.array([[math.cos(u * (2 * x + 1) * math.pi / 16) / 2 for x in range(8)] for u in range(8)])
    basis[0] /= math.sqrt(2)
    margin = 0.5
    for plane, table in zip(planes, (module._LUMA_TABLE, module._CHROMA_TABLE, module._CHROMA_TABLE), strict=True):
        steps = factor * np.array(table)
        for top in range(0, plane.shape[0], 8):
            for left in range(0, plane.shape[1], 8):
                block = plane[top : top + 8, left : left + 8]
                scaled = basis @ block @ basis.T / steps
                margin = min(margin, np.abs(scaled - np.floor(scaled) - 0.5).min())
                block[:] = basis.T @ (np.rint(scaled) * steps) @ basis
    y, cb, cr = planes[0] + 128, *(plane.repeat(2, 0).repeat(2, 1) for plane in planes[1:])
    rgb = np.stack((y + 1.402 * cr, y - 0.344136 * cb - 0.714136 * cr, y + 1.772 * cb))
    return np.clip(rgb[:, :height, :width] / 255, 0, 1), margin


RGB_TO_YCC = np.array([[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]])


@pytest.mark.parametrize(("height", "width"), [(16, 32), (13, 30)])
def test_the_simulated_codec_follows_its_formulas(height, width):
    images, qualities = noise(3, 3, height, width), torch.tensor([30.7, 50.0, 81.3])
    got = jpeg(images, qualities, codec="simulated")
    for index, quality in enumerate(qualities.tolist()):
        expected, margin = simulated(images[index].double().numpy(), quality)
        # A pixel's Y is off by 4 roundings of at most 255 * 2^-24, a coefficient by 8 times that at most; the
        # smallest step here is 3.7.
        assert margin > 8 * 4 * 255 * 2**-24 / 3.7
        # The sums after the DCT stay below 512: 6 roundings of 512 * 2^-24 levels.
        np.testing.assert_allclose(got[index].numpy(), expected, rtol=0, atol=6 * 512 * 2**-24 / 255)


def test_the_simulated_codec_keeps_numbers_at_the_best_quality():
    image = photo()
    result = jpeg(image, torch.tensor([100]), codec="simulated")
    luma = torch.tensor(RGB_TO_YCC[0], dtype=torch.float32)[:, None, None]
    inside = (result > 0).all(1) & (result < 1).all(1)
    assert inside.float().mean() > 0.9
    # Only chroma is lost where nothing clips. A coefficient is rounded by half a step, 0.12/2 at most, and 64 of them
    # add up to 8 times that at most.
    difference = ((result - image) * luma).sum(1)[inside].abs().max()
    assert difference < 8 * 0.121 / 2 / 255


def test_the_simulated_codec_is_near_libjpeg_and_no_more():
    image = photo()
    for quality in (30, 60, 95):
        q = torch.tensor([quality])
        assert 25 < decibels(jpeg(image, q), jpeg(image, q, codec="simulated")) < 60


@pytest.mark.parametrize("codec", module.CODECS)
def test_dtype_autocast_and_gradient(codec):
    images, quality = noise(2, 3, 18, 20), torch.tensor([40, 90])
    expected = jpeg(images, quality, codec=codec)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(jpeg(images, quality, codec=codec), expected)
    half = jpeg(images.half(), quality, codec=codec)
    assert half.dtype == torch.float16
    assert torch.equal(half, jpeg(images.half().float(), quality, codec=codec).half())
    double = jpeg(images.double().requires_grad_(), quality, codec=codec)
    assert double.dtype == torch.float64
    assert not double.requires_grad
    assert torch.equal(double.float(), expected)
    strided = images.to(memory_format=torch.channels_last)
    assert torch.equal(jpeg(strided, quality, codec=codec), expected)
    assert jpeg(strided, quality, codec=codec).is_contiguous()


@pytest.fixture
def without_float64(monkeypatch):
    """The tensor codecs as on a device that has float32 alone."""
    matrices = module._constants
    monkeypatch.setattr(module, "_constants", lambda device: tuple(matrix.float() for matrix in matrices(device)))
    monkeypatch.setattr(module, "_encoded", _tensor_codec)


@pytest.mark.parametrize("codec", module.CODECS)
def test_autocast_leaves_products_of_float32_alone_too(codec, without_float64):
    images, quality = noise(2, 3, 18, 20), torch.tensor([40.0, 90.0])
    expected = jpeg(images, quality, codec=codec)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(jpeg(images, quality, codec=codec), expected)


@turbo
@pytest.mark.parametrize("quality", [30.0, 60.0, 95.0])
def test_float32_comes_close_to_libjpeg(quality, without_float64):
    image = photo()
    # Only sums that lie within 2^-24 of a tie, relatively, go another way: a coefficient or two.
    assert decibels(_tensor_codec(image, torch.tensor([quality])), _encoded(image, torch.tensor([quality]))) > 60


@pytest.mark.parametrize("codec", [_tensor_codec, _encoded, module._simulated])
def test_no_image_and_the_arguments_stay_as_they_are(codec):
    assert codec(torch.zeros(0, 3, 9, 9), torch.ones(1)).shape == (0, 3, 9, 9)
    images, quality = noise(1, 3, 16, 16), torch.tensor([50.4])
    before = images.clone(), quality.clone()
    codec(images, quality)
    assert torch.equal(images, before[0])
    assert torch.equal(quality, before[1])


def test_inference_mode_leaves_constants_that_serve_training():
    module._constants.cache_clear()
    images, quality = noise(1, 3, 16, 16), torch.tensor([50.0])
    with torch.inference_mode():
        expected = _tensor_codec(images, quality)
    assert torch.equal(_tensor_codec(images.requires_grad_(), quality), expected)


@pytest.mark.parametrize(
    ("images", "quality", "codec", "error", "message"),
    [
        (torch.zeros(1, 1, 8, 8), torch.ones(1), "libjpeg", ValueError, r"images has shape \(1, 1, 8, 8\)"),
        (torch.zeros(1, 3, 8, 8).byte(), torch.ones(1), "libjpeg", TypeError, "images has dtype torch.uint8"),
        (torch.zeros(1, 3, 8, 8), torch.ones(1), "webp", ValueError, "codec is 'webp'.*'libjpeg', 'simulated'"),
        (torch.zeros(1, 3, 8, 8), 50, "libjpeg", TypeError, "quality is int, but must be a torch.Tensor"),
        (torch.zeros(1, 3, 8, 8), torch.ones(1).bool(), "libjpeg", TypeError, "quality has dtype torch.bool"),
        (torch.zeros(3, 3, 8, 8), torch.ones(2), "libjpeg", ValueError, r"quality has shape \(2,\).*\(1,\) or \(3,\)"),
        (torch.zeros(1, 3, 8, 8), torch.tensor(50), "libjpeg", ValueError, r"quality has shape \(\)"),
        (torch.zeros(1, 3, 8, 8), torch.tensor([0.5]), "libjpeg", ValueError, r"quality is \[0.5\].*within 1 and 100"),
        (torch.zeros(1, 3, 8, 8), torch.tensor([101]), "simulated", ValueError, r"quality is \[101\]"),
        (torch.zeros(1, 3, 8, 8), torch.tensor([math.nan]), "libjpeg", ValueError, r"quality is \[nan\]"),
        (torch.zeros(1, 3, 8, 8), torch.ones(1, device="meta"), "libjpeg", ValueError, "quality is on meta.*on cpu"),
    ],
)
def test_a_wrong_call_is_one_sentence(images, quality, codec, error, message):
    with pytest.raises(error, match=message):
        jpeg(images, quality, codec=codec)
