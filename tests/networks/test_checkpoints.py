import json
import os

import official_transcription as official
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from mrda.networks import (
    MLN,
    MRDAStudent,
    MRDATeacher,
    load_network,
    load_official,
    read_metadata,
    save_network,
    to_official,
)

SMALL = {"feat": 8, "blocks": 2, "width": 4, "mln_feat": 6}
KINDS = {"mln": MLN, "student": MRDAStudent, "teacher": MRDATeacher}
GAN = {"feat": 128, "blocks": 21, "width": 128}


def rounding_budget(network, reference):
    """Bound on the float32 error of a network's output against float64.

    Each layer adds a relative error of a few units in the last place (the summation order of a dot product is
    free, its error grows as sqrt(terms) in practice and is below 8 eps of the layer's scale here), LeakyReLU
    and sigmoid do not amplify it, and the residual additions sum the errors of the layers below: eps times
    layers times 8 times the largest output.
    """
    layers = sum(1 for module in network.modules() if not list(module.children()))
    return 8 * layers * torch.finfo(torch.float32).eps * reference.abs().max().item()


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize(("height", "width"), [(11, 6), (1, 1)])
@pytest.mark.parametrize("kind", KINDS)
def test_official_weights_give_the_published_networks_output(kind, scale, height, width):
    state = official.official_state(kind, scale, **SMALL)
    state64 = {key: tensor.double() for key, tensor in state.items()}
    generator = torch.Generator().manual_seed(1)
    lr = torch.rand(2, 3, height, width, generator=generator)
    network = load_official(state)
    assert type(network) is KINDS[kind]
    assert network.scale == scale
    if kind == "mln":
        lr_up = torch.rand(2, 3, scale * height, scale * width, generator=generator)
        pairs = [
            (network.features(lr), official.mln_features(state64, lr.double())),
            (network(lr, lr_up), official.mln(state64, lr.double(), lr_up.double(), scale)),
        ]
    elif kind == "student":
        pairs = [
            (network.degradation(lr), official.den(state64, "E_st", lr.double())),
            (network(lr), official.student(state64, lr.double(), scale)),
        ]
    else:
        features = torch.randn(2, SMALL["mln_feat"], height, width, generator=generator)
        pairs = [
            (network.degradation(features), official.den(state64, "E", features.double())),
            (network(lr, features), official.teacher(state64, lr.double(), features.double(), scale)),
        ]
    for got, expected in pairs:
        assert got.shape == expected.shape
        assert (got - expected).abs().max().item() <= rounding_budget(network, expected)


def test_the_published_sizes_give_the_published_networks_output():
    state = official.official_state("student", 4)
    lr = torch.rand(1, 3, 6, 5, generator=torch.Generator().manual_seed(2))
    network = load_official(state)
    expected = official.student({key: tensor.double() for key, tensor in state.items()}, lr.double(), 4)
    with torch.no_grad():
        error = (network(lr) - expected).abs().max().item()
    assert error <= 1e-5


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize(
    ("kind", "tensors"),
    [
        ("mln", {2: 18, 3: 18, 4: 20}),
        ("student", {2: 353, 3: 353, 4: 355}),
        ("teacher", {2: 353, 3: 353, 4: 355}),
    ],
)
def test_official_keys_of_the_published_sizes(kind, tensors, scale):
    shapes = official.official_shapes(kind, scale)
    ours = to_official(KINDS[kind](scale=scale))
    assert {key: tuple(tensor.shape) for key, tensor in ours.items()} == shapes
    assert len(ours) == tensors[scale]


@pytest.mark.parametrize("sizes", [SMALL, {**SMALL, "kernel": 5, "mask": 8}, {**SMALL, "blocks": 11, "feat": 3}])
@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("kind", KINDS)
def test_official_round_trip_loses_nothing(kind, scale, sizes):
    state = official.official_state(kind, scale, **sizes)
    back = to_official(load_official(state))
    assert back.keys() == state.keys()
    for key, tensor in state.items():
        assert torch.equal(back[key], tensor), key


def test_sizes_of_the_gan_student_are_recognised():
    network = load_official(official.official_state("student", 4, **GAN))
    assert network.hyperparameters["num_feat"] == 128
    assert network.hyperparameters["num_blocks"] == 21
    assert network.hyperparameters["den_width"] == 128
    assert sum(tensor.numel() for tensor in to_official(network).values()) == 19_587_781


def test_the_mean_shift_is_taken_from_the_file():
    state = official.official_state("student", 2, **SMALL)
    mean = torch.tensor([0.1, 0.2, 0.3])
    state["G.sub_mean.bias"], state["G.add_mean.bias"] = -mean, mean
    network = load_official(state)
    assert torch.equal(network.rdan.mean.flatten(), mean)
    rebuilt = MRDAStudent(**json.loads(json.dumps(network.hyperparameters)))
    assert torch.equal(rebuilt.rdan.mean.flatten(), mean)


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_official_files(tmp_path, prefix, suffix):
    state = official.official_state("teacher", 3, **SMALL)
    path = tmp_path / f"model{suffix}"
    stored = {prefix + key: tensor for key, tensor in state.items()}
    (torch.save if suffix == ".pth" else save_file)(stored, path)
    back = to_official(load_official(path))
    assert all(torch.equal(back[key], tensor) for key, tensor in state.items())


