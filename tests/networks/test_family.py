"""DASR and KDSR_S against an independent transcription, and their published state dicts."""

import json
import logging

import family_transcription as published
import pytest
import torch
from safetensors.torch import save_file

from mrda.networks import (
    DASR,
    MODELS,
    BlindNetwork,
    KDSRStudent,
    complexity,
    convert_weights,
    load_any,
    load_network,
    load_official,
    save_network,
    to_official,
)
from mrda.networks.prepared import prepared_den

SMALL = {
    "dasr": {"c": 16, "groups": 3, "blocks": 2, "w": 4},
    "kdsr": {"c": 8, "blocks": 3, "encoder_blocks": 2},
}
KINDS = {"dasr": (DASR, 255.0), "kdsr": (KDSRStudent, 1.0)}
EPS = torch.finfo(torch.float32).eps


def shapes(kind, scale, **sizes):
    return (published.dasr_shapes if kind == "dasr" else published.kdsr_shapes)(scale, **sizes)


def random_state(kind, scale, **sizes):
    return published.random_state(shapes(kind, scale, **sizes), KINDS[kind][1])


def oracle(kind, state, lr, scale, sizes):
    """IDR and SR, in float64, for LR in [0, 1]."""
    state = {key: tensor.double() for key, tensor in state.items()}
    lr = lr.double()
    if kind == "dasr":
        sr = published.dasr(state, 255 * lr, scale, sizes["groups"], sizes["blocks"]) / 255
        return published.dasr_encoder(state, 255 * lr), sr
    blocks, encoder_blocks = sizes["blocks"], sizes["encoder_blocks"]
    return published.kdsr_encoder(state, lr, encoder_blocks), published.kdsr(state, lr, scale, blocks, encoder_blocks)


def close(network, got, expected):
    """Check float32 against float64: each layer adds a few units in the last place of the largest value."""
    layers = sum(1 for module in network.modules() if not list(module.children()))
    assert got.shape == expected.shape
    assert (got - expected).abs().max() <= 8 * layers * EPS * expected.abs().max()


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize(("height", "width"), [(9, 6), (1, 1)])
@pytest.mark.parametrize("kind", KINDS)
def test_they_compute_what_the_published_networks_do(kind, scale, height, width):
    state = random_state(kind, scale, **SMALL[kind])
    lr = torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(1))
    network = load_official(state)
    assert type(network) is KINDS[kind][0]
    assert isinstance(network, BlindNetwork)
    assert network.scale == scale
    idr, sr = oracle(kind, state, lr, scale, SMALL[kind])
    for run, encoder in ((network, network.den), (network.prepare(), prepared_den(network.den))):
        with torch.no_grad():
            close(network, encoder(lr), idr)
            close(network, run(lr), sr)
            assert torch.equal(run(lr), run(lr, encoder(lr)))
        network.train()  # nothing in it depends on that


