import errno
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms
from recorder import Recorder

import mrda.app.work
from mrda.app.work import Weights, enlarge, look, preview
from mrda.networks import MRDAStudent
from mrda.photo.files import Photo, read_photo, write_photo
from mrda.photo.images import to_tensor
from mrda.photo.lanczos import resample
from mrda.upscale.upscaler import Upscaler

EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 24 16\n%%EndComments\n{} loop\n%%EOF\n"


@pytest.fixture
def out(tmp_path):
    folder = tmp_path / "out"
    folder.mkdir()
    return folder


@pytest.fixture
def enlarged(out):
    def call(upscaler, photo, **options):
        return enlarge(upscaler, photo, out, **{"scale": 2, "max_pixels": 10**6, **options})

    return call


def test_the_file_is_what_the_upscaler_gives_and_the_page_shows_it(upscaler, photo, rgb, out, enlarged):
    result = enlarged(upscaler, photo)
    assert result.file == out / "photo_x2.png"
    assert result.size == result.before.size == result.after.size == (96, 72)
    np.testing.assert_array_equal(read_photo(result.file).pixels, upscaler(rgb))
    np.testing.assert_array_equal(np.asarray(result.after), upscaler(rgb))
    assert result.notices == ()
    assert [path.name for path in out.iterdir()] == ["photo_x2.png"]


def test_another_scale_is_resampled(upscaler, photo, rgb, enlarged):
    result = enlarged(upscaler, photo, scale=1.5)
    assert result.file.name == "photo_x1.5.png"
    expected = np.concatenate(list(resample([upscaler(rgb)], (72, 96), (54, 72))))
    np.testing.assert_array_equal(read_photo(result.file).pixels, expected)
    assert result.before.size == (72, 54)


def test_sixteen_bits_and_metadata_are_kept(upscaler, rgb, tmp_path, enlarged):
    exif = Image.Exif()
    exif[0x010F] = "camera"
    icc = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    gray = rgb[..., 0].astype(np.uint16) * 257 + 1
    like = Photo(gray, exif=exif.tobytes(), dpi=(300.0, 300.0), xmp=b"<x:xmpmeta/>")
    write_photo(tmp_path / "deep.png", [gray], 36, like, format="png")
    result = enlarged(upscaler, tmp_path / "deep.png")
    kept, before = read_photo(result.file), read_photo(tmp_path / "deep.png")
    assert kept.pixels.dtype == np.uint16
    np.testing.assert_array_equal(kept.pixels, upscaler(gray))
    assert (kept.exif, kept.xmp) == (before.exif, before.xmp)
    assert kept.exif is not None
    assert kept.dpi == pytest.approx((300, 300), abs=0.1)
    assert result.after.mode == "RGB"
    write_photo(tmp_path / "wide.png", [rgb], 36, Photo(rgb, icc=icc), format="png")
    shown = enlarged(upscaler, tmp_path / "wide.png")
    assert read_photo(shown.file).icc == shown.before.info["icc_profile"] == shown.after.info["icc_profile"] == icc


def test_what_cannot_be_kept_and_what_the_upscaler_tells_is_noticed(upscaler, tmp_path, enlarged):
    Image.new("CMYK", (48, 36)).save(tmp_path / "print.jpg")
    upscaler.tile, upscaler.tile_pad = 16, 0
    notices = enlarged(upscaler, tmp_path / "print.jpg").notices
    assert notices[0] == "CMYK became RGB"
    assert "only approximate the whole image" in notices[1]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "cannot read bad.png: the file is empty"),
        (b"milk, bread", "cannot read bad.png: it is not an image of a known format"),
        (EPS, "cannot read bad.png: it is PostScript, a program that draws, and no photo"),
        (None, "cannot read bad.png: there is no such file"),
    ],
)
def test_a_photo_that_cannot_be_read_is_named_without_its_folder(upscaler, tmp_path, out, content, reason, enlarged):
    if content is not None:
        (tmp_path / "bad.png").write_bytes(content)
    with pytest.raises(ValueError, match=reason):
        enlarged(upscaler, tmp_path / "bad.png")
    assert not list(out.iterdir())


