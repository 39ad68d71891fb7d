"""The choice of the weights that suit a photo."""

import pytest

from mrda.photo.traces import Traces
from mrda.upscale.choice import PURPOSES, choose_for
from mrda.upscale.weights import BUNDLED

CLEAN, NOISY, REAL = PURPOSES


@pytest.mark.parametrize(
    ("noise", "quality", "weights", "words"),
    [
        (0.4, 100, CLEAN, "it looks clean: enlarged by "),
        (0.4, 95, CLEAN, "it looks clean"),
        (0.4, 76, CLEAN, "it looks clean"),
        (0.4, 75, REAL, "it has JPEG artefacts (quality about 75 of 100): enlarged by mrda-x4-real at strength 0.75"),
        (8.0, 100, NOISY, "it has noise (about 8 of 255): enlarged by "),
        (0.4, 60, REAL, "it has JPEG artefacts (quality about 60 of 100)"),
        (8.0, 60, REAL, "it has noise (about 8 of 255) and JPEG artefacts (quality about 60 of 100)"),
        (0.4, 5, None, "and no weights of the package improve such photos: only resampled"),
    ],
)
def test_noise_and_compression_decide(noise, quality, weights, words):
    choice = choose_for(Traces(noise, quality))
    assert choice.weights == weights
    assert words in str(choice)
    assert (choice.purpose is None) == (weights is None)


def test_each_purpose_has_weights_of_the_package_and_is_chosen_for_them():
    assert set(PURPOSES) <= set(BUNDLED)  # weights of another scale, or for one end of a pair, are chosen by name
    for name, purpose in PURPOSES.items():
        assert choose_for(Traces(purpose.noise, purpose.jpeg_quality)).weights == name
