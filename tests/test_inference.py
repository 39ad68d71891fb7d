import numpy as np
import pytest
import torch
from PIL import Image

from mrda.degradations.resample import bicubic
from mrda.inference import Upscaler, is_out_of_memory, load_weights
from mrda.networks import MLN, MRDAStudent, MRDATeacher, save_network, to_official

TINY = {"num_feat": 8, "num_blocks": 2, "den_width": 4}


def tiny_student(scale: int = 2) -> MRDAStudent:
    torch.manual_seed(0)
    return MRDAStudent(scale=scale, **TINY)


@pytest.fixture
def upscaler() -> Upscaler:
    return Upscaler(tiny_student())


@pytest.fixture
def rgb() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (7, 10, 3), dtype=np.uint8)


def expected_levels(upscaler: Upscaler, array: np.ndarray) -> np.ndarray:
    lr = torch.from_numpy(array / np.float32(255)).permute(2, 0, 1)[None]
    with torch.no_grad():
        sr = upscaler.network(lr)[0].clamp(0, 1)
    return (sr * 255).round().permute(1, 2, 0).numpy().astype(np.uint8)


def test_pillow_and_uint8_give_the_networks_output_in_8_bits(upscaler, rgb):
    expected = expected_levels(upscaler, rgb)
    np.testing.assert_array_equal(upscaler(rgb), expected)
    image = upscaler(Image.fromarray(rgb))
    assert image.mode == "RGB"
    np.testing.assert_array_equal(np.asarray(image), expected)


@pytest.mark.parametrize(
    ("mode", "expected"),
    [("1", "L"), ("L", "L"), ("LA", "LA"), ("I;16", "I;16"), ("P", "RGB"), ("CMYK", "RGB"), ("RGBA", "RGBA")],
)
def test_pillow_modes(upscaler, mode, expected):
    image = upscaler(Image.new(mode, (10, 7)))
    assert image.mode == expected
    assert image.size == (20, 14)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float16, np.float32, np.float64])
@pytest.mark.parametrize("channels", [None, 1, 2, 3, 4])
def test_arrays_keep_dtype_and_channels(upscaler, dtype, channels):
    tail = () if channels is None else (channels,)
    sr = upscaler(np.ones((7, 10, *tail), dtype))
    assert sr.dtype == dtype
    assert sr.shape == (14, 20, *tail)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(3, 7, 10), (1, 7, 10), (5, 3, 7, 10), (2, 4, 7, 10)])
def test_tensors_keep_dtype_and_rank(upscaler, dtype, shape):
    sr = upscaler(torch.rand(shape).to(dtype))
    assert sr.dtype == dtype
    assert sr.shape == (*shape[:-2], 14, 20)
    assert sr.min() >= 0
    assert sr.max() <= 1


def test_a_batch_gives_what_its_images_give(upscaler):
    images = torch.rand(3, 3, 8, 8)
    separate = torch.stack([upscaler(image) for image in images])
    # Values in [0, 1] after some hundred float32 operations in another order: far below one 16-bit level.
    torch.testing.assert_close(upscaler(images), separate, rtol=0, atol=1 / 65535)


def test_gray_is_the_mean_of_the_networks_colours(upscaler, rgb):
    gray = torch.from_numpy(rgb[..., 0] / np.float32(255))[None, None]
    with torch.no_grad():
        sr = upscaler.network(gray.repeat(1, 3, 1, 1)).mean(1, keepdim=True).clamp(0, 1)
    torch.testing.assert_close(upscaler(gray), sr, rtol=0, atol=0)


def test_alpha_is_enlarged_by_bicubic_and_does_not_touch_the_colour(upscaler, rgb):
    alpha = np.random.default_rng(1).integers(0, 256, (7, 10, 1), dtype=np.uint8)
    sr = upscaler(np.concatenate([rgb, alpha], axis=2))
    np.testing.assert_array_equal(sr[..., :3], upscaler(rgb))
    enlarged = bicubic(torch.from_numpy(alpha / np.float32(255)).permute(2, 0, 1)[None], 2).clamp(0, 1)
    np.testing.assert_array_equal(sr[..., 3], (enlarged[0, 0] * 255).round().numpy().astype(np.uint8))


