"""The second-order degradation of real photos, and the losses of the networks that are trained on it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from mrda.config.base import Count, PositiveFloat, PositiveInt, Range, Section, Weight

Probability = Annotated[float, Field(ge=0, le=1)]
PositiveRange = tuple[PositiveFloat, PositiveFloat]
KernelFamily = Literal["iso", "aniso", "generalized_iso", "generalized_aniso", "plateau_iso", "plateau_aniso"]

_FAMILIES: list[KernelFamily] = [
    "iso", "aniso", "generalized_iso", "generalized_aniso", "plateau_iso", "plateau_aniso"
]  # fmt: skip
_FAMILY_PROB = [0.45, 0.25, 0.12, 0.03, 0.12, 0.03]


class RealConfig(Section):
    """The second-order degradation (`degradation.type: real`), by the names of Real-ESRGAN's option files.

    Twice blur, resize, noise and JPEG; then a sinc filter and JPEG in either order. A name that ends in 2 is of the
    second round. Standard deviations of noise are on the 0..255 scale.
    """

    kernel_list: Annotated[list[KernelFamily], Field(min_length=1)] = _FAMILIES
    """Families of blur kernels of the first round."""
    kernel_prob: list[Weight] = _FAMILY_PROB
    """Their probabilities."""
    blur_kernel_size: PositiveInt = 21
    """Side of the largest kernel, odd: one of 7, 9, ... up to it is drawn."""
    sinc_prob: Probability = 0.1
    """Probability of a sinc filter in the kernel's place."""
    blur_sigma: PositiveRange = (0.2, 3.0)
    """Range of the kernels' standard deviations in pixels, of each axis for anisotropic ones."""
    betag_range: PositiveRange = (0.5, 4.0)
    """Range of the exponent of generalised Gaussians; half of the draws fall on either side of 1."""
    betap_range: PositiveRange = (1.0, 2.0)
    """Range of the exponent of plateau-shaped kernels."""
    resize_prob: tuple[Weight, Weight, Weight] = (0.2, 0.7, 0.1)
    """Probabilities of enlarging, shrinking and keeping the size."""
    resize_range: PositiveRange = (0.15, 1.5)
    """The smallest and the largest factor."""
    gaussian_noise_prob: Probability = 0.5
    """Probability of Gaussian noise; else it is Poisson noise."""
    noise_range: Range = (1.0, 30.0)
    """Range of the Gaussian noise's standard deviation."""
    poisson_scale_range: Range = (0.05, 3.0)
    """Range of the factor of Poisson noise."""
    gray_noise_prob: Probability = 0.4
    """Probability of the same noise in all channels."""
    jpeg_range: tuple[PositiveFloat, PositiveFloat] = (30.0, 95.0)
    """Range of JPEG's quality, 1 to 100."""
    second_blur_prob: Probability = 0.8
    """Probability of the second blur."""
    kernel_list2: Annotated[list[KernelFamily], Field(min_length=1)] = _FAMILIES
    """As `kernel_list`."""
    kernel_prob2: list[Weight] = _FAMILY_PROB
    """As `kernel_prob`."""
    blur_kernel_size2: PositiveInt = 21
    """As `blur_kernel_size`."""
    sinc_prob2: Probability = 0.1
    """As `sinc_prob`."""
    blur_sigma2: PositiveRange = (0.2, 1.5)
    """As `blur_sigma`."""
    betag_range2: PositiveRange = (0.5, 4.0)
    """As `betag_range`."""
    betap_range2: PositiveRange = (1.0, 2.0)
    """As `betap_range`."""
    resize_prob2: tuple[Weight, Weight, Weight] = (0.3, 0.4, 0.3)
    """As `resize_prob`; the size 1 is that of LR now."""
    resize_range2: PositiveRange = (0.3, 1.2)
    """As `resize_range`."""
    gaussian_noise_prob2: Probability = 0.5
    """As `gaussian_noise_prob`."""
    noise_range2: Range = (1.0, 25.0)
    """As `noise_range`."""
    poisson_scale_range2: Range = (0.05, 2.5)
    """As `poisson_scale_range`."""
    gray_noise_prob2: Probability = 0.4
    """As `gray_noise_prob`."""
    jpeg_range2: tuple[PositiveFloat, PositiveFloat] = (30.0, 95.0)
    """As `jpeg_range`."""
    final_sinc_prob: Probability = 0.8
    """Probability of the last sinc filter."""
    jpeg: Literal["libjpeg", "simulated"] = "libjpeg"
    """What libjpeg does to the last bit or so, or Real-ESRGAN's approximation of it."""
    usm: bool = False
    """Make LR from HR that was sharpened by an unsharp mask, as Real-ESRGAN does; see `visual.l1_gt_usm`."""
    queue_size: Count = 0
    """With `degradation.per: image`: pairs in a pool from which batches are mixed, as Real-ESRGAN's training does
    with 180; a multiple of the batch, and 0 for none."""

    @field_validator("blur_kernel_size", "blur_kernel_size2")
    @classmethod
    def _odd(cls, size: int) -> int:
        if size % 2 == 0 or size < 7:
            raise ValueError(f"must be odd and at least 7, it was {size}")
        return size

    @field_validator(
        *("blur_sigma", "betag_range", "betap_range", "resize_range", "noise_range", "poisson_scale_range"),
        *("blur_sigma2", "betag_range2", "betap_range2", "resize_range2", "noise_range2", "poisson_scale_range2"),
        *("jpeg_range", "jpeg_range2"),
    )
    @classmethod
    def _ascending(cls, bounds: tuple[float, float]) -> tuple[float, float]:
        if bounds[0] > bounds[1]:
            raise ValueError(f"must be [lowest, highest], it was {list(bounds)}")
        return bounds

    @field_validator("jpeg_range", "jpeg_range2")
    @classmethod
    def _qualities(cls, bounds: tuple[float, float]) -> tuple[float, float]:
        if bounds[0] < 1 or bounds[1] > 100:
            raise ValueError(f"must be within 1 and 100, it was {list(bounds)}")
        return bounds

    @model_validator(mode="after")
    def _a_probability_each(self) -> RealConfig:
        for families, probabilities, name in (
            (self.kernel_list, self.kernel_prob, "kernel_prob"),
            (self.kernel_list2, self.kernel_prob2, "kernel_prob2"),
        ):
            if len(families) != len(probabilities) or not sum(probabilities):
                raise ValueError(
                    f"{name} must hold a number for each of the {len(families)} families, not all of them 0, "
                    f"it was {probabilities}"
                )
        for name in ("resize_prob", "resize_prob2"):
            if not sum(getattr(self, name)):
                raise ValueError(f"{name} must not be 0 for all of enlarging, shrinking and keeping")
        return self


