import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mrda.data.cache import CacheError, PatchCache, is_cache
from mrda.data.prepare import prepare


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    Image.fromarray(pixels[:9, :12]).save(tmp_path / "b.png")
    prepare([tmp_path / "a.png", tmp_path / "b.png"], tmp_path / "cache", size=16, overlap=8)
    return tmp_path / "cache"


def change(cache: Path, **values: object) -> None:
    index = json.loads((cache / "index.json").read_text())
    (cache / "index.json").write_text(json.dumps({**index, **values}))


def test_tiles_are_windows_of_the_photos(cache: Path) -> None:
    opened = PatchCache(cache)
    index = json.loads((cache / "index.json").read_text())
    assert len(opened) == 2
    assert opened.names == [str(cache.parent / "a.png"), str(cache.parent / "b.png")]
    for number, photo in enumerate(index["photos"]):
        pixels = np.asarray(Image.open(photo["name"]))
        assert opened.tiles(number) == len(photo["tiles"])
        for i, (top, left, height, width) in enumerate(photo["tiles"]):
            np.testing.assert_array_equal(
                opened.tile(number, i), pixels[top : top + height, left : left + width], strict=True
            )
    assert (cache / "pixels.u8").stat().st_size == index["counts"]["bytes"]


def test_pixels_are_mapped_and_read_only(cache: Path) -> None:
    tile = PatchCache(cache).tile(0, 0)
    assert not tile.flags.writeable
    assert not tile.flags.owndata


def test_what_is_a_cache(cache: Path, tmp_path: Path) -> None:
    assert is_cache(cache)
    assert is_cache(str(cache))
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "index.json").write_text("{}")
    for other in (tmp_path / "photos", tmp_path / "a.png", tmp_path / "nothing", "skimage:cat", "x" * 300, ""):
        assert not is_cache(other)


def truncated(cache: Path) -> None:
    with open(cache / "pixels.u8", "rb+") as file:
        file.truncate(100)


def extended(cache: Path) -> None:
    with open(cache / "pixels.u8", "ab") as file:
        file.write(b"\0")


def half_an_index(cache: Path) -> None:
    text = (cache / "index.json").read_text()
    (cache / "index.json").write_text(text[: len(text) // 2])


def moved_photo(cache: Path) -> None:
    photos = json.loads((cache / "index.json").read_text())["photos"]
    photos[1]["offset"] -= 1
    change(cache, photos=photos)


def no_tiles(cache: Path) -> None:
    photos = json.loads((cache / "index.json").read_text())["photos"]
    photos[1]["tiles"] = []
    change(cache, photos=photos)


def negative_tile(cache: Path) -> None:
    photos = json.loads((cache / "index.json").read_text())["photos"]
    photos[0]["tiles"][0][2] = -16
    change(cache, photos=photos)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (truncated, r"pixels\.u8 has 100 bytes instead of [0-9,]+;"),
        (extended, r"pixels\.u8 has .* bytes instead of"),
        (half_an_index, r"index\.json is not valid JSON"),
        (lambda cache: (cache / "index.json").write_bytes(b"\xff\xfe"), r"index\.json is not valid JSON"),
        (lambda cache: (cache / "index.json").write_text("[1]"), r"index\.json is not a JSON object"),
        (lambda cache: (cache / "index.json").unlink(), r"index\.json can't be read \(No such file"),
        (lambda cache: change(cache, format="photos"), r"index\.json has an invalid value at 'format'"),
        (lambda cache: change(cache, version="x"), r"index\.json has an invalid value at 'version'"),
        (
            lambda cache: change(cache, counts={"photos": 2, "tiles": 9, "bytes": 9}),
            r"the counts in index\.json do not match",
        ),
        (moved_photo, r"the tiles of '.*b\.png' are not in their place"),
        (no_tiles, r"index\.json has an invalid value at 'photos\.1\.tiles'"),
        (lambda cache: change(cache, photos=[]), r"index\.json has an invalid value at 'photos'"),
        (negative_tile, r"index\.json has an invalid value at 'photos\.0\.tiles\.0\.2'"),
    ],
)
def test_damage_is_told_in_one_sentence(cache: Path, damage, words: str) -> None:  # type: ignore[no-untyped-def]
    damage(cache)
    with pytest.raises(CacheError, match=rf"the patch cache {cache} is damaged: {words}") as caught:
        PatchCache(cache)
    assert "\n" not in str(caught.value)


def test_a_later_format_is_told(cache: Path) -> None:
    change(cache, version=2, compression="zip")
    with pytest.raises(CacheError, match="has format 2, but this version of mrda reads at most 1"):
        PatchCache(cache)
