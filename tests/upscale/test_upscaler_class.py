import struct
import zlib

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

import mrda
from mrda.degradations.resample import bicubic
from mrda.networks import MLN, MRDAStudent, MRDATeacher, save_network, to_official
from mrda.networks.prepared import PreparedRDAN
from mrda.photo.transparency import fill_transparent
from mrda.upscale.upscaler import Upscaler, is_out_of_memory, load_weights
from mrda.upscale.upscaler import _best_dtype as best_dtype  # as it is, before the tests' own takes its place

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
        sr = upscaler.network.prepare()(lr)[0].clamp(0, 1)
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
        sr = upscaler.network.prepare()(gray.repeat(1, 3, 1, 1)).mean(1, keepdim=True).clamp(0, 1)
    torch.testing.assert_close(upscaler(gray), sr, rtol=0, atol=0)


def test_alpha_is_enlarged_by_bicubic_and_does_not_touch_the_colour(upscaler, rgb):
    alpha = np.random.default_rng(1).integers(0, 256, (7, 10, 1), dtype=np.uint8)
    sr = upscaler(np.concatenate([rgb, alpha], axis=2))
    np.testing.assert_array_equal(sr[..., :3], upscaler(rgb))
    enlarged = bicubic(torch.from_numpy(alpha / np.float32(255)).permute(2, 0, 1)[None], 2).clamp(0, 1)
    np.testing.assert_array_equal(sr[..., 3], (enlarged[0, 0] * 255).round().numpy().astype(np.uint8))


def test_pillow_images_come_back_upright_with_profile_and_resolution(upscaler, rgb):
    image = Image.fromarray(rgb)
    image.info |= {"icc_profile": b"profile", "dpi": (300, 300), "comment": b"hello"}
    image.getexif()[0x0112] = 6
    enlarged = upscaler(image)
    assert enlarged.size == (14, 20)
    np.testing.assert_array_equal(np.asarray(enlarged), upscaler(np.rot90(rgb, -1)))
    assert enlarged.info == {"icc_profile": b"profile", "dpi": (300, 300)}
    assert not enlarged.getexif()


@pytest.mark.parametrize("mode", ["CMYK", "LAB", "HSV"])
def test_a_profile_of_other_colours_than_rgb_is_left_out_and_said(mode):
    said: list[str] = []
    image = Image.new(mode, (5, 4))
    image.info["icc_profile"] = b"profile"
    assert not Upscaler(tiny_student(), notify=said.append)(image).info
    assert said == [f"the colour profile is left out, as it is one of {mode} and the result is RGB"]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_pillow_images_whose_zero_is_white_come_back_positive(upscaler, tmp_path, dtype):
    levels = np.arange(48, dtype=dtype).reshape(6, 8)
    tifffile.imwrite(tmp_path / "negative.tif", levels, photometric="miniswhite")
    with Image.open(tmp_path / "negative.tif") as image:
        np.testing.assert_array_equal(np.asarray(upscaler(image)), upscaler(np.iinfo(dtype).max - levels))


def test_it_is_the_package_s_front_door():
    assert mrda.Upscaler is Upscaler
    with pytest.raises(AttributeError, match="module 'mrda' has no attribute 'Downscaler'"):
        mrda.Downscaler  # noqa: B018


def test_16_bit_is_finer_than_8_bit(upscaler):
    ramp = np.linspace(0, 65535, 8 * 9 * 3).reshape(8, 9, 3).astype(np.uint16)
    assert (upscaler(ramp) % 257 != 0).any()


@pytest.mark.parametrize("instructions", ["_is_avx512_bf16_supported", "_is_amx_tile_supported"])
def test_a_cpu_computes_in_bfloat16_where_it_can(instructions, monkeypatch):
    for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        monkeypatch.setattr(torch.cpu, name, lambda: False)
    assert best_dtype(torch.device("cpu")) == torch.float32
    monkeypatch.setattr(torch.cpu, instructions, lambda: True)
    assert best_dtype(torch.device("cpu")) == torch.bfloat16


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
        (torch.zeros(0, 3, 4, 4), ValueError, r"image has shape \(0, 3, 4, 4\), but none of its sides may be 0"),
        (torch.zeros(3, 4, 0), ValueError, r"image has shape \(1, 3, 4, 0\), but none of its sides may be 0"),
        (np.zeros((4, 4, 3), np.int64), TypeError, "int64"),
        (np.zeros((1, 4, 4, 3), np.uint8), ValueError, r"\(H, W, C\)"),
        (Image.new("F", (4, 4)), ValueError, "floating-point"),
    ],
)
def test_other_images_are_refused(upscaler, image, error, match):
    with pytest.raises(error, match=match):
        upscaler(image)