class VisualConfig(Section):
    """The visual loss L1 + perceptual + adversarial, in stages that have a `visual_from`."""

    l1_weight: Weight = 1.0
    """Weight of the L1 loss."""
    perceptual_weight: Weight = 1.0
    """Weight of the distance between VGG19 features; 0 needs no VGG19."""
    perceptual_layers: dict[str, Weight] = {
        "conv1_2": 0.1, "conv2_2": 0.1, "conv3_4": 1.0, "conv4_4": 1.0, "conv5_4": 1.0
    }  # fmt: skip
    """Weights of VGG19's layers, before their ReLU."""
    vgg19: Path | None = None
    """Torchvision's published vgg19-dcbb9e9d.pth; null looks in torch's hub cache."""
    gan_weight: Weight = 0.1
    """Weight of the adversarial loss; 0 needs no discriminator."""
    num_feat: PositiveInt = 64
    """Channels of the U-Net discriminator."""
    discriminator_lr: PositiveFloat = 1e-4
    """Learning rate of the discriminator when the visual loss begins; from there it falls as that of the stage does."""
    l1_gt_usm: bool = False
    """Compare with the sharpened HR in the L1 loss; needs `real.usm`."""
    percep_gt_usm: bool = False
    """The same in the perceptual loss."""
    gan_gt_usm: bool = False
    """Show the sharpened HR to the discriminator as real."""

    @property
    def sharpened(self) -> bool:
        """Whether any loss needs the sharpened HR."""
        return self.l1_gt_usm or self.percep_gt_usm or self.gan_gt_usm
