import hashlib
import json
import os
import weakref
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from recorder import Recorder

from mrda.data.cache import PatchCache
from mrda.data.folders import whole_folder
from mrda.data.prepare import fingerprint, prepare, tile_starts
from mrda.photo.images import read_rgb


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def save(path: Path, pixels: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def index_of(cache: Path) -> dict:
    return json.loads((cache / "index.json").read_text())


@given(length=st.integers(1, 200), size=st.integers(1, 60), data=st.data())
def test_tiles_cover_an_axis_and_overlap(length: int, size: int, data: st.DataObject) -> None:
    overlap = data.draw(st.integers(0, size - 1))
    starts = tile_starts(length, size, overlap)
    if length <= size:
        assert starts == [0]
        return
    assert starts[0] == 0
    assert starts[-1] + size == length
    steps = np.diff(starts)
    assert (steps[:-1] == size - overlap).all()
    assert (steps > 0).all()
    assert steps[-1] <= size - overlap


def test_the_cache_holds_each_photo_once(tmp_path: Path) -> None:
    first = save(tmp_path / "photos" / "a.png", noise(30, 50))
    save(tmp_path / "photos" / "deep" / "b.bmp", noise(30, 50))  # the same picture in another format
    save(tmp_path / "photos" / "deep" / "c.png", noise(12, 40, 1))
    save(tmp_path / "photos" / "d.png", noise(50, 30).reshape(50, 30, 3))  # the same bytes in another shape
    progress = Recorder()
    result = prepare([tmp_path / "photos"], tmp_path / "cache", size=20, overlap=5, progress=progress)
    assert progress.told == [("preparing", done, 4) for done in range(5)]
    assert result.failures == []
    assert result.left_out == [f"{tmp_path}/photos/deep/b.bmp has the same pixels as {first}"]
    index = index_of(tmp_path / "cache")
    assert [Path(photo["name"]).name for photo in index["photos"]] == ["a.png", "d.png", "c.png"]
    assert index["photos"][0]["tiles"] == [[top, left, 20, 20] for top in (0, 10) for left in (0, 15, 30)]
    assert index["photos"][2]["tiles"] == [[0, left, 12, 20] for left in (0, 15, 20)]
    assert index["photos"][0]["sha256"] == hashlib.sha256(b"30x50 " + noise(30, 50).tobytes()).hexdigest()
    assert (
        index["counts"] == result.counts.model_dump() == {"photos": 3, "tiles": 15, "bytes": 3 * (12 * 400 + 3 * 240)}
    )
    assert (index["size"], index["overlap"], index["version"]) == (20, 5, 1)
    assert len(PatchCache(tmp_path / "cache")) == 3


def test_half_of_the_size_overlaps_by_default(tmp_path: Path) -> None:
    photo = save(tmp_path / "a.png", noise(10, 30))
    prepare([photo], tmp_path / "cache", size=11)
    assert index_of(tmp_path / "cache")["overlap"] == 5
    prepare([photo], tmp_path / "cache2")
    assert index_of(tmp_path / "cache2")["size"] == 480
    assert index_of(tmp_path / "cache2")["overlap"] == 240


def test_sixteen_bits_become_eight(tmp_path: Path) -> None:
    levels = np.arange(30, dtype=np.uint16).reshape(5, 6) * 2000
    Image.fromarray(levels).save(tmp_path / "deep.png")
    prepare([tmp_path / "deep.png"], tmp_path / "cache")
    expected = np.round(levels / 257).astype(np.uint8)
    np.testing.assert_array_equal(PatchCache(tmp_path / "cache").tile(0, 0), np.stack([expected] * 3, axis=-1))


def test_unusable_files_are_listed_and_the_others_done(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    save(photos / "a.png", noise(20, 20))
    (photos / "b.png").write_text("milk, bread\n")
    save(photos / "c.png", noise(20, 15, 1))
    truncated = save(photos / "d.png", noise(40, 40, 2))
    truncated.write_bytes(truncated.read_bytes()[:900])
    save(photos / "e.png", noise(16, 20, 3))
    result = prepare([photos, tmp_path / "gone.png"], tmp_path / "cache", min_size=16)
    assert len(result.failures) == 3
    for sentence, name in zip(result.failures, ("b.png", "d.png", "gone.png"), strict=True):
        assert sentence.startswith("cannot read ")
        assert name in sentence
        assert "\n" not in sentence
    assert result.left_out == [f"{photos / 'c.png'} is 15 x 20 px, smaller than 16"]
    assert [Path(name).name for name in PatchCache(tmp_path / "cache").names] == ["a.png", "e.png"]


def test_an_existing_cache_is_replaced_only_where_asked(tmp_path: Path) -> None:
    photo, cache = save(tmp_path / "a.png", noise(20, 20)), tmp_path / "cache"
    prepare([photo], cache, size=10)
    with pytest.raises(ValueError, match="cache exists already: give --overwrite to replace it"):
        prepare([photo], cache)
    assert index_of(cache)["size"] == 10
    prepare([photo], cache, size=12, overwrite=True)
    assert index_of(cache)["size"] == 12
    assert sorted(os.listdir(tmp_path)) == ["a.png", "cache"]


def test_what_is_no_cache_is_never_replaced(tmp_path: Path) -> None:
    photo = save(tmp_path / "photos" / "a.png", noise(20, 20))
    cache = tmp_path / "cache"
    prepare([photo], cache)
    (cache / "notes.txt").write_text("mine")
    (tmp_path / "empty").mkdir()
    for target in (photo, photo.parent, cache, tmp_path / "empty"):
        with pytest.raises(ValueError, match="is not a patch cache, so --overwrite does not replace it"):
            prepare([photo], target, overwrite=True)
    assert photo.exists()
    assert (cache / "notes.txt").exists()


@pytest.mark.parametrize("stop", [KeyboardInterrupt, OSError])
def test_an_interrupted_run_leaves_no_trace(tmp_path: Path, stop: type[BaseException]) -> None:
    photos = tmp_path / "photos"
    for i in range(3):
        save(photos / f"{i}.png", noise(20, 20, i))

    class Stopping(Recorder):
        def advance(self, amount: float = 1, *, note: str = "") -> None:
            if self.told[-1][1] == 2:
                raise stop
            super().advance(amount)

    for overwrite in (False, True):
        with pytest.raises(stop):
            prepare([photos], tmp_path / "cache", overwrite=overwrite, progress=Stopping())
        assert sorted(os.listdir(tmp_path)) == (["cache", "photos"] if overwrite else ["photos"])
        if not overwrite:
            prepare([photos], tmp_path / "cache", size=10)
    assert index_of(tmp_path / "cache")["size"] == 10


def test_no_usable_photo_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_text("milk")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"none of the 1 photos can be used, for instance: cannot read .*a\.png"):
        prepare([tmp_path / "a.png"], tmp_path / "cache")
    assert sorted(os.listdir(tmp_path)) == ["a.png", "empty"]
    with pytest.raises(ValueError, match="sources must name at least one photo"):
        prepare([], tmp_path / "cache")
    with pytest.raises(ValueError, match="holds no image"):
        prepare([tmp_path / "empty"], tmp_path / "cache")


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"size": 0}, ValueError, "size is 0, but must be at least 1"),
        ({"size": 9.5}, TypeError, r"size is 9\.5, but must be an int"),
        ({"min_size": 0}, ValueError, "min_size is 0, but must be at least 1"),
        ({"overlap": -1}, ValueError, "overlap is -1, but must be at least 0"),
        ({"size": 10, "overlap": 10}, ValueError, "overlap is 10, but must be less than size, which is 10"),
    ],
)
def test_wrong_numbers(tmp_path: Path, options: dict, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        prepare([save(tmp_path / "a.png", noise(4, 4))], tmp_path / "cache", **options)
    assert not (tmp_path / "cache").exists()


def test_one_photo_is_in_memory_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alive: list[weakref.ref] = []
    largest = 0

    def read(source):  # type: ignore[no-untyped-def]
        nonlocal largest
        image = read_rgb(source)
        alive.append(weakref.ref(image))
        largest = max(largest, sum(ref() is not None for ref in alive))
        return image

    monkeypatch.setattr("mrda.data.prepare.read_rgb", read)
    for i in range(6):
        save(tmp_path / "photos" / f"{i}.png", noise(20, 20, i))
    prepare([tmp_path / "photos"], tmp_path / "cache", size=10)
    assert largest <= 2  # the last one's name goes only when the next is bound


def test_fingerprints_tell_shapes_apart() -> None:
    assert fingerprint(noise(2, 6)) != fingerprint(noise(2, 6).reshape(6, 2, 3))


def test_a_whole_folder_replaces_nothing_unasked(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    with pytest.raises(FileExistsError), whole_folder(tmp_path / "a") as folder:
        (folder / "x").write_text("new")
    assert os.listdir(tmp_path) == ["a"]
    assert os.listdir(tmp_path / "a") == []
    with whole_folder(tmp_path / "deep" / "b") as folder:
        (folder / "x").write_text("new")
        assert not (tmp_path / "deep" / "b").exists()
    assert (tmp_path / "deep" / "b" / "x").read_text() == "new"
    assert os.listdir(tmp_path / "deep") == ["b"]