@pytest.mark.parametrize("kind", ["array", "tensor", "bands"])
@pytest.mark.parametrize(
    ("values", "found"),
    [
        ((0.0, 255.0), "values from 0 to 255"),
        ((-1.0, 1.0), "values from -1 to 1"),
        ((0.5, np.nan), "NaN"),
        ((0.5, np.inf), "values from 0.5 to inf"),
    ],
)
@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.float64])
def test_floating_point_values_outside_0_to_1_are_refused(upscaler, kind, values, found, dtype):
    image = np.full((4, 4, 3), values[0], dtype)
    image[2, 1, 0] = values[1]
    upscale = {
        "array": upscaler,
        "tensor": lambda image: upscaler(torch.from_numpy(image.transpose(2, 0, 1).copy())),
        "bands": lambda image: list(upscaler.bands(image)),
    }[kind]
    with pytest.raises(ValueError, match=f"image has {found}, but floating-point values must be from 0 to 1: divide"):
        upscale(image)
    image[2, 1, 0] = image[0, 0, 0] = 1 + 1e-6  # rounding
    upscale(np.maximum(image, 0))


def test_a_pillow_image_has_the_levels_of_its_file(upscaler, tmp_path):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, np.full((6, 8), 2048, np.uint16), photometric="minisblack", bitspersample=12, metadata=None)
    with Image.open(path) as image:
        enlarged = np.asarray(upscaler(image))
    np.testing.assert_array_equal(enlarged, upscaler(np.full((6, 8), 32776, np.uint16)))
    header = struct.pack(">IIBBBBB", 8, 4, 2, 0, 0, 0, 0)  # gray of 2 bits
    rows = 2 * b"\0\x3f\x3f" + 2 * b"\0\xff\xff"
    chunks = (b"IHDR", header), (b"tRNS", b"\0\3"), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")
    png = b"".join(
        struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
        for name, content in chunks
    )
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + png)
    with Image.open(tmp_path / "a.png") as image:
        enlarged = upscaler(image)
    assert enlarged.mode == "LA"
    assert np.asarray(enlarged)[-1, -1, 1] == 0
    assert np.asarray(enlarged)[0, 0, 1] == 255  # of level 0, beside those of level 3


def test_bits_that_pillow_has_lost_are_said(tmp_path):
    told = []
    upscaler = Upscaler(tiny_student(), notify=told.append)
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((6, 8, 3), np.uint16), photometric="rgb", metadata=None)
    with Image.open(tmp_path / "a.tif") as image:
        upscaler(image)
    assert len(told) == 1
    assert told[0].startswith("Pillow has reduced 16-bit colours to 8 bits: pass mrda.photo.files.read_photo(path)")
    with Image.open(tmp_path / "a.tif") as image:
        upscaler(image.convert("RGB"))
    assert len(told) == 1


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


# Tiles


def double(scale: int) -> MRDAStudent:
    """A student whose output depends on its surroundings to a degree that no rounding hides."""
    torch.manual_seed(1)
    network = MRDAStudent(scale=scale, **TINY).double()
    for parameter in network.parameters():
        parameter.data *= 2
    return network


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_tiles_give_the_whole_image(scale, channels):
    network = double(scale)
    image = torch.rand(1, channels, 37, 45, dtype=torch.float64)
    whole = Upscaler(network, tile=None)(image)
    reach = network.rdan.reach
    assert reach == 1 + 2 * 4 + 1 + 2
    for tile in (5, 16, 40):
        torch.testing.assert_close(Upscaler(network, tile=tile)(image), whole, rtol=0, atol=1e-12)


