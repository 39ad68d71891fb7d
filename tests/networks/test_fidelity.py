"""Published weights of natural scale give the published networks' output: within 1e-5 in [0, 1]."""

import official_transcription as official
import pytest
import torch
from cpu_backends import VARIANTS, backend  # noqa: F401 (a fixture)

from mrda.networks import MLN, load_official

TOLERANCE = 1e-5
# The error of float32 is some 2e-6 at full depth. What the tolerance could hide is another matter: see `sensitive`.
HE = 6**0.5
REDUCED = {"feat": 8, "blocks": 2, "width": 4, "mln_feat": 6}


def images(kind, scale, channels, height, width, seed=0):
    """Two samples of what the network takes."""
    generator = torch.Generator().manual_seed(seed)
    lr = torch.rand(2, 3, height, width, generator=generator)
    if kind == "mln":
        return lr, torch.rand(2, 3, scale * height, scale * width, generator=generator)
    return (lr, torch.rand(2, channels, height, width, generator=generator)) if kind == "teacher" else (lr,)


def published(kind, state, scale, inputs):
    """The transcription's output, in float64."""
    function = {"mln": official.mln, "student": official.student, "teacher": official.teacher}[kind]
    return function({key: tensor.double() for key, tensor in state.items()}, *(x.double() for x in inputs), scale)


def sensitive(kind, state, scale, inputs, expected, key):
    """Return True if the output would be off by a hundred times the tolerance if weights named so were left out."""
    broken = {name: 0 * tensor if name.endswith(key) else tensor for name, tensor in state.items()}
    return (published(kind, broken, scale, inputs) - expected).abs().max() > 100 * TOLERANCE


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("kind", ["mln", "student", "teacher"])
def test_published_sizes(kind, scale):
    state = official.official_state(kind, scale, steering=HE)
    inputs = images(kind, scale, 128, 9, 7)
    expected = published(kind, state, scale, inputs)
    if kind != "mln":
        for key in ("E.0.weight", "mlp.2.weight", "compress.0.weight", "kernel.0.weight", "da_conv2.conv.weight"):
            assert sensitive(kind, state, scale, inputs, expected, key), key
    with torch.no_grad():
        got = load_official(state)(*inputs)
    assert got.dtype == torch.float32
    assert (got - expected).abs().max().item() <= TOLERANCE


@pytest.mark.parametrize("backend", VARIANTS, indirect=True)
@pytest.mark.parametrize("options", [{}, {"kernel": 5, "mask": 8}], ids=["published", "mask-per-channel"])
@pytest.mark.parametrize("kind", ["student", "teacher"])
def test_every_backend(kind, options, backend):  # noqa: F811
    sizes = {**REDUCED, **options}
    state = official.official_state(kind, 4, seed=1, steering=HE, **sizes)
    inputs = images(kind, 4, sizes["mln_feat"], 6, 5, seed=1)
    expected = published(kind, state, 4, inputs)
    assert sensitive(kind, state, 4, inputs, expected, "kernel.2.weight")
    network = load_official(state)
    network.rdan.set_backend(backend)
    with torch.no_grad():
        got = network(*inputs)
    assert (got - expected).abs().max().item() <= TOLERANCE


@pytest.mark.parametrize("kind", ["mln", "student", "teacher"])
def test_channels_last(kind):
    state = official.official_state(kind, 4, seed=2, steering=HE, **REDUCED)
    inputs = images(kind, 4, REDUCED["mln_feat"], 6, 5, seed=2)
    expected = published(kind, state, 4, inputs)
    network = load_official(state).to(memory_format=torch.channels_last)
    with torch.no_grad():
        got = network(*(x.contiguous(memory_format=torch.channels_last) for x in inputs))
    assert (got - expected).abs().max().item() <= TOLERANCE


def test_the_adapted_feature_of_the_mln():
    state = official.official_state("mln", 4)
    (lr, _) = images("mln", 4, 0, 9, 7)
    network = load_official(state)
    assert isinstance(network, MLN)
    expected = official.mln_features({key: tensor.double() for key, tensor in state.items()}, lr.double())
    with torch.no_grad():
        assert (network.features(lr) - expected).abs().max().item() <= TOLERANCE
