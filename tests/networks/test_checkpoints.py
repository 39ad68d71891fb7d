import json
import os

import official_transcription as official
import pytest
import torch
from safetensors.torch import save_file

from mrda.networks import (
    MLN,
    MRDAOracle,
    MRDAStudent,
    MRDATeacher,
    load_network,
    load_official,
    read_metadata,
    save_network,
)


def test_a_class_that_only_has_a_networks_name_is_none(tmp_path):
    impostor = type("MLN", (torch.nn.Linear,), {})(1, 1)
    with pytest.raises(TypeError, match="network is MLN, but must be one of"):
        save_network(impostor, tmp_path / "x.safetensors")
    names = "MLN, MRDATeacher, MRDAStudent, MRDAOracle"
    with pytest.raises(TypeError, match=f"network is Linear, but must be one of {names}"):
        save_network(torch.nn.Linear(1, 1), tmp_path / "x.safetensors")


def test_files_from_before_there_were_other_convolutions_load(tmp_path):
    network = small_student(dyn_act="none")
    hyperparameters = network.hyperparameters
    del hyperparameters["conv_type"], hyperparameters["static_groups"]
    metadata = {"architecture": "MRDAStudent", "hyperparameters": json.dumps(hyperparameters)}
    save_file(network.state_dict(), tmp_path / "old.safetensors", metadata)
    loaded = load_network(tmp_path / "old.safetensors")
    assert loaded.hyperparameters == network.hyperparameters
    assert all(torch.equal(loaded.state_dict()[key], tensor) for key, tensor in network.state_dict().items())


def small_student(**options):
    return MRDAStudent(scale=3, num_feat=4, num_blocks=2, den_width=2, **options)


@pytest.mark.parametrize(
    "network",
    [
        MLN(scale=2, num_feat=4, num_body=3),
        MRDATeacher(scale=4, num_feat=4, num_blocks=1, den_width=2, mln_feat=5, kernel_size=5),
        small_student(mask_channels=4, mask_input="F1", dyn_act="none", rgb_mean=(0.1, 0.2, 0.3), rgb_range=2.0),
        small_student(conv_type="dasr_da", dyn_act="none"),
        small_student(conv_type="static", static_groups="dense"),
        MRDAOracle(scale=2, num_feat=4, num_blocks=1, den_width=2, blur_size=5),
    ],
)
def test_saved_networks_come_back(tmp_path, network):
    path = tmp_path / "weights.safetensors"
    save_network(network.to(memory_format=torch.channels_last), path, stage="test")
    loaded = load_network(path, expect=type(network))
    assert type(loaded) is type(network)
    assert loaded.hyperparameters == network.hyperparameters
    for key, tensor in network.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], tensor)
    if not isinstance(network, MLN):
        assert torch.equal(loaded.rdan.mean, network.rdan.mean)
    metadata = read_metadata(path)
    assert metadata["architecture"] == type(network).__name__
    assert metadata["scale"] == str(network.scale)
    assert metadata["stage"] == "test"
    assert os.listdir(tmp_path) == ["weights.safetensors"]


def test_half_precision_files_load_in_float32(tmp_path):
    network = small_student().half()
    save_network(network, tmp_path / "half.safetensors")
    loaded = load_network(tmp_path / "half.safetensors")
    assert {tensor.dtype for tensor in loaded.state_dict().values()} == {torch.float32}
    assert torch.equal(loaded.rdan.head.weight, network.rdan.head.weight.float())


def test_loading_leaves_the_random_generator_alone(tmp_path):
    save_network(small_student(), tmp_path / "x.safetensors")
    before = torch.random.get_rng_state()
    load_network(tmp_path / "x.safetensors")
    load_official(official.official_state("mln", 2, mln_feat=6))
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_failed_save_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "x.safetensors"
    save_network(small_student(), path)
    before = path.read_bytes()

    def full_disk(descriptor):
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="no space"):
        save_network(small_student(), path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["x.safetensors"]


def test_bad_metadata_is_refused(tmp_path):
    with pytest.raises(ValueError, match="'architecture' is written by"):
        save_network(small_student(), tmp_path / "x.safetensors", architecture="mine")
    with pytest.raises(TypeError, match="metadata 'step' is 3, but must be a string"):
        save_network(small_student(), tmp_path / "x.safetensors", step=3)
    assert os.listdir(tmp_path) == []


def test_load_network_refuses_other_files(tmp_path):
    path = tmp_path / "x.safetensors"
    tensors = {key: tensor.clone() for key, tensor in small_student().state_dict().items()}
    good = {"architecture": "MRDAStudent", "hyperparameters": json.dumps(small_student().hyperparameters)}

    def refuse(tensors, metadata, match, **options):
        save_file(tensors, path, metadata)
        with pytest.raises(ValueError, match=match):
            load_network(path, **options)

    refuse(tensors, {}, "must name architecture")
    refuse(tensors, {**good, "architecture": "RCAN"}, "hold 'RCAN', but must hold one of")
    refuse(tensors, good, "hold MRDAStudent, but must hold MLN", expect=MLN)
    for hyperparameters in ("{", "[]", '{"num_feet": 3}', '{"scale": 5}'):
        refuse(tensors, {**good, "hyperparameters": hyperparameters}, "unusable hyperparameters")
    refuse({**tensors, "extra": torch.zeros(1)}, good, "unexpected: extra")
    missing = {key: tensor for key, tensor in tensors.items() if key != "den.mlp.2.bias"}
    refuse(missing, good, "missing: den.mlp.2.bias")