def test_legacy_pickle_files_load(tmp_path):
    state = official.official_state("mln", 2, **SMALL)
    torch.save(state, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    assert isinstance(load_official(tmp_path / "old.pth"), MLN)


def test_missing_extra_and_misshapen_keys_are_all_listed():
    state = official.official_state("student", 4, **SMALL)
    del state["G.body.0.body.1.da_conv2.conv.bias"], state["E_st.mlp.2.bias"]
    state["G.tail.9.weight"] = torch.zeros(3)
    state["G.head.0.bias"] = torch.zeros(9)
    with pytest.raises(ValueError, match="exactly the network's keys") as raised:
        load_official(state)
    message = str(raised.value)
    assert "missing: E_st.mlp.2.bias, G.body.0.body.1.da_conv2.conv.bias" in message
    assert "unexpected: G.tail.9.weight" in message
    assert "G.head.0.bias (9,) instead of (8,)" in message


def changed(key, value):
    state = official.official_state("student", 4, **SMALL)
    state[key] = value
    return state


@pytest.mark.parametrize(
    ("state", "match"),
    [
        ({}, "has keys under none, but must"),
        ({"foo.weight": torch.zeros(1)}, "has keys under foo, but must"),
        ({"G.head.0.weight": torch.zeros(1)}, "has keys under G, but must"),
        ({"params": {}}, "has 'params': dict, but must hold floating point tensors by name only"),
        ({3: torch.zeros(1)}, "has 3: torch.float32, but must hold floating point tensors by name only"),
        (changed("E_st.E.0.bias", torch.zeros(4, dtype=torch.int64)), r"has 'E_st.E.0.bias': torch\.int64, but"),
        (changed("G.tail.0.0.weight", torch.zeros(40, 8, 3, 3)), "2 steps widening by 5"),
        (changed("G.head.0.weight", torch.zeros(())), "impossible shape"),
        (changed("G.head.0.weight", torch.zeros(0, 3, 3, 3)), "impossible shape"),
        (
            changed("G.sub_mean.weight", 2 * torch.eye(3).reshape(3, 3, 1, 1)),
            "in 'G.sub_mean.weight', but must have the identity",
        ),
        (changed("G.sub_mean.bias", torch.zeros(3)), "opposite values"),
        (changed("E.E.0.weight", torch.zeros(1)), "unexpected: E.E.0.weight"),
        (
            changed("G.body.0.body.0.da_conv1.kernel.2.weight", torch.zeros(8 * 16, 8)),
            "state dict has the shapes of an impossible network: kernel_size is 4, but",
        ),
        (
            changed("G.body.0.body.0.da_conv1.conv.weight", torch.zeros(5, 8, 1, 1)),
            "state dict has the shapes of an impossible network: mask_channels is 5, but",
        ),
    ],
)
def test_bad_state_dicts(state, match):
    with pytest.raises(ValueError, match=match):
        load_official(state)


def test_an_impossible_network_is_refused_by_the_files_name(tmp_path):
    torch.save(changed("G.body.0.body.0.da_conv1.kernel.2.weight", torch.zeros(8 * 16, 8)), tmp_path / "odd.pth")
    with pytest.raises(ValueError, match=r"odd\.pth has the shapes of an impossible network"):
        load_official(tmp_path / "odd.pth")


def test_a_class_that_only_has_a_networks_name_is_none(tmp_path):
    impostor = type("MLN", (torch.nn.Linear,), {})(1, 1)
    with pytest.raises(TypeError, match="network is MLN, but must be one of"):
        save_network(impostor, tmp_path / "x.safetensors")


@pytest.mark.parametrize("key", official.official_shapes("student", 2, **{**SMALL, "blocks": 1}))
def test_no_key_may_be_missing(key):
    state = official.official_state("student", 2, **{**SMALL, "blocks": 1})
    del state[key]
    with pytest.raises(ValueError, match=key.rpartition(".")[0]):
        load_official(state)


@pytest.mark.parametrize(
    ("network", "match"),
    [
        (
            MRDAStudent(num_feat=4, num_blocks=1, den_width=2, mask_input="F1"),
            "mask_input='F1', but official weights imply 'F'",
        ),
        (
            MRDAStudent(num_feat=4, num_blocks=1, den_width=2, dyn_act="none"),
            "dyn_act='none', but official weights imply 'lrelu'",
        ),
        (
            MRDAStudent(num_feat=4, num_blocks=1, den_width=2, rgb_range=255.0),
            "rgb_range=255.0, but official weights imply 1.0",
        ),
    ],
)
def test_what_official_keys_cannot_say_is_refused(network, match):
    with pytest.raises(ValueError, match=match):
        to_official(network)


def test_to_official_and_save_network_take_networks_only(tmp_path):
    with pytest.raises(TypeError, match="network is Linear, but must be one of MLN, MRDATeacher, MRDAStudent"):
        to_official(torch.nn.Linear(1, 1))
    with pytest.raises(TypeError, match="network is Linear"):
        save_network(torch.nn.Linear(1, 1), tmp_path / "x.safetensors")


def small_student(**options):
    return MRDAStudent(scale=3, num_feat=4, num_blocks=2, den_width=2, **options)


@pytest.mark.parametrize(
    "network",
    [
        MLN(scale=2, num_feat=4, num_body=3),
        MRDATeacher(scale=4, num_feat=4, num_blocks=1, den_width=2, mln_feat=5, kernel_size=5),
        small_student(mask_channels=4, mask_input="F1", dyn_act="none", rgb_mean=(0.1, 0.2, 0.3), rgb_range=2.0),
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
    load_official(official.official_state("mln", 2, **SMALL))
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


def test_missing_and_foreign_files_give_one_sentence(tmp_path):
    for load in (load_official, load_network, read_metadata):
        with pytest.raises(ValueError, match=r"none\.safetensors cannot be read: No such file"):
            load(tmp_path / "none.safetensors")
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
