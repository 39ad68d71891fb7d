import os
from collections import OrderedDict

import official_transcription as official
import pytest
import torch
from safetensors.torch import load_file, save_file

from mrda.networks import (
    MLN,
    MRDAOracle,
    MRDAStudent,
    convert_weights,
    load_network,
    read_metadata,
    save_network,
    to_official,
)

SMALL = {"feat": 8, "blocks": 2, "width": 4, "mln_feat": 6}
TINY = {"scale": 2, "num_feat": 4, "num_blocks": 1, "den_width": 2}


def same_bits(left, right):
    assert left.keys() == right.keys()
    for key, tensor in left.items():
        assert tensor.dtype == right[key].dtype, key
        assert tensor.shape == right[key].shape, key
        assert torch.equal(tensor.view(torch.int32), right[key].view(torch.int32)), key


@pytest.mark.parametrize("suffix", [".pth", ".pt"])
@pytest.mark.parametrize("kind", ["mln", "student", "teacher"])
def test_from_official_and_back(tmp_path, kind, suffix):
    state = official.official_state(kind, 3, **SMALL)
    start, ours, back = tmp_path / f"start{suffix}", tmp_path / "ours.safetensors", tmp_path / f"back{suffix}"
    torch.save(state, start)
    network = convert_weights(start, ours)
    same_bits(load_network(ours).state_dict(), network.state_dict())
    convert_weights(ours, back)
    loaded = torch.load(back, weights_only=True)
    assert type(loaded) is dict
    same_bits(loaded, state)
    assert sorted(os.listdir(tmp_path)) == sorted(path.name for path in (start, ours, back))


@pytest.mark.parametrize(
    "network",
    [MLN(scale=2, num_feat=4), MRDAStudent(**TINY, mask_channels=4), MRDAStudent(**TINY, rgb_mean=[0, 0.5, 1])],
)
def test_from_ours_and_back(tmp_path, network):
    start, theirs, back = tmp_path / "start.safetensors", tmp_path / "theirs.pth", tmp_path / "back.safetensors"
    said = {"license": "CC0", "stage": "student", "step": "7", "recipe": '{"scale": 2}', "data": "photos"}
    save_network(network, start, **said)
    convert_weights(start, theirs)
    convert_weights(theirs, back)
    same_bits(load_file(back), load_file(start))
    loaded = load_network(back)
    assert type(loaded) is type(network)
    assert loaded.hyperparameters == network.hyperparameters
    assert read_metadata(theirs) == said
    assert {key: value for key, value in read_metadata(back).items() if key in said} == said


def test_the_published_reader_sees_the_tensors_alone(tmp_path):
    network = MLN(scale=2, num_feat=4)
    save_network(network, tmp_path / "ours.safetensors", license="CC0")
    convert_weights(tmp_path / "ours.safetensors", tmp_path / "theirs.pth")
    released = torch.load(tmp_path / "theirs.pth", weights_only=True)
    assert released.keys() == to_official(network).keys()
    holder = torch.nn.Module()
    for key, tensor in released.items():
        parent = holder
        for part in key.split(".")[:-1]:
            if not hasattr(parent, part):
                parent.add_module(part, torch.nn.Module())
            parent = getattr(parent, part)
        parent.register_buffer(key.split(".")[-1], torch.zeros_like(tensor))
    assert not any(holder.load_state_dict(released, strict=True))
    same_bits(holder.state_dict(), released)


@pytest.mark.parametrize("kept", [[1], {"": 3}, {"": {"mrda": [2]}}, {"": {"mrda": {"step": 1, "stage": "student"}}}])
def test_metadata_of_other_shapes_is_ignored(tmp_path, kept):
    state = OrderedDict(to_official(MLN(scale=2, num_feat=2)))
    state._metadata = kept
    torch.save(state, tmp_path / "theirs.pth")
    assert read_metadata(tmp_path / "theirs.pth") in ({}, {"stage": "student"})


def test_the_same_weights_give_the_same_file_whatever_its_name(tmp_path):
    save_network(MLN(num_feat=2), tmp_path / "ours.safetensors")
    convert_weights(tmp_path / "ours.safetensors", tmp_path / "a.pth")
    convert_weights(tmp_path / "ours.safetensors", tmp_path / "b.pt")
    assert (tmp_path / "a.pth").read_bytes() == (tmp_path / "b.pt").read_bytes()


def test_wrapped_files_are_unwrapped(tmp_path):
    state = official.official_state("student", 2, **SMALL)
    wrapped = {f"module.{key}": tensor for key, tensor in state.items()}
    torch.save(
        {"params": {key: 0 * tensor for key, tensor in wrapped.items()}, "params_ema": wrapped}, tmp_path / "w.pth"
    )
    convert_weights(tmp_path / "w.pth", tmp_path / "ours.safetensors")
    convert_weights(tmp_path / "ours.safetensors", tmp_path / "back.pth")
    same_bits(torch.load(tmp_path / "back.pth", weights_only=True), state)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("kind", ["student", "mln"])
def test_narrower_numbers_become_float32_exactly(tmp_path, kind, dtype):
    state = {key: tensor.to(dtype) for key, tensor in official.official_state(kind, 2, **SMALL).items()}
    torch.save(state, tmp_path / "half.pth")
    convert_weights(tmp_path / "half.pth", tmp_path / "ours.safetensors")
    convert_weights(tmp_path / "ours.safetensors", tmp_path / "back.pth")
    back = torch.load(tmp_path / "back.pth", weights_only=True)
    same_bits(back, {key: tensor.float() for key, tensor in state.items()})