def test_a_smaller_pad_is_approximate_and_said_once():
    network, said = double(2), []
    image = torch.rand(1, 3, 40, 40, dtype=torch.float64)
    upscaler = Upscaler(network, tile=20, tile_pad=network.rdan.reach - 1, notify=said.append)
    difference = (upscaler(image) - Upscaler(network, tile=None)(image)).abs().max()
    assert 1e-12 < difference < 0.1
    upscaler(image)
    assert said == ["tiles that see 11 px around themselves only approximate the whole image: the network sees 12 px"]


def test_the_published_network_reaches_112_pixels():
    with torch.device("meta"):
        assert MRDAStudent(scale=4).rdan.reach == 112


@pytest.mark.parametrize(("height", "width"), [(1, 1), (3, 5), (13, 8), (37, 2), (40, 9)])
@pytest.mark.parametrize("rows", [1, 4, 7, 100])
def test_the_degradation_in_strips_is_that_of_the_whole(height, width, rows):
    network = double(2)
    lr = torch.rand(2, 3, height, width, dtype=torch.float64)
    torch.testing.assert_close(network.den.in_strips(lr, rows), network.den(lr), rtol=1e-12, atol=1e-12)


def test_large_images_are_read_in_strips_and_give_the_same(monkeypatch):
    network = double(2)
    image = torch.rand(1, 3, 33, 20, dtype=torch.float64)
    whole = Upscaler(network, tile=None)(image)
    monkeypatch.setattr("mrda.upscale.upscaler.STRIP_PIXELS", 100)
    monkeypatch.setattr(network.den, "forward", None)  # or it could be read as a whole
    torch.testing.assert_close(Upscaler(network, tile=None)(image), whole, rtol=0, atol=1e-12)


def test_automatic_tiles_follow_the_free_memory(monkeypatch):
    network = double(2)
    image = torch.rand(1, 3, 64, 64, dtype=torch.float64)
    whole = Upscaler(network, tile=None)(image)
    sizes = []
    upscaler = Upscaler(network)
    monkeypatch.setattr(PreparedRDAN, "__call__", spy(PreparedRDAN.__call__, sizes))
    upscaler(image)
    assert sizes == [(64, 64)]

    sizes.clear()
    pixels = 48 * 48
    monkeypatch.setattr("mrda.upscale.upscaler.free_memory", lambda device: 2 * pixels * upscaler._bytes_per_pixel())
    monkeypatch.setattr("mrda.upscale.upscaler.ENOUGH_MEMORY", 2**40)
    torch.testing.assert_close(upscaler(image), whole, rtol=0, atol=1e-12)
    assert len(sizes) == 9
    assert max(height * width for height, width in sizes) <= pixels


def test_on_a_cpu_no_more_memory_is_taken_than_makes_it_faster(monkeypatch):
    upscaler = Upscaler(tiny_student())
    monkeypatch.setattr("mrda.upscale.upscaler.free_memory", lambda device: 2**50)
    assert upscaler._memory() == 2**29
    upscaler.tile_pad = 1000  # smaller tiles would be overlap for the most part
    assert upscaler._memory() == 8000**2 * upscaler._bytes_per_pixel()


def test_bands_are_the_rows_of_the_image(rgb):
    upscaler = Upscaler(tiny_student(), tile=3)
    bands = list(upscaler.bands(rgb))
    assert [len(band) for band in bands] == [6, 6, 2]
    np.testing.assert_array_equal(np.concatenate(bands), upscaler(rgb))
    assert next(upscaler.bands(rgb[..., 0])).shape == (6, 20)


def spy(call, sizes):
    def noted(trunk, lr, degradation, **options):
        sizes.append(tuple(lr.shape[2:]))
        return call(trunk, lr, degradation, **options)

    return noted


def test_out_of_memory_halves_the_tiles_and_is_told_once(monkeypatch):
    network, said = double(2), []
    image = torch.rand(1, 3, 60, 70, dtype=torch.float64)
    whole = Upscaler(network, tile=None)(image)
    call = PreparedRDAN.__call__

    def short(trunk, lr, degradation, **options):
        if lr.shape[2] * lr.shape[3] > 45 * 45:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return call(trunk, lr, degradation, **options)

    monkeypatch.setattr(PreparedRDAN, "__call__", short)
    upscaler = Upscaler(network, tile=None, notify=said.append)
    torch.testing.assert_close(upscaler(image), whole, rtol=0, atol=1e-12)
    assert said == ["memory ran out: continuing with tiles of 35 px"]

    monkeypatch.setattr(PreparedRDAN, "__call__", lambda *_, **__: torch.empty(2**60, dtype=torch.uint8))
    with pytest.raises(RuntimeError, match="DefaultCPUAllocator"):
        upscaler(image)


