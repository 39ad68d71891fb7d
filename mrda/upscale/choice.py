# SPDX-License-Identifier: Apache-2.0
"""The weights of the package that suit a photo: the purpose of each, and the choice by what can be seen in the photo.

The one place for both: the help of `mrda upscale`, the web page and `-w auto` read it. How well the choice works is
measured by `mrda.paper.studies.choice`. torch is not imported, so that help appears at once.
"""

from __future__ import annotations

from dataclasses import dataclass

from mrda.photo.photo import Photo
from mrda.photo.traces import Traces, traces_of

AUTO = "auto"
"""Name of the choice by the photo, in place of a name of weights."""


@dataclass(frozen=True)
class Purpose:
    """Purpose of weights of the package.

    Attributes:
        title: the kind of photo, on the page.
        suits: the photos that they suit, to follow "for".
        noise: the strongest noise that they suit, as a standard deviation, of 255.
        jpeg_quality: the lowest quality of a JPEG that they suit.
        strength: the strength at which they are applied, see `mrda.upscale.strength`; None for the weights themselves.
    """

    title: str
    suits: str
    noise: float
    jpeg_quality: int
    strength: float | None = None


PURPOSES = {
    "mrda-x4": Purpose("Clean photo", "soft or small photos without noise", noise=3.4, jpeg_quality=76),
    "mrda-x4-noise": Purpose(
        "Noisy photo", "photos with noise, but without JPEG artefacts", noise=60.0, jpeg_quality=76
    ),
    "mrda-x4-real": Purpose(
        "Photo from a phone, the web or an album",
        "photos with JPEG artefacts",
        noise=60.0,
        jpeg_quality=15,
        strength=0.75,
    ),
}
"""By the name of the weights, those that suit the cleanest photos first: the first that suits a photo is chosen."""


@dataclass(frozen=True)
class Choice:
    """Decision on a photo, and the reason.

    Attributes:
        weights: a name of `PURPOSES`; None is Lanczos resampling, for photos that no weights suit.
        reason: what was seen in the photo, in a few words, such as "it has noise".
    """

    weights: str | None
    reason: str

    @property
    def purpose(self) -> Purpose | None:
        """Purpose of the weights."""
        return None if self.weights is None else PURPOSES[self.weights]

    def __str__(self) -> str:
        if self.weights is None:
            return f"{self.reason}, and no weights of the package improve such photos: only resampled"
        return f"{self.reason}: enlarged by {applied(self.weights)}, for {PURPOSES[self.weights].suits}"


def applied(weights: str) -> str:
    """Return a name of `PURPOSES`, with the strength that its weights are applied at if it is not their own."""
    strength = PURPOSES[weights].strength
    return weights if strength is None else f"{weights} at strength {strength:g}"


def choose(photo: Photo) -> Choice:
    """Choose the weights for a photo by its noise and its JPEG compression."""
    return choose_for(traces_of(photo))


def choose_for(traces: Traces) -> Choice:
    """Choose the weights for what was seen in a photo."""
    cleanest = next(iter(PURPOSES.values()))
    seen = []
    if traces.noise > cleanest.noise:
        seen.append(f"noise (about {traces.noise:.0f} of 255)")
    if traces.jpeg_quality < cleanest.jpeg_quality:
        seen.append(f"JPEG artefacts (quality about {traces.jpeg_quality:.0f} of 100)")
    reason = f"it has {' and '.join(seen)}" if seen else "it looks clean"
    for name, purpose in PURPOSES.items():
        if traces.noise <= purpose.noise and traces.jpeg_quality >= purpose.jpeg_quality:
            return Choice(name, reason)
    return Choice(None, reason)