def test_16_bit_is_finer_than_8_bit(upscaler):
    ramp = np.linspace(0, 65535, 8 * 9 * 3).reshape(8, 9, 3).astype(np.uint16)
    assert (upscaler(ramp) % 257 != 0).any()


def test_network_is_set_to_evaluation_and_no_graph_is_kept(upscaler):
    assert not upscaler.network.training
    assert not upscaler(torch.rand(3, 8, 8)).requires_grad


def test_results_can_be_used_in_training(upscaler):
    sr = upscaler(torch.rand(3, 8, 8))
    weight = torch.ones((), requires_grad=True)
    (weight * sr).sum().backward()
    assert weight.grad == sr.sum()


def test_out_of_memory_is_told_from_other_errors():
    with pytest.raises(RuntimeError) as raised:
        torch.empty(2**60, dtype=torch.uint8)
    for error in (raised.value, MemoryError(), torch.OutOfMemoryError("CUDA out of memory")):
        assert is_out_of_memory(error)
    for error in (RuntimeError("shapes differ"), OSError("DefaultCPUAllocator")):
        assert not is_out_of_memory(error)


def test_a_weights_name_that_no_file_can_have_is_refused():
    with pytest.raises(ValueError, match="there is no weights file"):
        load_weights("x" * 300)


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_scale_is_that_of_the_network(scale):
    upscaler = Upscaler(tiny_student(scale))
    assert upscaler.scale == scale
    assert upscaler(np.zeros((5, 6, 3), np.uint8)).shape == (5 * scale, 6 * scale, 3)


@pytest.mark.parametrize(
    ("image", "error", "match"),
    [
        ("photo.png", TypeError, "image is str, but must be a Pillow image, array or tensor"),
        (torch.zeros(3, 4, 4, dtype=torch.uint8), TypeError, "must be a floating point tensor"),
        (torch.zeros(4, 4), ValueError, r"\(C, H, W\)"),
        (torch.zeros(5, 4, 4), ValueError, "image has 5 channels, but must"),
        (np.zeros((4, 4, 3), np.int64), TypeError, "int64"),
        (np.zeros((1, 4, 4, 3), np.uint8), ValueError, r"\(H, W, C\)"),
        (Image.new("F", (4, 4)), ValueError, "floating-point"),
    ],
)
def test_other_images_are_refused(upscaler, image, error, match):
    with pytest.raises(error, match=match):
        upscaler(image)


def test_other_networks_are_refused():
    with pytest.raises(TypeError, match="network is MLN, but must be an MRDAStudent"):
        Upscaler(MLN(scale=2, num_feat=8, num_body=1))


def test_from_pretrained_reads_our_and_the_official_files(tmp_path, rgb):
    student = tiny_student()
    save_network(student, tmp_path / "ours.safetensors")
    torch.save(to_official(student), tmp_path / "official.pth")
    expected = Upscaler(student)(rgb)
    for name in ("ours.safetensors", "official.pth"):
        np.testing.assert_array_equal(Upscaler.from_pretrained(tmp_path / name, device="cpu")(rgb), expected)


def test_from_pretrained_refuses_the_teacher(tmp_path):
    path = tmp_path / "teacher.safetensors"
    save_network(MRDATeacher(scale=2, mln_feat=8, **TINY), path)
    with pytest.raises(ValueError, match=r"teacher\.safetensors.*MRDATeacher"):
        Upscaler.from_pretrained(path)


@pytest.mark.parametrize("name", ["weights.safetensors", "weights.pth"])
@pytest.mark.parametrize("content", [b"", b"no weights at all", None])
def test_load_weights_names_what_it_cannot_load(tmp_path, name, content):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=name):
        load_weights(path)


def test_load_weights_refuses_a_state_dict_of_other_things(tmp_path):
    path = tmp_path / "counts.pth"
    torch.save({"head": torch.arange(3)}, path)
    with pytest.raises(ValueError, match=r"counts\.pth"):
        load_weights(path)