@pytest.mark.parametrize("strip", [2**20, 600])
def test_out_of_memory_halves_the_strips_that_the_degradation_is_read_in(monkeypatch, strip):
    network, said = double(2), []
    image = torch.rand(1, 3, 70, 10, dtype=torch.float64)
    whole = Upscaler(network, tile=None)(image)
    upscaler = Upscaler(network, tile=None, notify=said.append)
    convs = upscaler._prepared.den.convs
    forward = convs.forward

    def short(x):
        if x.shape[2] > 45:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(x)

    monkeypatch.setattr("mrda.upscale.upscaler.STRIP_PIXELS", strip)
    monkeypatch.setattr(convs, "forward", short)
    torch.testing.assert_close(upscaler(image), whole, rtol=0, atol=1e-12)
    assert said == [f"memory ran out: reading the degradation in strips of {35 if strip > 600 else 30} px"]

    monkeypatch.setattr(convs, "forward", lambda _: torch.empty(2**60, dtype=torch.uint8))
    with pytest.raises(RuntimeError, match="DefaultCPUAllocator"):
        upscaler(image)


def test_progress_ends_at_one():
    shares = []
    Upscaler(tiny_student(), tile=8)(np.zeros((20, 20, 3), np.uint8), progress=shares.append)
    assert shares == sorted(shares)
    assert len(shares) == 9 * (2 * TINY["num_blocks"] + 1)  # after each half of a block, and after each tile
    assert shares[-1] == 1


# Precision


def test_half_precision_stays_close_and_the_last_bits_are_float32():
    network = tiny_student()
    image = torch.rand(1, 3, 16, 16)
    exact = Upscaler(network, dtype=torch.float32)(image)
    half = Upscaler(network, dtype=torch.bfloat16)(image)
    assert not torch.equal(half, exact)
    assert (half - exact).abs().max() < 0.02
    assert not torch.equal(half, half.bfloat16().float())  # the last convolution is not rounded to 8 bits


def test_a_network_in_float64_is_run_as_it_is():
    network, lr = double(2), torch.rand(1, 3, 9, 9, dtype=torch.float64)
    sr = Upscaler(network, tile=None, dtype=torch.bfloat16)(lr)
    torch.testing.assert_close(sr, network(lr).detach().clamp(0, 1), rtol=0, atol=1e-12)


def test_values_that_are_not_finite_in_half_precision_are_done_again_in_float32():
    network, said = tiny_student(), []
    network.rdan.head.weight.data *= 1e6  # beyond 65504
    network.rdan.body_tail.weight.data *= 0
    network.rdan.upscaler.last.weight.data *= 1e-6
    image = torch.rand(1, 3, 9, 9)
    exact = Upscaler(network, dtype=torch.float32)(image)
    assert exact.isfinite().all()
    upscaler = Upscaler(network, dtype=torch.float16, notify=said.append)
    assert torch.equal(upscaler(image), exact)
    upscaler(image)
    assert said == ["torch.float16 gave values that are not finite: computing these parts in float32"]


