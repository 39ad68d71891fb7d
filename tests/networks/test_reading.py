import official_transcription as official
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from mrda.networks import load_network, load_official, read_metadata, read_pickle


def test_missing_and_foreign_files_give_one_sentence(tmp_path):
    for load in (load_official, load_network, read_metadata):
        with pytest.raises(ValueError, match=r"none\.safetensors cannot be read: No such file"):
            load(tmp_path / "none.safetensors")
    with pytest.raises(ValueError, match=r"none\.pt cannot be read: No such file"):
        read_pickle(tmp_path / "none.pt")
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(ValueError, match="hold list, but must hold a state dict"):
        load_official(tmp_path / "list.pth")


@pytest.fixture(scope="module")
def checkpoint_bytes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoints")
    state = official.official_state("mln", 2, mln_feat=1)
    torch.save(state, folder / "zip.pth")
    torch.save(state, folder / "legacy.pth", _use_new_zipfile_serialization=False)
    save_file(state, folder / "flat.safetensors")
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("name", ["zip.pth", "legacy.pth", "flat.safetensors"])
@given(data=st.data())
def test_truncated_files_are_refused(tmp_path_factory, checkpoint_bytes, name, data):
    whole = checkpoint_bytes[name]
    path = tmp_path_factory.mktemp("cut") / name
    # Past the last tensor a legacy file is whole: cut inside the data.
    path.write_bytes(whole[: data.draw(st.integers(0, len(whole) - 2))])
    with pytest.raises(ValueError, match=r"cannot be read|must"):
        load_official(path)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@given(content=st.binary(max_size=200))
def test_garbage_is_refused(tmp_path_factory, content):
    for name in ("x.pth", "x.safetensors"):
        path = tmp_path_factory.mktemp("garbage") / name
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"cannot be read|must"):
            load_official(path)