def test_wider_numbers_must_fit(tmp_path):
    state = {key: tensor.double() for key, tensor in official.official_state("student", 2, **SMALL).items()}
    torch.save(state, tmp_path / "double.pth")
    convert_weights(tmp_path / "double.pth", tmp_path / "ours.safetensors")
    state["G.head.0.bias"][3] += 1e-12
    torch.save(state, tmp_path / "double.pth")
    with pytest.raises(ValueError, match=r"double\.pth has torch\.float64 numbers in 'G\.head\.0\.bias' that float32"):
        convert_weights(tmp_path / "double.pth", tmp_path / "more.safetensors")
    network = load_network(tmp_path / "ours.safetensors").double()
    save_network(network, tmp_path / "wide.safetensors")
    convert_weights(tmp_path / "wide.safetensors", tmp_path / "back.pth")
    with torch.no_grad():
        network.den.mlp[2].bias += 1e-12
    save_network(network, tmp_path / "wide.safetensors")
    with pytest.raises(ValueError, match=r"wide\.safetensors has torch\.float64 numbers in 'den\.mlp\.2\.bias' that"):
        convert_weights(tmp_path / "wide.safetensors", tmp_path / "more.pth")
    assert not (tmp_path / "more.safetensors").exists()
    assert not (tmp_path / "more.pth").exists()


def test_a_mean_in_float64_that_float32_cannot_hold_is_seen(tmp_path):
    state = {key: tensor.double() for key, tensor in official.official_state("student", 2, **SMALL).items()}
    state["G.add_mean.bias"] = torch.tensor([0.4488, 0.4371, 0.4040], dtype=torch.float64)
    state["G.sub_mean.bias"] = -state["G.add_mean.bias"]
    torch.save(state, tmp_path / "double.pth")
    with pytest.raises(ValueError, match=r"numbers in 'G\.(add|sub)_mean\.bias' that float32 cannot hold"):
        convert_weights(tmp_path / "double.pth", tmp_path / "ours.safetensors")


def test_weights_that_are_not_finite_are_converted_as_they_are(tmp_path):
    state = official.official_state("mln", 2, **SMALL)
    state["head.0.bias"][:2] = torch.tensor([float("nan"), float("-inf")])
    torch.save(state, tmp_path / "nan.pth")
    convert_weights(tmp_path / "nan.pth", tmp_path / "ours.safetensors")
    convert_weights(tmp_path / "ours.safetensors", tmp_path / "back.pth")
    same_bits(torch.load(tmp_path / "back.pth", weights_only=True), state)


@pytest.mark.parametrize(
    ("network", "match"),
    [
        (MRDAStudent(**TINY, dyn_act="none"), "dyn_act='none', but official weights imply 'lrelu'"),
        (MRDAStudent(**TINY, conv_type="static"), "conv_type='static', but official weights imply 'rda'"),
        (MRDAOracle(**TINY), "the network is MRDAOracle, which has no official key names"),
    ],
)
def test_what_the_published_format_cannot_express_is_refused(tmp_path, network, match):
    save_network(network, tmp_path / "ours.safetensors")
    with pytest.raises(ValueError, match=match):
        convert_weights(tmp_path / "ours.safetensors", tmp_path / "theirs.pth")
    assert os.listdir(tmp_path) == ["ours.safetensors"]


@pytest.mark.parametrize(
    ("source", "target"), [("a.pth", "b.pth"), ("a.safetensors", "b.safetensors"), ("a.bin", "b.pt"), ("a.pt", "b")]
)
def test_the_suffixes_must_be_one_of_each_kind(tmp_path, source, target):
    with pytest.raises(ValueError, match=f"one of {source} and {target} must be a .pth or .pt file and the other"):
        convert_weights(tmp_path / source, tmp_path / target)


def test_the_source_is_not_overwritten_through_a_link(tmp_path):
    torch.save(official.official_state("mln", 2, **SMALL), tmp_path / "a.pth")
    before = (tmp_path / "a.pth").read_bytes()
    (tmp_path / "b.safetensors").symlink_to(tmp_path / "a.pth")
    with pytest.raises(ValueError, match="is the file to convert, and would be overwritten"):
        convert_weights(tmp_path / "a.pth", tmp_path / "b.safetensors")
    assert (tmp_path / "a.pth").read_bytes() == before


def test_a_file_of_other_tensors_is_refused(tmp_path):
    save_file({"x": torch.zeros(1)}, tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match=r"a\.safetensors must name architecture and hyperparameters"):
        convert_weights(tmp_path / "a.safetensors", tmp_path / "a.pth")
    with pytest.raises(ValueError, match=r"none\.pth cannot be read: No such file"):
        convert_weights(tmp_path / "none.pth", tmp_path / "b.safetensors")


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    save_network(MLN(num_feat=2), tmp_path / "ours.safetensors")
    (tmp_path / "theirs.pth").write_bytes(b"old")

    def full_disk(descriptor):
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="no space"):
        convert_weights(tmp_path / "ours.safetensors", tmp_path / "theirs.pth")
    assert (tmp_path / "theirs.pth").read_bytes() == b"old"
    assert len(os.listdir(tmp_path)) == 2
