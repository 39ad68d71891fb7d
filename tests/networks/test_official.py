import json

import official_transcription as official
import pytest
import torch
from safetensors.torch import save_file

from mrda.networks import MLN, MRDAOracle, MRDAStudent, MRDATeacher, load_official, read_official, to_official

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


def with_prefix(state):
    return {f"module.{key}": tensor for key, tensor in state.items()}


WRAPPED = {
    "params": lambda state: {"params": state},
    "params_ema": lambda state: {"params_ema": state},
    "ema of both": lambda state: {"params": {key: 0 * tensor for key, tensor in state.items()}, "params_ema": state},
    "state_dict": lambda state: {"state_dict": state, "epoch": 3, "optimizer": {"state": {}, "param_groups": []}},
    "module": with_prefix,
    "module twice": lambda state: with_prefix(with_prefix(state)),
    "params of module": lambda state: {"params": with_prefix(state)},
    "module of params": lambda state: with_prefix({"params": state}),
    "state_dict of params_ema of module": lambda state: {"state_dict": {"params_ema": with_prefix(state)}},
}


@pytest.mark.parametrize("wrap", WRAPPED.values(), ids=WRAPPED)
@pytest.mark.parametrize("kind", KINDS)
def test_wrapped_state_dicts(tmp_path, kind, wrap):
    state = official.official_state(kind, 2, **SMALL)
    torch.save(wrap(state), tmp_path / "wrapped.pth")
    for source in (wrap(state), tmp_path / "wrapped.pth"):
        read = read_official(source)
        assert read.keys() == state.keys()
        assert all(torch.equal(read[key], tensor) for key, tensor in state.items())
        back = to_official(load_official(source))
        assert all(torch.equal(back[key], tensor) for key, tensor in state.items())


def test_a_dictionary_that_holds_itself_is_refused(tmp_path):
    state = {}
    state["params"] = state
    torch.save(state, tmp_path / "endless.pth")
    with pytest.raises(ValueError, match=r"endless\.pth has its state dict in more than 4 nested wrappers"):
        load_official(tmp_path / "endless.pth")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_published_mean_is_known_by_its_decimals(dtype):
    state = {key: tensor.to(dtype) for key, tensor in official.official_state("student", 2, **SMALL).items()}
    network = load_official(state)
    assert network.hyperparameters["rgb_mean"] == [0.4488, 0.4371, 0.4040]
    assert torch.equal(network.rdan.mean, MRDAStudent().rdan.mean)


def test_the_mean_of_a_half_precision_file_is_its_own():
    state = {key: tensor.half() for key, tensor in official.official_state("student", 2, **SMALL).items()}
    assert torch.equal(load_official(state).rdan.mean.flatten(), state["G.add_mean.bias"].float())


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
        ({}, "hold another network: the keys begin with none, but must"),
        ({"foo.weight": torch.zeros(1)}, "the keys begin with foo, but must"),
        ({"G.head.0.weight": torch.zeros(1)}, "the keys begin with G, but must"),
        ({"epoch": 3}, "has 'epoch': int, but must hold floating point tensors by name only"),
        ({"params": torch.zeros(1)}, "the keys begin with params, but must"),
        ({"params": {"state_dict": {}}}, "hold another network: the keys begin with none, but must"),
        ({"params": {}, "state_dict": {}}, "has both 'params' and 'state_dict', but must have one state dict"),
        ({"params_ema": {}, "state_dict": {}}, "has both 'params_ema' and 'state_dict', but"),
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
            MRDAStudent(num_feat=4, num_blocks=1, den_width=2, conv_type="dasr_da"),
            "conv_type='dasr_da', but official weights imply 'rda'",
        ),
        (
            MRDATeacher(num_feat=4, num_blocks=1, den_width=2, conv_type="static"),
            "conv_type='static', but official weights imply 'rda'",
        ),
        (
            MRDAOracle(num_feat=4, num_blocks=1, den_width=2),
            "the network is MRDAOracle, which has no official key names",
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


def test_to_official_takes_networks_only():
    with pytest.raises(TypeError, match="network is Linear, but must be one of MLN, MRDATeacher, MRDAStudent"):
        to_official(torch.nn.Linear(1, 1))