@pytest.mark.parametrize("kind", KINDS)
def test_their_degradation_is_read_in_strips(kind):
    network = load_official(random_state(kind, 2, **SMALL[kind]))
    lr = torch.rand(1, 3, 61, 8)
    with torch.no_grad():
        torch.testing.assert_close(network.den.in_strips(lr, 5), network.den(lr), rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(prepared_den(network.den).in_strips(lr, 5), network.den(lr), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_pixels_beyond_the_reach_do_not_matter(kind):
    network = load_official(random_state(kind, 2, **SMALL[kind])).double()
    reach = network.rdan.reach
    lr = torch.rand(1, 3, 1, 2 * reach + 3, dtype=torch.float64)
    idr = network.degradation(lr)
    changed = lr.clone()
    changed[..., 0] += 1
    seen = (network(lr, idr) - network(changed, idr)).abs().amax(dim=(0, 1, 2)) > 0
    assert int(seen.nonzero().max()) // 2 == reach


PUBLISHED = {
    ("dasr", 2): (469, 5_690_011, 149.953),
    ("dasr", 3): (469, 5_874_651, 161.070),
    ("dasr", 4): (471, 5_837_723, 185.127),
    ("kdsr-m", 2): (274, 5_647_387, 193.464),
    ("kdsr-m", 3): (274, 5_832_027, 204.581),
    ("kdsr-m", 4): (276, 5_795_099, 228.638),
    ("kdsr-l", 2): (158, 13_600_667, 487.188),
    ("kdsr-l", 3): (158, 14_338_587, 530.653),
    ("kdsr-l", 4): (160, 14_191_003, 625.478),
}
LARGE = {"c": 128, "blocks": 28, "encoder_blocks": 5}


@pytest.mark.parametrize(("name", "scale"), PUBLISHED)
def test_published_sizes(name, scale):
    tensors, parameters, mult_adds = PUBLISHED[name, scale]
    with torch.device("meta"):
        network = MODELS[f"{name}-x{scale}"]()
    expected = shapes(name[:4], scale, **(LARGE if name == "kdsr-l" else {}))
    assert {key: tuple(tensor.shape) for key, tensor in to_official(network).items()} == expected
    assert len(expected) == tensors
    counted = complexity(network)
    assert counted.parameters == parameters
    assert abs(counted.mult_adds / 1e9 - mult_adds) < 1e-3  # G, printed with three decimals


@pytest.mark.parametrize("kind", KINDS)
def test_files_lose_nothing(kind, tmp_path):
    state = random_state(kind, 3, **SMALL[kind])
    torch.save({"params_ema": {f"module.{key}": tensor for key, tensor in state.items()}}, tmp_path / "theirs.pt")
    convert_weights(tmp_path / "theirs.pt", tmp_path / "ours.safetensors")
    network = load_network(tmp_path / "ours.safetensors")
    assert type(network) is KINDS[kind][0]
    assert network.hyperparameters == json.loads(json.dumps(network.hyperparameters))
    convert_weights(tmp_path / "ours.safetensors", tmp_path / "back.pt")
    back = torch.load(tmp_path / "back.pt", weights_only=True)
    assert back.keys() == state.keys()
    for key, tensor in back.items():
        if not key.endswith("num_batches_tracked"):
            torch.testing.assert_close(tensor, state[key], rtol=1e-6 if "_mean." in key else 0, atol=0)
    save_file({key: tensor for key, tensor in state.items() if tensor.is_floating_point()}, tmp_path / "a.safetensors")
    assert type(load_any(tmp_path / "a.safetensors")) is type(network)
    save_network(network, tmp_path / "again.safetensors")


def test_what_only_training_uses_is_ignored_and_named(caplog):
    state = random_state("dasr", 4, **SMALL["dasr"])
    whole = published.with_training_parts(state)
    with caplog.at_level(logging.INFO, logger="mrda.networks.official"):
        network = load_official(whole)
    assert all(name in caplog.text for name in ("E.encoder_k.E.0.weight", "E.queue", "E.queue_ptr", "num_batches"))
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), load_official(state).parameters(), strict=True))


CHANGES = {
    "missing": lambda state: state.pop("G.head.0.bias"),
    "another": lambda state: state.update({"G.head.1.bias": torch.zeros(3)}),
    "another shape": lambda state: state.update({"G.tail.1.bias": torch.zeros(4)}),
    "another colour": lambda state: state.update({"G.add_mean.bias": 1.001 * state["G.add_mean.bias"]}),
    "another matrix": lambda state: state.update({"G.sub_mean.weight": torch.ones(3, 3, 1, 1)}),
    "counter": lambda state: state.update({"E.encoder_q.E.2.num_batches_tracked": torch.tensor(1)}),
    "statistics": lambda state: state.pop(
        next(key for key in ("E.encoder_q.E.4.running_var", "E_st.mlp.2.bias") if key in state)
    ),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize("kind", KINDS)
def test_other_state_dicts_are_refused(kind, change):
    state = random_state(kind, 4, **SMALL[kind])
    load_official(state)
    change(state)
    with pytest.raises(ValueError, match="state dict"):
        load_official(state)


def test_a_teacher_of_kdsr_is_refused():
    state = random_state("kdsr", 4, **SMALL["kdsr"])
    with pytest.raises(ValueError, match="hold a teacher of KDSR, which reads the HR image: give its"):
        load_official({key.replace("E_st.", "E."): tensor for key, tensor in state.items()})
