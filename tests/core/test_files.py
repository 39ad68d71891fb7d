import os

import pytest

from mrda.core.files import atomic_write, check_writable, remove_leftovers


def test_the_bytes_are_on_the_disk_before_the_name_is(tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    synced = []

    def fsync(descriptor):
        assert not path.exists()
        synced.append(os.fstat(descriptor).st_size)

    monkeypatch.setattr(os, "fsync", fsync)
    with atomic_write(path) as temporary:
        temporary.write_text("four")
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


def test_leftovers_of_a_file_are_removed_and_nothing_else(tmp_path):
    for name in ("a.txt", ".a.0123abcd.txt", ".a.99999999.txt"):
        (tmp_path / name).write_text(name)
    others = [".a.0123abcd.txt.txt", ".a.0123abcd.json", ".b.0123abcd.txt", ".a.notes.txt", ".ax0123abcd.txt"]
    for name in others:
        (tmp_path / name).write_text(name)
    remove_leftovers(tmp_path / "a.txt")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["a.txt", *others])
    remove_leftovers(tmp_path / "no" / "a.txt")


def test_what_a_kill_leaves_is_a_leftover(tmp_path, monkeypatch):
    def killed():
        with atomic_write(tmp_path / "best.safetensors") as temporary:
            temporary.write_text("half")
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(type(tmp_path), "unlink", lambda *_, **__: None)  # a killed process cleans nothing up
        with pytest.raises(KeyboardInterrupt):
            killed()
    assert [path.suffix for path in tmp_path.iterdir()] == [".safetensors"]
    remove_leftovers(tmp_path / "best.safetensors")
    assert list(tmp_path.iterdir()) == []
