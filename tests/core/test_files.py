import errno
import io
import os

import pytest

from mrda.core.files import atomic_write, check_writable, remove_leftovers, temporary_key, write_csv, write_text


def test_the_bytes_are_on_the_disk_before_the_name_is(tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    synced = []

    def fsync(descriptor):
        assert not path.exists()
        synced.append(os.fstat(descriptor).st_size)

    monkeypatch.setattr(os, "fsync", fsync)
    with atomic_write(path) as file:
        file.write(b"four")
    assert synced == [4]
    assert path.read_text() == "four"


def test_check_writable_leaves_no_trace(tmp_path):
    check_writable(tmp_path / "a.txt")
    (tmp_path / "b.txt").write_text("kept")
    check_writable(tmp_path / "b.txt")
    assert [path.name for path in tmp_path.iterdir()] == ["b.txt"]
    assert (tmp_path / "b.txt").read_text() == "kept"


@pytest.mark.parametrize("name", ["no/a.txt", "x" * 300])
def test_check_writable_raises_where_writing_would(tmp_path, name):
    with pytest.raises(OSError, match=r"No such file|too long"):
        check_writable(tmp_path / name)


def leave(path, content=b"half"):
    """Leave what a killed process leaves."""

    def killed():
        with atomic_write(path) as file:
            file.write(content)
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(path), "unlink", lambda *_, **__: None)  # a killed process cleans nothing up
        with pytest.raises(KeyboardInterrupt):
            killed()


def test_leftovers_of_a_file_are_removed_and_nothing_else(tmp_path):
    path = tmp_path / "best.safetensors"
    leave(path)
    leave(path)
    leave(tmp_path / "other.safetensors")
    (other,) = set(tmp_path.iterdir()) - set(tmp_path.glob(f".mrda-{temporary_key(path.name)}-*"))
    others = [f"{other.name}.txt", ".best.0123abcd.safetensors", f".mrda-{temporary_key(path.name)}-notes.txt"]
    for name in ("best.safetensors", *others):
        (tmp_path / name).write_text(name)
    remove_leftovers(path)
    assert sorted(file.name for file in tmp_path.iterdir()) == sorted(["best.safetensors", other.name, *others])
    remove_leftovers(tmp_path / "no" / "a.txt")


@pytest.mark.parametrize(
    "name",
    ["n" * 251 + ".png", "\N{CAT FACE}" * 62 + ".png", "a." + "s" * 253, "a"],
    ids=["ascii", "unicode", "suffix", "short"],
)
def test_a_name_may_be_as_long_as_the_file_system_allows(tmp_path, name):
    path = tmp_path / name
    write_text(path, "whole")
    assert path.read_text() == "whole"
    leave(path)
    (leftover,) = set(tmp_path.iterdir()) - {path}
    assert len(os.fsencode(leftover.name)) < 64
    assert leftover.suffix in ("", path.suffix)
    remove_leftovers(path)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("code", [errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS])
def test_a_file_system_that_can_t_sync_loses_no_work(tmp_path, monkeypatch, code):
    def fsync(descriptor):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", fsync)
    write_text(tmp_path / "a.txt", "whole")
    assert (tmp_path / "a.txt").read_text() == "whole"


def test_an_error_of_syncing_keeps_the_old_file(tmp_path, monkeypatch):
    def fsync(descriptor):
        raise OSError(errno.EIO, "Input/output error")

    write_text(tmp_path / "a.txt", "old")
    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(OSError, match="Input/output"):
        write_text(tmp_path / "a.txt", "new")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("a.txt", "old")]


def test_an_error_of_removing_the_rest_does_not_hide_the_first_one(tmp_path, monkeypatch, small_files):
    def unlink(path, missing_ok=False):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), os.fspath(path))

    small_files(1000)
    monkeypatch.setattr(type(tmp_path), "unlink", unlink)
    with pytest.raises(OSError, match=os.strerror(errno.EFBIG)) as raised:
        write_text(tmp_path / "a.txt", "x" * 5000)
    assert raised.value.filename == str(tmp_path / "a.txt")


@pytest.mark.parametrize("made", [RuntimeError, None])
def test_an_error_that_a_writer_hides_is_seen(tmp_path, small_files, made):
    def write(file):
        try:
            file.write(bytes(100_000))
        except OSError:
            if made is not None:
                raise made("unexpected pos 64 vs 0") from None

    (tmp_path / "a.bin").write_bytes(b"old")
    small_files(50_000)
    with pytest.raises(OSError, match="File too large") as raised, atomic_write(tmp_path / "a.bin") as file:
        write(file)
    assert raised.value.errno == errno.EFBIG
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("a.bin", b"old")]


def test_nothing_is_written_behind_the_back_of_the_file(tmp_path):
    with atomic_write(tmp_path / "a.bin") as file, pytest.raises(io.UnsupportedOperation):
        file.fileno()


def test_names_that_are_no_text_keep_their_bytes_in_a_table(tmp_path):
    write_csv(tmp_path / "a.csv", ["image", "psnr"], [[os.fsdecode(b"caf\xe9"), 1.5], ["\N{CAT FACE}", None]])
    assert (tmp_path / "a.csv").read_bytes() == b"image,psnr\ncaf\xe9,1.5\n\xf0\x9f\x90\xb1,\n"