def test_half_a_photo_is_refused(upscaler, photo, enlarged):
    photo.write_bytes(photo.read_bytes()[:900])
    with pytest.raises(ValueError, match=r"^cannot read photo\.png: "):
        enlarged(upscaler, photo)


def test_a_photo_of_too_many_pixels_is_refused(upscaler, photo, enlarged):
    with pytest.raises(ValueError, match="it has 48 x 36 = 1,728 pixels, more than the 1,727 that are allowed"):
        enlarged(upscaler, photo, max_pixels=1727)
    assert enlarged(upscaler, photo, max_pixels=1728)


def test_a_full_disk_is_told(upscaler, photo, monkeypatch, enlarged):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("mrda.upscale.batch.write_photo", full)
    with pytest.raises(ValueError, match=r"^cannot write photo_x2\.png: the disk is full \(no space left\)$"):
        enlarged(upscaler, photo)


def test_progress_is_told_several_times_in_each_tile(upscaler, photo, enlarged):
    upscaler.tile = 16
    recorder = Recorder()
    enlarged(upscaler, photo, progress=recorder)
    shares = [done for _, done, _ in recorder.told]
    blocks = 2
    assert len(set(shares)) == 1 + 9 * (2 * blocks + 1)
    assert shares == sorted(shares)
    assert shares[-1] == pytest.approx(1)


def test_a_large_result_is_shown_reduced_and_kept_whole(upscaler, photo, monkeypatch, enlarged):
    monkeypatch.setattr(mrda.app.work, "SHOWN_PIXELS", 48 * 36)
    result = enlarged(upscaler, photo)
    assert result.before.size == result.after.size == (48, 36)
    assert result.size == (96, 72)
    assert read_photo(result.file).pixels.shape == (72, 96, 3)


@pytest.fixture
def weights(upscaler, probe, monkeypatch):
    monkeypatch.setattr(mrda.app.work, "make_probe", lambda network: probe)
    return Weights(upscaler, None)


def test_blur_and_modulation_map_are_those_of_the_centre(weights, photo, rgb, probe, monkeypatch):
    monkeypatch.setattr(mrda.app.work, "LOOKED_AT", 40)
    with torch.no_grad():
        lr = to_tensor(rgb[:, 4:44])
        idr = weights.network.degradation(lr)
        expected = weights.network.rdan.modulation_map(lr, idr)
    seen = look(weights, photo, 10**6)
    np.testing.assert_array_equal(seen.modulation, expected[0, 0])
    assert seen.blur == float(probe(idr)) != 1


def test_a_tiny_photo_has_no_blur_that_could_be_told(weights, tmp_path):
    Image.new("RGB", (1, 1)).save(tmp_path / "dot.png")
    assert look(weights, tmp_path / "dot.png", 10**6).blur is None


def test_a_probe_that_is_no_good_estimates_nothing(upscaler, photo, probe, monkeypatch):
    monkeypatch.setattr(mrda.app.work, "make_probe", lambda network: replace(probe, error=1.0))
    assert look(Weights(upscaler, None), photo, 10**6).blur is None


def test_a_network_without_masks_has_no_modulation_map(weights, photo):
    network = MRDAStudent(scale=2, num_feat=8, num_blocks=1, den_width=4, conv_type="static")
    assert look(Weights(Upscaler(network), None), photo, 10**6).modulation is None


def test_a_preview_is_small_and_says_what_suits_the_photo(photo, tmp_path, monkeypatch):
    monkeypatch.setattr(mrda.app.work, "PREVIEW_PIXELS", 24 * 18)
    seen = preview(photo, 10**6)
    assert seen.size == (48, 36)
    assert seen.picture.size == (24, 18)
    assert "noise" in seen.choice.reason
    (tmp_path / "bad.png").write_bytes(b"milk")
    with pytest.raises(ValueError, match=r"^cannot read bad\.png: it is not an image of a known format$"):
        preview(tmp_path / "bad.png", 10**6)