def test_a_degradation_that_is_not_finite_in_half_precision_is_read_again_in_float32():
    network, said = tiny_student(), []
    network.den.convs[0].weight.data *= 1e6
    network.den.convs[2].weight.data *= 1e-6
    image = torch.rand(1, 3, 9, 9)
    upscaler = Upscaler(network, dtype=torch.float16, notify=said.append)
    assert not upscaler._prepared.den(image).isfinite().all()
    assert (upscaler(image) - Upscaler(network, dtype=torch.float32)(image)).abs().max() < 0.01
    assert said == ["torch.float16 gave values that are not finite: computing these parts in float32"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_where_a_graph_pays_an_image_of_one_tile_is_a_single_call(monkeypatch, dtype):
    network, image = tiny_student(), torch.rand(1, 4, 9, 9)
    expected = Upscaler(network, dtype=dtype)(image)
    monkeypatch.setattr("mrda.upscale.upscaler.pays_a_graph", lambda shape, device: shape == (1, 4, 9, 9))
    upscaler = Upscaler(network, dtype=dtype)
    calls = []
    run = upscaler._run
    monkeypatch.setattr(upscaler, "_run", lambda *inputs, **options: calls.append(inputs) or run(*inputs, **options))
    assert torch.equal(upscaler(image), expected)
    assert [len(inputs) for inputs in calls] == [1]


def test_memory_that_runs_out_in_a_single_call_leads_to_tiles(monkeypatch):
    network, said, image = double(2), [], torch.rand(1, 3, 40, 40, dtype=torch.float64)
    whole = Upscaler(network, tile=None)(image)
    monkeypatch.setattr("mrda.upscale.upscaler.pays_a_graph", lambda *_: True)
    upscaler = Upscaler(network, tile=None, notify=said.append)
    run = upscaler._run

    def short(*inputs, **options):
        if len(inputs) == 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return run(*inputs, **options)

    monkeypatch.setattr(upscaler, "_run", short)
    torch.testing.assert_close(upscaler(image), whole, rtol=0, atol=1e-12)
    assert said == ["memory ran out: continuing with tiles of 20 px"]


# Transparency


def test_what_is_hidden_takes_the_nearest_colour():
    colour, alpha = torch.zeros(1, 3, 8, 8), torch.zeros(1, 1, 8, 8)
    colour[..., 6:8] = torch.tensor([0.2, 0.4, 0.6])[None, :, None, None]
    colour[..., :6] = 1.0  # whatever an editor left there
    alpha[..., 6:8] = 1
    filled = fill_transparent(colour, alpha)
    torch.testing.assert_close(filled, colour[..., 7:].expand_as(colour))
    assert torch.equal(fill_transparent(colour, torch.ones_like(alpha)), colour)
    assert not fill_transparent(colour, torch.zeros_like(alpha)).any()


def test_hidden_colours_never_reach_the_result():
    upscaler = Upscaler(tiny_student())
    image = torch.rand(4, 12, 12)
    image[3, :, :6] = 0
    other = image.clone()
    other[:3, :, :6] = torch.rand(3, 12, 6)
    assert torch.equal(upscaler(image), upscaler(other))


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"tile": 0}, ValueError, "tile is 0, but must be at least 1"),
        ({"tile": 1.5}, TypeError, "tile is 1.5, but must be an int"),
        ({"tile_pad": -1}, ValueError, "tile_pad is -1, but must be at least 0"),
        ({"dtype": torch.float64}, ValueError, "dtype is torch.float64, but must be float32, bfloat16 or float16"),
    ],
)
def test_wrong_options_are_refused(options, error, match):
    with pytest.raises(error, match=match):
        Upscaler(tiny_student(), **options)


@pytest.mark.parametrize("channels", [None, 2, 3, 4])
def test_images_of_one_size_are_upscaled_together_as_alone(upscaler, channels, monkeypatch):
    shape = (7, 10) if channels is None else (7, 10, channels)
    random = np.random.default_rng(0)
    images = [random.integers(0, 256, shape, dtype=np.uint8) for _ in range(5)]
    images[1] = images[1].astype(np.uint16) * 257
    batches = []
    bands = upscaler._bands
    monkeypatch.setattr(upscaler, "_bands", lambda lr, *rest: batches.append(len(lr)) or bands(lr, *rest))
    expected = [upscaler(image) for image in images]
    batches.clear()
    monkeypatch.setattr(upscaler, "_memory", lambda: 2 * 70 * upscaler._bytes_per_pixel())
    for sr, alone in zip(upscaler.together(images), expected, strict=True):
        assert sr.dtype == alone.dtype
        assert sr.shape == alone.shape
        white = np.iinfo(alone.dtype).max
        assert np.abs(sr.astype(int) - alone).max() <= white // 255
    assert batches == [2, 2, 1]
    upscaler.tile = 4
    batches.clear()
    upscaler.together(images)
    assert batches == [5]
    with pytest.raises(ValueError, match="images have several shapes"):
        upscaler.together([images[0], images[0][1:]])
