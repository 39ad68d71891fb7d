import os

import pytest

from mrda.files import atomic_write, check_writable


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
